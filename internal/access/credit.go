package access

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
)

// A server ends a connection on which more waits than its client reads, 64 MiB where
// nothing else is configured: whoever may send to a subject could end the connection that
// receives it. So the server is told how many messages of each subject it may pass on, and
// told anew when those have come. What is more does not leave the server of who sent it,
// and who asked hears that nobody answers, or nothing.
const (
	// subscriptionsEach is how many subscriptions receive one subject: while one is made
	// anew the other takes what comes.
	subscriptionsEach = 2
	// firstCredit is how many messages the first subscriptions to a subject pass on: those
	// of an application with some dozens of subscriptions, when it starts. It is doubled
	// with each that came to its end with messages of the usual size, up to maxCredit.
	firstCredit = 32
	maxCredit   = 256
	// largeMessage is what no engine sends. With the first of it the server is told to
	// stop, and for distrust the messages that are on their way together have no more than
	// distrustedBytes, or are one for each subscription.
	largeMessage    = maxConsumerMessage
	distrust        = 10 * time.Minute
	distrustedBytes = 4 << 20
	// chargedBytes is what one message may have; a larger one counts as so many.
	chargedBytes = 8 << 10
	// creditTick is how often subjects are looked at that wait for credit, and
	// subjectsEvery how often it is asked which subjects there are. The engine asks again
	// for 2 seconds where nobody answers.
	creditTick, subjectsEvery = 50 * time.Millisecond, 250 * time.Millisecond
	// maxArrived is how many messages wait to be looked at. More are dropped.
	maxArrived = 16 << 10
)

// credits receives what is sent to many subjects, of each no faster than it is allowed.
type credits struct {
	conn  *nats.Conn
	group string
	log   *slog.Logger
	// subjects are those to receive now.
	subjects func() []string
	receive  func(*nats.Msg)
	allowed  *allowance

	arrived chan *nats.Msg
	// debtors are who may send, by subject. Only run uses them.
	debtors map[string]*debtor
	// distrusted are families of subjects, of one of which a large message came, and until
	// when: a subject that comes new, or again, is not trusted for that it left. cautious is
	// until when none is that comes, since the connection was lost.
	distrusted map[string]time.Time
	cautious   time.Time
	// failed: the last subscription could not be made.
	failed bool
	// lost tells that the connection was lost.
	lost chan struct{}
}

// debtor is one subject, and who sends to it.
type debtor struct {
	// left is how many messages each subscription still passes on, and credit how many the
	// next one does.
	left   map[*nats.Subscription]int
	credit int
	// distrusted is until when, since a large message came.
	distrusted time.Time
}

// drop gives up all subscriptions that are wanted no more.
func (d *debtor) drop(unwanted func(*nats.Subscription) bool) {
	for sub := range d.left {
		if unwanted(sub) {
			// It fails when the connection is closed, and then nothing arrives anyway.
			_ = sub.Unsubscribe()
			delete(d.left, sub)
		}
	}
}

// count takes a message of a subscription. What is still on its way of one that was given
// up says nothing for who sent it.
func (d *debtor) count(sub *nats.Subscription) {
	left, counted := d.left[sub]
	switch {
	case !counted:
	case left > 1:
		d.left[sub] = left - 1
	default:
		delete(d.left, sub)
		d.credit = min(2*d.credit, maxCredit)
	}
}

func always(*nats.Subscription) bool { return true }

// lossy says that a message was dropped here, so that what is counted on never comes.
func lossy(sub *nats.Subscription) bool {
	dropped, err := sub.Dropped()
	return err == nil && dropped > 0
}

func newCredits(conn *nats.Conn, group string, allowed *allowance, log *slog.Logger, subjects func() []string, receive func(*nats.Msg)) *credits {
	return &credits{
		conn: conn, group: group, log: log, subjects: subjects, receive: receive, allowed: allowed,
		arrived: make(chan *nats.Msg, maxArrived), debtors: map[string]*debtor{}, distrusted: map[string]time.Time{}, lost: make(chan struct{}, 1),
	}
}

// run receives until the context ends.
func (c *credits) run(ctx context.Context) {
	tick := time.NewTicker(creditTick)
	defer tick.Stop()
	asked := time.Now()
	for {
		select {
		case <-ctx.Done():
			c.leave()
			return
		case <-c.lost:
			c.beginAnew()
		case msg := <-c.arrived:
			c.take(msg)
		case now := <-tick.C:
			if now.Sub(asked) >= subjectsEvery {
				asked = now
				c.follow()
				continue
			}
			c.renewAll()
		}
	}
}

// disconnected is for the connection to call when it is lost.
func (c *credits) disconnected(*nats.Conn, error) {
	select {
	case c.lost <- struct{}{}:
	default:
	}
}

// beginAnew trusts nobody: a server may have ended the connection because more came than
// was read, and who sent that may not be known.
func (c *credits) beginAnew() {
	c.cautious = time.Now().Add(distrust)
	for _, d := range c.debtors {
		d.drop(always)
		d.credit = 1
	}
}

// take counts a message, and has it worked on.
func (c *credits) take(msg *nats.Msg) {
	c.allowed.spend(msg.Subject, 1+msg.Size()/chargedBytes)
	now := time.Now()
	if msg.Size() > largeMessage {
		c.distrusted[family(msg.Subject)] = now.Add(distrust)
	}
	if d := c.debtors[msg.Subject]; d != nil {
		d.count(msg.Sub)
		if msg.Size() > largeMessage {
			if now.After(d.distrusted) {
				d.drop(always)
			}
			d.distrusted, d.credit = now.Add(distrust), firstCredit
		}
		c.renew(msg.Subject)
	}
	c.receive(msg)
}

// follow begins with subjects that are new, and leaves those that are gone. It must not
// run beside run.
func (c *credits) follow() {
	now := c.subjects()
	for _, subject := range now {
		if c.debtors[subject] == nil {
			c.debtors[subject] = c.newcomer(subject, time.Now())
		}
	}
	maps.DeleteFunc(c.distrusted, func(_ string, until time.Time) bool { return time.Now().After(until) })
	slices.Sort(now)
	for subject, d := range c.debtors {
		d.drop(lossy)
		if _, wanted := slices.BinarySearch(now, subject); !wanted {
			d.drop(always)
			delete(c.debtors, subject)
		}
	}
	c.renewAll()
}

// newcomer is a subject that nothing is known of but its family.
func (c *credits) newcomer(subject string, now time.Time) *debtor {
	d := &debtor{left: map[*nats.Subscription]int{}, credit: firstCredit, distrusted: c.distrusted[family(subject)]}
	if now.Before(c.cautious) {
		d.credit = 1
	}
	return d
}

// family is what the subjects of all stores of one event namespace share: who may make
// and delete one of them may do so with the others.
func family(subject string) string {
	namespace, _, _ := strings.Cut(subject, "_")
	return namespace
}

func (c *credits) renewAll() {
	for subject := range c.debtors {
		c.renew(subject)
	}
}

// renew subscribes to a subject again as far as its allowance goes.
func (c *credits) renew(subject string) {
	d := c.debtors[subject]
	for len(d.left) < subscriptionsEach && c.allowed.may(subject) {
		count := d.credit
		if time.Now().Before(d.distrusted) {
			count = distrustedCredit(c.conn.MaxPayload())
		}
		sub, err := c.subscribe(subject, count)
		if err != nil {
			if !c.failed {
				c.log.Error("could not receive requests of pods, and tries again", "error", err)
			}
			c.failed = true
			return
		}
		c.failed = false
		d.left[sub] = count
	}
}

func (c *credits) subscribe(subject string, count int) (*nats.Subscription, error) {
	sub, err := c.conn.ChanQueueSubscribe(subject, c.group, c.arrived)
	if err == nil {
		err = sub.AutoUnsubscribe(count)
	}
	if err != nil {
		return nil, fmt.Errorf("subscribe to %s: %w", subject, err)
	}
	return sub, nil
}

// distrustedCredit is how many messages one subscription passes on of who sends large
// ones, where servers take messages of so many bytes.
func distrustedCredit(maxPayload int64) int {
	return int(min(max(distrustedBytes/max(maxPayload, 1)/subscriptionsEach, 1), firstCredit))
}

func (c *credits) leave() {
	for _, d := range c.debtors {
		d.drop(always)
	}
}
