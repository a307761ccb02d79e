package stream

import (
	"maps"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
)

// advisories are the notices of JetStream about streams: what happened and the
// name of the stream are the last tokens.
const advisories = "$JS.EVENT.ADVISORY.STREAM.*.*"

// What happens to a stream that the operator has to look at. Of others, such as
// that a client gave a batch up, there may be any number.
const (
	wasCreated = "CREATED"
	wasUpdated = "UPDATED"
	gotLeader  = "LEADER_ELECTED"
)

var telling = map[string]bool{
	wasCreated: true, wasUpdated: true, gotLeader: true, "DELETED": true, "RESTORE_COMPLETE": true, "QUORUM_LOST": true,
}

// ownNoticeTime is how long the notice of a change of our own is waited for. It
// comes within milliseconds; one that got lost must not hide that of another for
// long.
const ownNoticeTime = 2 * time.Second

// notice is what may be told of a stream.
type notice struct{ what, stream string }

func (c *Conn) advised(msg *nats.Msg) {
	tokens := strings.Split(msg.Subject, ".")
	n := notice{what: tokens[len(tokens)-2], stream: tokens[len(tokens)-1]}
	if !telling[n.what] {
		return
	}
	c.void(n.stream)
	if !c.isOwn(n) {
		c.notify(n.stream)
	}
}

// expected are notices that are about to come, and until when they are waited for.
type expected struct {
	count int
	until time.Time
}

// expect says that a change of our own is about to be told: whoever made it knows.
func (c *Conn) expect(stream string, what ...string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, w := range what {
		n := notice{w, stream}
		c.own[n] = expected{count: c.own[n].count + 1, until: time.Now().Add(ownNoticeTime)}
	}
}

// unexpect takes that back, for a change that failed.
func (c *Conn) unexpect(stream string, what ...string) {
	for _, w := range what {
		c.isOwn(notice{w, stream})
	}
}

// isOwn says so once for each change: the notice of another's change that comes
// first is taken for it, and then ours tells.
func (c *Conn) isOwn(n notice) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.own[n]
	if e.count--; e.count > 0 {
		c.own[n] = e
	} else {
		delete(c.own, n)
	}
	return e.count >= 0 && time.Now().Before(e.until)
}

// firstBuffer holds notifications of first events until they are passed on, which
// takes microseconds. The sweep sees what does not fit.
const firstBuffer = 1024

// When, and as which one of the stream, the server stored a message that it publishes again.
const (
	headerStoredAt = "Nats-Time-Stamp"
	headerStoredAs = "Nats-Sequence"
)

// firstWatch waits for the first event of a store.
type firstWatch struct {
	sub   *nats.Subscription
	since time.Time
}

// WatchFirstEvent wakes the store when its first event is stored, once. Until
// then the loss of a stream is no loss, so that moment must not be missed. It is
// true when the watch is new: what was seen before it may be out of date.
func (c *Conn) WatchFirstEvent(stream, subjects string) (bool, error) {
	if c.watchesFirst(stream) {
		return false, nil
	}
	// Nothing is held meanwhile: a server that is slow would hold up all stores.
	sub, err := c.nc.ChanSubscribe(subjects, c.first)
	if err == nil {
		err = sub.AutoUnsubscribe(1)
	}
	if err == nil {
		err = c.nc.FlushTimeout(requestTimeout)
	}
	if err != nil {
		letGo(sub)
		return false, Retrying(v1alpha1.ReasonUnreachable, "subscribe to the notifications of stream %s: %w", stream, err)
	}
	c.mu.Lock()
	before := c.firstEvents[stream]
	c.firstEvents[stream] = firstWatch{sub: sub, since: time.Now()}
	c.mu.Unlock()
	letGo(before.sub)
	return true, nil
}

func (c *Conn) watchesFirst(stream string) bool {
	c.mu.Lock()
	sub := c.firstEvents[stream].sub
	c.mu.Unlock()
	return sub != nil && sub.IsValid()
}

// KeepFirstEvents waits no more for the first events of streams that are not to be
// kept. Watches that began after a time stay: their stores may be newer than what is
// to be kept.
func (c *Conn) KeepFirstEvents(kept map[string]bool, before time.Time) {
	var gone []*nats.Subscription
	c.mu.Lock()
	maps.DeleteFunc(c.firstEvents, func(stream string, watch firstWatch) bool {
		if kept[stream] || !watch.since.Before(before) {
			return false
		}
		gone = append(gone, watch.sub)
		return true
	})
	c.mu.Unlock()
	for _, sub := range gone {
		letGo(sub)
	}
}

// letGo ends a subscription, where there is one.
func letGo(sub *nats.Subscription) {
	if sub != nil {
		// It has ended by itself, or its connection has.
		_ = sub.Unsubscribe()
	}
}

// awaitFirstEvents tells of stores that have got their first event.
func (c *Conn) awaitFirstEvents() {
	for {
		select {
		case <-c.closed:
			return
		case msg := <-c.first:
			// {stream}.stored.{actorType}.{actorId}
			name, _, _ := strings.Cut(msg.Subject, ".")
			c.void(name)
			c.notifyFirst(name, storedAs(msg.Header))
		}
	}
}

// storedAs is where the server says that it stored a message, the zero place where it does
// not.
func storedAs(header nats.Header) Stored {
	at, err := time.Parse(time.RFC3339Nano, header.Get(headerStoredAt))
	if err != nil {
		return Stored{}
	}
	sequence, err := strconv.ParseUint(header.Get(headerStoredAs), 10, 64)
	if err != nil {
		return Stored{}
	}
	return Stored{Sequence: sequence, Time: at}
}
