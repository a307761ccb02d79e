package stream

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/nats-io/nats.go"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
)

// Permissions are what the operator's user needs in the account of the streams: the
// subjects that it publishes to, and those that it listens on.
type Permissions struct{ Publish, Subscribe []string }

const (
	statzSubject  = "$SYS.REQ.ACCOUNT.PING.STATZ"
	inboxes       = "_INBOX.>"
	ownersSubject = ownerSubject + "*"
	// firstSubjects is where the first event of any store is told.
	firstSubjects = "*.stored.>"
	// snapshots is where the latest versions of actors are stored.
	snapshots = "*.snapshots.*.*"
	// probe stands for what a wildcard does. No store has a stream of that name, and no
	// EventStore that uid.
	probe = "aether-probe"
)

// NeededPermissions are those that the documentation of EventStoreClass lists, for a
// JetStream domain, empty for that of the servers.
func NeededPermissions(domain string) Permissions { return neededPermissions(apiPrefix(domain)) }

func neededPermissions(api string) Permissions {
	needed := Permissions{Subscribe: []string{inboxes, advisories, firstSubjects, ownersSubject}}
	for _, operation := range []string{
		"INFO", "STREAM.LIST", "STREAM.INFO.*", "STREAM.CREATE.*", "STREAM.UPDATE.*", "STREAM.DELETE.*", "STREAM.MSG.GET.*", "DIRECT.GET.*",
	} {
		needed.Publish = append(needed.Publish, api+operation)
	}
	needed.Publish = append(needed.Publish, statzSubject, ownersSubject, snapshots, inboxes)
	return needed
}

func apiPrefix(domain string) string {
	if domain == "" {
		return "$JS.API."
	}
	return "$JS." + domain + ".API."
}

// CheckPermissions tries each permission that the operator's user needs, once on each
// connection, and again while one is missing: what is missing shows else only when it
// is needed, and that of listening never. A server says nothing to who asks, so that
// it is asked for a flush after each. An error is a Fault.
func (c *Conn) CheckPermissions(ctx context.Context) error {
	c.probing.Lock()
	defer c.probing.Unlock()
	// A connection that was made anew may be of another user, as in another account.
	connection := c.nc.Stats().Reconnects + 1
	if c.permitted == connection {
		return nil
	}
	var missing Permissions
	needed := neededPermissions(c.api)
	for _, subject := range needed.Subscribe {
		if denied, err := c.mayNot(ctx, "Subscription", subject, c.tryListen); err != nil {
			return err
		} else if denied {
			missing.Subscribe = append(missing.Subscribe, subject)
		}
	}
	for _, subject := range needed.Publish {
		if denied, err := c.mayNot(ctx, "Publish", subject, c.tryPublish); err != nil {
			return err
		} else if denied {
			missing.Publish = append(missing.Publish, subject)
		}
	}
	if text := missing.String(); text != "" {
		return Stalled(v1alpha1.ReasonPermissionDenied,
			"the NATS user of the operator may not %s: give it the permissions of section Credentials in the documentation of EventStoreClass (docs/eventstoreclass.md), which says what each is for; what needs none of them goes on", text)
	}
	c.permitted = connection
	return nil
}

// String is empty when there are none.
func (p Permissions) String() string {
	var parts []string
	if len(p.Publish) > 0 {
		parts = append(parts, "publish to "+strings.Join(p.Publish, ", "))
	}
	if len(p.Subscribe) > 0 {
		parts = append(parts, "subscribe to "+strings.Join(p.Subscribe, ", "))
	}
	return strings.Join(parts, " and not ")
}

// mayNot tries a subject, and gives what the server says to it: that comes before its
// answer to the flush, and names the verb.
func (c *Conn) mayNot(ctx context.Context, verb, subject string, try func(string) (string, error)) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	tried, err := try(subject)
	if err == nil {
		err = c.nc.FlushWithContext(ctx)
	}
	if err != nil {
		return false, Retrying(v1alpha1.ReasonUnreachable, "try whether the operator may use %s: %w", subject, err)
	}
	refused := func(said string) bool {
		said = strings.ToLower(said)
		return strings.Contains(said, strings.ToLower(verb)) && strings.Contains(said, strings.ToLower(fmt.Sprintf("%q", tried)))
	}
	// The server's last word stands until it says another, to a request of a store
	// perhaps, and is then among those that were passed on.
	if last := c.nc.LastError(); errors.Is(last, nats.ErrPermissionViolation) && refused(last.Error()) {
		return true, nil
	}
	said, _ := c.denial(tried)
	return refused(said), nil
}

func (c *Conn) tryListen(subject string) (string, error) {
	if subject == inboxes {
		subject = c.nc.NewInbox()
	}
	sub, err := c.nc.SubscribeSync(subject)
	if err == nil {
		err = sub.Unsubscribe()
	}
	return subject, err
}

// tryPublish publishes what is no request: it is refused by who may be asked, for its
// body, before anything is done. Nobody is told the answer.
func (c *Conn) tryPublish(subject string) (string, error) {
	if subject == inboxes {
		// As to another operator that asked. The right to answer whoever asked, and no
		// more, is not enough: this operator must hear its own answer too.
		subject = c.nc.NewInbox()
	}
	subject = strings.ReplaceAll(subject, "*", probe)
	return subject, c.nc.Publish(subject, []byte(probe))
}
