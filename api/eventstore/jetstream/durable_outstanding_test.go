package jetstream_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	natsjs "github.com/nats-io/nats.go/jetstream"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/internal/group"
	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/jetstream"
)

// newGroup is a store for the tests of one group, and a way to open it again.
func newGroup(t *testing.T) (js natsjs.JetStream, c jetstream.Config, again func() *jetstream.Store) {
	t.Helper()
	_, c, nc := newStore(t)
	js = jetStreamOf(t, nc)
	return js, c, func() *jetstream.Store { return open(t, sharedServers(t, 1).Connect(t), c) }
}

// Many events are settled above one that a member has in hand all the while, with
// more of its actor among them. Then all members end and others join: the actor goes
// on in order, and nobody else has waited.
func TestDurableManySettledAboveOneInHand(t *testing.T) {
	t.Parallel()
	js, c, again := newGroup(t)
	ctx := deadline(t)
	store := again()
	others, own := sized(100_000, 6_000), sized(1_000, 60)
	opts := eventstore.DurableOptions{AckWait: 10 * time.Second, MaxInHand: 256}
	l := newLedger(t, 10)
	holder := joined(t, store, eventstore.DurableOptions{AckWait: opts.AckWait, MaxInHand: 1})
	saveOf(t, store, "slow-0", 1)
	slow := l.taken(ctx, holder, "slow-0", 1)
	working, stop := context.WithCancel(ctx)
	defer stop()
	extended := make(chan struct{})
	go func() {
		defer close(extended)
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			select {
			case <-working.Done():
				return
			case <-tick.C:
			}
			if err := holder.Extend(working, slow.Event.Sequence); err != nil && working.Err() == nil {
				t.Errorf("extend: %v", err)
			}
		}
	}()
	quick := joined(t, again(), opts)
	worked := make(chan struct{})
	go func() {
		defer close(worked)
		l.work(working, quick, 64, func(eventstore.Delivery) bool { return true })
	}()
	began := time.Now()
	version := int64(1)
	for saved := 0; saved < others; saved += own {
		row := rowOf(fmt.Sprintf("quick%d", saved), own, 1)
		version++
		saveRows(ctx, t, store, append(row, event(fmt.Sprintf("slow-0/%d", version), "slow-0", version)))
	}
	l.await(ctx, others)
	messages, bytes := recordBytes(ctx, t, js, c)
	t.Logf("%d events are done above the one in hand in %.1fs; %d records of %d bytes", others, time.Since(began).Seconds(), messages, bytes)
	if bytes > 64<<10 {
		t.Errorf("the records have %d bytes", bytes)
	}
	stop()
	<-extended
	<-worked
	for _, member := range []eventstore.DurableSubscription{holder, quick} {
		if err := member.Close(); err != nil {
			t.Fatal(err)
		}
	}
	// The new ones have a coordinator of their own.
	member := joined(t, again(), opts)
	saveOf(t, store, "new-0", 1)
	rest, enough := context.WithCancel(ctx)
	defer enough()
	done := make(chan struct{})
	go func() {
		defer close(done)
		l.work(rest, member, 8, func(eventstore.Delivery) bool { return true })
	}()
	l.await(ctx, others+int(version)+1)
	enough()
	<-done
	wantNothing(ctx, t, member)
}

// Many events of as many actors are given back for long. A new event of another actor
// comes at once, also of members that join later; and when they are due, they come.
func TestDurableManyGivenBack(t *testing.T) {
	t.Parallel()
	js, c, again := newGroup(t)
	ctx := deadline(t)
	store := again()
	actors := sized(10_000, 1_500)
	const due = 50
	opts := eventstore.DurableOptions{MaxInHand: 256}
	saveRows(ctx, t, store, rowOf("slow", actors, 1))
	saveRows(ctx, t, store, rowOf("slow", actors, 2))
	l := newLedger(t, eventstore.DefaultMaxDeliveries)
	member := joined(t, store, opts)
	l.giveBack(ctx, member, actors, time.Hour)
	messages, bytes := recordBytes(ctx, t, js, c)
	t.Logf("%d actors wait: %d records of %d bytes", actors, messages, bytes)
	if limit := uint64(actors*300 + 256*300); bytes > limit {
		t.Errorf("the records have %d bytes, want %d at most", bytes, limit)
	}
	l.workedOff(ctx, member, func() { saveOf(t, store, "quick-0", 1) }, func() bool { return l.done["quick-0"] == 1 })
	saveRows(ctx, t, store, rowOf("due", due, 1))
	saveRows(ctx, t, store, rowOf("due", due, 2))
	l.giveBack(ctx, member, due, 3*time.Second)
	if err := member.Close(); err != nil {
		t.Fatal(err)
	}
	member = joined(t, again(), opts)
	l.workedOff(ctx, member, func() { saveOf(t, store, "quick-0", 2) }, func() bool { return l.done["quick-0"] == 2 })
	l.workedOff(ctx, member, func() {}, func() bool { return l.settled == 2+2*due })
	wantNothing(ctx, t, member)
}

// workedOff has a member work until something is so.
func (l *ledger) workedOff(ctx context.Context, member eventstore.DurableSubscription, begin func(), done func() bool) {
	l.Helper()
	working, stop := context.WithCancel(ctx)
	defer stop()
	ended := make(chan struct{})
	began := time.Now()
	go func() {
		defer close(ended)
		l.work(working, member, 8, func(eventstore.Delivery) bool { return true })
	}()
	begin()
	l.until(ctx, done)
	stop()
	<-ended
	l.Logf("it took %.2fs", time.Since(began).Seconds())
}

// giveBack takes so many events and gives each back for a time.
func (l *ledger) giveBack(ctx context.Context, member eventstore.DurableSubscription, events int, delay time.Duration) {
	l.Helper()
	working, stop := context.WithCancel(ctx)
	defer stop()
	given := make(chan struct{}, events)
	done := make(chan struct{})
	go func() {
		defer close(done)
		l.work(working, member, 64, func(d eventstore.Delivery) bool {
			if err := member.Nak(ctx, d.Event.Sequence, delay, "later"); err != nil {
				l.Errorf("give back %d: %v", d.Event.Sequence, err)
			}
			given <- struct{}{}
			return false
		})
	}()
	for range events {
		select {
		case <-given:
		case <-ctx.Done():
			l.Fatal(ctx.Err())
		}
	}
	stop()
	<-done
}

// A group that has no room for more that waits refuses what is given back, which stays in
// hand, and ends no member. Once some of it is done, others are delivered.
func TestDurableFull(t *testing.T) {
	t.Parallel()
	_, again := newGroupOn(t, limited(t, 128<<10))
	ctx := deadline(t)
	store := again()
	// All in one shard, and more than it takes.
	const actors = 500
	var events []eventstore.Event
	for n := 0; len(events) < actors; n++ {
		actor := fmt.Sprintf("full-%d-%0240d", n, 0)
		if group.ShardOf("full."+actor) == 7 {
			events = append(events, event(fmt.Sprintf("%d", n), actor, 1))
		}
	}
	saveRows(ctx, t, store, events)
	member := joined(t, store, eventstore.DurableOptions{MaxInHand: 512, MaxDeliveries: 1000})
	l := newLedger(t, 1000)
	working, stop := context.WithCancel(ctx)
	defer stop()
	refused, given := 0, map[uint64]bool{}
	worked := make(chan struct{})
	go func() {
		defer close(worked)
		l.work(working, member, 64, func(d eventstore.Delivery) bool {
			l.mu.Lock()
			// What comes again before there are too many is given back once more.
			again := given[d.Event.Sequence] && refused > 0
			given[d.Event.Sequence] = true
			l.mu.Unlock()
			if again {
				return true
			}
			err := member.Nak(ctx, d.Event.Sequence, 4*time.Second, "later")
			if err != nil && !errors.Is(err, eventstore.ErrTooManyParked) {
				t.Errorf("give back: %v", err)
			}
			l.mu.Lock()
			defer l.mu.Unlock()
			if err != nil {
				refused++
			}
			return err != nil
		})
	}()
	l.until(ctx, func() bool { return refused > 0 })
	saveOf(t, store, "quick-0", 1)
	l.await(ctx, actors)
	l.until(ctx, func() bool { return given[actors+1] })
	stop()
	<-worked
	t.Logf("%d were refused", refused)
}
