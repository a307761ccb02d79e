package jetstream_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/jetstream"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv/natsserver"
)

func saveOf(t *testing.T, store *jetstream.Store, actor string, version int64) uint64 {
	t.Helper()
	saved, err := store.SaveEvent(deadline(t), event(fmt.Sprintf("%s-%d", actor, version), actor, version))
	if err != nil {
		t.Fatal(err)
	}
	return saved.Sequence
}

func joined(t *testing.T, store *jetstream.Store, opts eventstore.DurableOptions) eventstore.DurableSubscription {
	t.Helper()
	if opts.Name == "" {
		opts.Name = "projection"
	}
	member, err := store.SubscribeDurable(deadline(t), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = member.Close() })
	return member
}

// Events that were erased while they waited hold up nobody, however many members
// there are.
func TestDurableSkipsWhatWasErased(t *testing.T) {
	t.Parallel()
	store, c, nc := newStore(t)
	js := jetStreamOf(t, nc)
	ctx := deadline(t)
	const actors = 100
	var firsts []uint64
	for version := int64(1); version <= 3; version++ {
		for n := range actors {
			if sequence := saveOf(t, store, fmt.Sprintf("order-%d", n), version); version < 3 {
				firsts = append(firsts, sequence)
			}
		}
	}
	members := []eventstore.DurableSubscription{
		joined(t, store, eventstore.DurableOptions{MaxInHand: 4}), joined(t, open(t, sharedServers(t, 1).Connect(t), c), eventstore.DurableOptions{MaxInHand: 4}),
	}
	stream, err := js.Stream(ctx, c.EventsStream)
	if err != nil {
		t.Fatal(err)
	}
	for _, sequence := range firsts {
		if err := stream.DeleteMsg(ctx, sequence); err != nil {
			t.Fatal(err)
		}
	}
	working, stop := context.WithCancel(ctx)
	defer stop()
	var mu sync.Mutex
	left := map[string]bool{}
	for n := range actors {
		left[fmt.Sprintf("order-%d", n)] = true
	}
	var both sync.WaitGroup
	for _, member := range members {
		both.Go(func() {
			for {
				d, err := member.Next(working)
				if err != nil {
					return
				}
				if err := member.Ack(ctx, d.Event.Sequence); err != nil {
					t.Error(err)
				}
				mu.Lock()
				if d.Event.Version == 3 {
					delete(left, d.Event.ActorID)
				}
				if len(left) == 0 {
					stop()
				}
				mu.Unlock()
			}
		})
	}
	both.Wait()
	if len(left) > 0 {
		t.Errorf("%d actors are held up", len(left))
	}
}

// A member that ends while the server is away could not say so. One that joins
// through the same Store knows, and nobody waits until AckWait is over.
func TestDurableCloseWhileTheServerIsAway(t *testing.T) {
	t.Parallel()
	cluster := natsserver.Run(t, 1)
	c := config()
	createStreams(t, cluster.Connect(t), streamConfigs(c, 1)...)
	nc := cluster.Connect(t, nats.ReconnectBufSize(-1))
	store := open(t, nc, c)
	ctx := deadline(t)
	for n := range 20 {
		saveOf(t, store, fmt.Sprintf("order-%d", n%5), int64(n/5)+1)
	}
	opts := eventstore.DurableOptions{AckWait: time.Hour}
	first := joined(t, store, opts)
	if _, err := first.Next(ctx); err != nil {
		t.Fatal(err)
	}
	cluster.StopNode(0)
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	if err := cluster.StartNode(0); err != nil {
		t.Fatal(err)
	}
	second := joined(t, store, opts)
	for range 20 {
		d, err := second.Next(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if err := second.Ack(ctx, d.Event.Sequence); err != nil {
			t.Fatal(err)
		}
	}
}

// Whose durable subscription is deleted by another is told at once, whatever it
// waits for.
func TestDurableDeletedByAnother(t *testing.T) {
	t.Parallel()
	store, c, _ := newStore(t)
	other := open(t, sharedServers(t, 1).Connect(t), c)
	ctx := deadline(t)
	saveOf(t, store, "order-1", 1)
	member := joined(t, store, eventstore.DurableOptions{MaxInHand: 1})
	d, err := member.Next(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := other.DeleteDurable(ctx, "projection"); err != nil {
		t.Fatal(err)
	}
	if _, err := member.Next(ctx); !errors.Is(err, eventstore.ErrNoDurable) {
		t.Errorf("next: %v", err)
	}
	if err := member.Ack(ctx, d.Event.Sequence); !errors.Is(err, eventstore.ErrNoDurable) {
		t.Errorf("ack: %v", err)
	}
	// Made again, it begins anew, and nothing is left of the earlier one.
	again := joined(t, other, eventstore.DurableOptions{})
	if d, err = again.Next(ctx); err != nil || d.Attempt != 1 || d.Event.Version != 1 {
		t.Errorf("made again, it hands out %+v, %v", d, err)
	}
}

// A stream that is made again under its members is told, by name.
func TestDurableWhoseStreamIsMadeAgain(t *testing.T) {
	t.Parallel()
	store, c, nc := newStore(t)
	js := jetStreamOf(t, nc)
	ctx := deadline(t)
	for version := int64(1); version <= 5; version++ {
		saveOf(t, store, "order-1", version)
	}
	member := joined(t, store, eventstore.DurableOptions{})
	for range 5 {
		d, err := member.Next(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if err := member.Ack(ctx, d.Event.Sequence); err != nil {
			t.Fatal(err)
		}
	}
	if err := member.Close(); err != nil {
		t.Fatal(err)
	}
	if err := js.DeleteStream(ctx, c.EventsStream); err != nil {
		t.Fatal(err)
	}
	if err := natsserver.CreateStream(ctx, js, streamConfigs(c, 1)[0]); err != nil {
		t.Fatal(err)
	}
	saveOf(t, open(t, nc, c), "order-2", 1)
	again := joined(t, store, eventstore.DurableOptions{})
	if _, err := again.Next(ctx); !errors.Is(err, eventstore.ErrDurableAhead) {
		t.Errorf("next: %v, want %v", err, eventstore.ErrDurableAhead)
	}
}

// A word on the subject of the group that no member has said changes nothing, nor
// does anything on that of a member that is not of one.
func TestDurableHearsMembersAlone(t *testing.T) {
	t.Parallel()
	store, c, nc := newStore(t)
	ctx := deadline(t)
	saveOf(t, store, "order-1", 1)
	member := joined(t, store, eventstore.DurableOptions{})
	d, err := member.Next(ctx)
	if err != nil {
		t.Fatal(err)
	}
	key, id := jetstream.KeyOf(member)
	for _, subject := range []string{jetstream.GroupSubject(c.EventsStream, key), jetstream.GroupSubject(c.EventsStream, key+"-"+id)} {
		for _, data := range []string{"", "look", "look no more", "{", "null", `{"up":{"epoch":99,"member":"x","ping":{}}}`, `{"down":{"epoch":99,"member":"` + id + `"}}`, `{"up":null,"down":null}`} {
			for _, msg := range []*nats.Msg{
				{Subject: subject, Data: []byte(data)}, {Subject: subject, Data: []byte(data), Reply: "x"}, {Subject: subject, Data: []byte(data), Header: nats.Header{"a": {"b"}}},
			} {
				if err := nc.PublishMsg(msg); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	saveOf(t, store, "order-1", 2)
	if err := member.Ack(ctx, d.Event.Sequence); err != nil {
		t.Fatal(err)
	}
	if d, err = member.Next(ctx); err != nil || d.Event.Version != 2 {
		t.Errorf("next: %+v, %v", d, err)
	}
}
