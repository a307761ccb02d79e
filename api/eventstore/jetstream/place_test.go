package jetstream_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/jetstream"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv/natsserver"
)

func subscribe(t *testing.T, store *jetstream.Store, opts eventstore.SubscribeOptions) eventstore.Subscription {
	t.Helper()
	sub, err := store.Subscribe(deadline(t), opts)
	if err != nil {
		t.Fatalf("subscribe %+v: %v", opts, err)
	}
	t.Cleanup(func() { _ = sub.Close() })
	return sub
}

func wantPosition(t *testing.T, sub eventstore.Subscription, want uint64) {
	t.Helper()
	if position, known := sub.Position(); !known || position != want {
		t.Errorf("position %d (%v), want %d", position, known, want)
	}
}

// A place whose events have expired is told, and one at the end of a stream that has
// no event left is none of these.
func TestPlaceExpired(t *testing.T) {
	t.Parallel()
	onSystems(t, func(t *testing.T, cluster *natsserver.Cluster, replicas int) {
		nc := cluster.Connect(t)
		c := config()
		createStreams(t, nc, streamConfigs(c, replicas)...)
		store := open(t, nc, c)
		save(t, store, event("a", "order-1", 1), event("b", "order-1", 2), event("c", "item-1", 1))
		expire(t, nc, c, replicas)
		for range 2 {
			for _, opts := range []eventstore.SubscribeOptions{{}, {ActorID: "order-1"}, {ActorType: "other"}, {EventType: "Other"}} {
				for from, want := range map[uint64]error{1: eventstore.ErrPlaceExpired, 3: eventstore.ErrPlaceExpired, 6: eventstore.ErrPlaceAhead} {
					opts.FromSequence = from
					if _, err := store.Subscribe(deadline(t), opts); !errors.Is(err, want) {
						t.Errorf("%+v: %v, want %v", opts, err, want)
					}
				}
				opts.FromSequence = 4
				wantPosition(t, subscribe(t, store, opts), 3)
				opts.FromSequence = 0
				wantPosition(t, subscribe(t, store, opts), 3)
			}
			// The same with an event after the place.
			if version, err := store.GetLatestVersion(deadline(t), "order-2"); err != nil || version > 0 {
				continue
			}
			now := subscribe(t, store, eventstore.SubscribeOptions{FromNow: true})
			wantPosition(t, now, 3)
			save(t, store, event("d", "order-2", 1))
			if e, err := now.Next(deadline(t)); err != nil || e.ID != "d" {
				t.Fatalf("%q, %v", e.ID, err)
			}
		}
	})
}

// A subscriber that is slower than its events expire is told, and not led past them.
func TestPlaceExpiresUnderASubscriber(t *testing.T) {
	t.Parallel()
	nc := sharedServers(t, 1).Connect(t)
	c := config()
	createStreams(t, nc, streamConfigs(c, 1)...)
	store := open(t, nc, c)
	const sent = 1000
	for n := range sent {
		save(t, store, event(fmt.Sprint(n), "order-1", 0))
	}
	slow := subscribe(t, store, eventstore.SubscribeOptions{})
	if e, err := slow.Next(deadline(t)); err != nil || e.Sequence != 1 {
		t.Fatalf("sequence %d, %v", e.Sequence, err)
	}
	expire(t, nc, c, 1)
	save(t, store, event("last", "order-1", 0))
	for last := uint64(1); ; {
		e, err := slow.Next(deadline(t))
		if errors.Is(err, eventstore.ErrPlaceExpired) {
			wantPosition(t, slow, last)
			return
		}
		if err != nil || e.Sequence != last+1 {
			t.Fatalf("sequence %d after %d: %v", e.Sequence, last, err)
		}
		last = e.Sequence
	}
}

// An event that was erased is none that has expired: the subscription goes on.
func TestErasedIsNotExpired(t *testing.T) {
	t.Parallel()
	store, c, nc := newStore(t)
	save(t, store, event("a", "order-1", 1), event("b", "order-1", 2), event("c", "order-1", 3))
	js := jetStreamOf(t, nc)
	stream, err := js.Stream(deadline(t), c.EventsStream)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.DeleteMsg(deadline(t), 2); err != nil {
		t.Fatal(err)
	}
	sub := subscribe(t, store, eventstore.SubscribeOptions{FromSequence: 1})
	for _, want := range []uint64{1, 3} {
		if e, err := sub.Next(deadline(t)); err != nil || e.Sequence != want {
			t.Fatalf("sequence %d (%v), want %d", e.Sequence, err, want)
		}
	}
	wantPosition(t, subscribe(t, store, eventstore.SubscribeOptions{FromSequence: 2}), 1)
}

// A subscription whose stream was made anew is ahead of it, and says so.
func TestPlaceAheadOfAStreamMadeAnew(t *testing.T) {
	t.Parallel()
	nc := sharedServers(t, 1).Connect(t)
	c := config()
	createStreams(t, nc, streamConfigs(c, 1)...)
	store := open(t, nc, c)
	save(t, store, event("a", "order-1", 1), event("b", "order-1", 2))
	sub := subscribe(t, store, eventstore.SubscribeOptions{})
	for range 2 {
		if _, err := sub.Next(deadline(t)); err != nil {
			t.Fatal(err)
		}
	}
	js := jetStreamOf(t, nc)
	if err := js.DeleteStream(deadline(t), c.EventsStream); err != nil {
		t.Fatal(err)
	}
	if err := natsserver.CreateStream(deadline(t), js, streamConfigs(c, 1)[0]); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(deadline(t), time.Minute)
	defer cancel()
	if e, err := sub.Next(ctx); !errors.Is(err, eventstore.ErrPlaceAhead) {
		t.Errorf("sequence %d, %v, want a place ahead", e.Sequence, err)
	}
}
