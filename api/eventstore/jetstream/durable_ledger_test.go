package jetstream_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"sync"
	"testing"
	"time"

	natsjs "github.com/nats-io/nats.go/jetstream"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/jetstream"
)

// full has the tests of durable subscriptions work the numbers of events that they are
// to stand. Without it they are smaller.
var full = flag.Bool("full", false, "test durable subscriptions with all events, not with some")

// sized is one number with -full and another without.
func sized(all, some int) int {
	if *full {
		return all
	}
	return some
}

// ledger checks what the members of a group are given: the events of each actor in
// order, none again that was acknowledged, and none too often.
type ledger struct {
	*testing.T
	mu sync.Mutex
	// done is the last version of an actor of which Ack has returned nil, and tried the
	// last of which it was called.
	done, tried map[string]int64
	given       map[uint64]int
	acked       map[uint64]bool
	most        int
	// settled is how many events are done.
	settled int
	// changed is closed when one is, and replaced.
	changed chan struct{}
}

func newLedger(t *testing.T, most int) *ledger {
	return &ledger{
		T: t, done: map[string]int64{}, tried: map[string]int64{}, given: map[uint64]int{}, acked: map[uint64]bool{}, most: most, changed: make(chan struct{}),
	}
}

// take notes what a member was given.
func (l *ledger) take(d eventstore.Delivery) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := d.Event
	if e.Version <= l.done[e.ActorID] {
		l.Errorf("version %d of %s comes again, and was acknowledged", e.Version, e.ActorID)
	}
	if e.Version > l.tried[e.ActorID]+1 {
		l.Errorf("version %d of %s comes after %d", e.Version, e.ActorID, l.tried[e.ActorID])
	}
	if l.given[e.Sequence]++; l.given[e.Sequence] > l.most || d.Attempt > l.most {
		l.Errorf("version %d of %s comes for the %d. time, as attempt %d, and may %d times", e.Version, e.ActorID, l.given[e.Sequence], d.Attempt, l.most)
	}
}

// ack acknowledges an event. One that is in another's hand meanwhile comes again.
func (l *ledger) ack(ctx context.Context, member eventstore.DurableSubscription, e eventstore.Event) error {
	l.mu.Lock()
	l.tried[e.ActorID] = max(l.tried[e.ActorID], e.Version)
	l.mu.Unlock()
	if err := member.Ack(ctx, e.Sequence); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	// Another member may have been faster with the next one.
	l.done[e.ActorID] = max(l.done[e.ActorID], e.Version)
	if !l.acked[e.Sequence] {
		l.acked[e.Sequence] = true
		l.settled++
	}
	close(l.changed)
	l.changed = make(chan struct{})
	return nil
}

// await returns when so many events are done.
func (l *ledger) await(ctx context.Context, settled int) {
	l.Helper()
	l.until(ctx, func() bool { return l.settled >= settled })
}

// until returns when something is so.
func (l *ledger) until(ctx context.Context, so func() bool) {
	l.Helper()
	for {
		l.mu.Lock()
		is, count, changed := so(), l.settled, l.changed
		l.mu.Unlock()
		if is {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			l.Fatalf("%d events are done, and more are wanted: %v", count, ctx.Err())
		}
	}
}

// work takes events of a member, some at once, until the context ends. What handle
// answers true for is acknowledged.
func (l *ledger) work(ctx context.Context, member eventstore.DurableSubscription, atOnce int, handle func(eventstore.Delivery) bool) {
	var working sync.WaitGroup
	for range atOnce {
		working.Go(func() {
			for {
				d, err := member.Next(ctx)
				if err != nil {
					if ctx.Err() == nil {
						l.Errorf("next: %v", err)
					}
					return
				}
				l.take(d)
				if !handle(d) {
					continue
				}
				if err := l.ack(ctx, member, d.Event); err != nil && ctx.Err() == nil && !errors.Is(err, eventstore.ErrNotInHand) && !errors.Is(err, eventstore.ErrUnavailable) {
					l.Errorf("ack %d: %v", d.Event.Sequence, err)
				}
			}
		})
	}
	working.Wait()
}

// taken wants this event to come next.
func (l *ledger) taken(ctx context.Context, member eventstore.DurableSubscription, actor string, version int64) eventstore.Delivery {
	l.Helper()
	d, err := member.Next(ctx)
	if err != nil {
		l.Fatalf("next: %v", err)
	}
	l.take(d)
	if d.Event.ActorID != actor || d.Event.Version != version {
		l.Fatalf("version %d of %s comes, want %d of %s", d.Event.Version, d.Event.ActorID, version, actor)
	}
	return d
}

// wantNothing wants no event to come for a while: whatever could come has had the
// time that others took to come.
func wantNothing(ctx context.Context, t *testing.T, member eventstore.DurableSubscription) {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
	defer cancel()
	if d, err := member.Next(ctx); err == nil {
		t.Errorf("version %d of %s comes, want nothing", d.Event.Version, d.Event.ActorID)
	}
}

// saveRows saves events of many actors, as many at once as go into one batch.
func saveRows(ctx context.Context, t *testing.T, store *jetstream.Store, events []eventstore.Event) {
	t.Helper()
	for len(events) > 0 {
		some := events[:min(len(events), 500)]
		if _, err := store.SaveEvents(ctx, some); err != nil {
			t.Fatal(err)
		}
		events = events[len(some):]
	}
}

// rowOf are events of one version of many actors.
func rowOf(prefix string, actors int, version int64) []eventstore.Event {
	var events []eventstore.Event
	for n := range actors {
		actor := fmt.Sprintf("%s-%d", prefix, n)
		events = append(events, event(fmt.Sprintf("%s/%d", actor, version), actor, version))
	}
	return events
}

// recordBytes are those of all records of durable subscriptions of a store that has
// no snapshots.
func recordBytes(ctx context.Context, t *testing.T, js natsjs.JetStream, c jetstream.Config) (messages, bytes uint64) {
	t.Helper()
	stream, err := js.Stream(ctx, c.SnapshotsStream)
	if err != nil {
		t.Fatal(err)
	}
	state := stream.CachedInfo().State
	return state.Msgs, state.Bytes
}
