package jetstream_test

import (
	"testing"
	"time"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/jetstream"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv/natsserver"
)

// Notifications come from the server: of what another Store saves, and of what
// is filtered for, and never of what was refused.
func TestSubscribeStored(t *testing.T) {
	t.Parallel()
	onSystems(t, func(t *testing.T, cluster *natsserver.Cluster, replicas int) {
		nc, c := cluster.Connect(t), config()
		createStreams(t, nc, streamConfigs(c, replicas)...)
		store, writer := open(t, nc, c), open(t, cluster.Connect(t), c)
		ctx := deadline(t)

		all, err := store.SubscribeStored(ctx, eventstore.SubscribeOptions{}, 10_000)
		if err != nil {
			t.Fatal(err)
		}
		one, err := store.SubscribeStored(ctx, eventstore.SubscribeOptions{ActorID: "order-2"}, 10)
		if err != nil {
			t.Fatal(err)
		}
		// Until every server knows who listens, notifications go unheard.
		eventually(t, "notifications come", func() bool {
			saveEvent(t, writer, event(t.Name()+time.Now().String(), "warm-1", 0))
			return len(all.C()) > 0
		})
		want := event("e1", "order-1", 1)
		want.Timestamp = time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
		saveEvent(t, writer, want)
		if _, err := writer.SaveEvent(ctx, event("e2", "order-1", 1)); err == nil {
			t.Fatal("a conflict was saved")
		}
		saveEvent(t, writer, event("e3", "order-2", 7))
		next := func() eventstore.EventStored {
			for {
				select {
				case stored := <-all.C():
					if stored.ActorID != "warm-1" {
						return stored
					}
				case <-ctx.Done():
					t.Fatal("no notification")
				}
			}
		}
		if got, want := next(), (eventstore.EventStored{EventID: "e1", ActorID: "order-1", Version: 1, Timestamp: want.Timestamp}); got != want {
			t.Errorf("notification %+v, want %+v", got, want)
		}
		if got := next(); got.EventID != "e3" || got.Version != 7 {
			t.Errorf("notification %+v, want that of e3", got)
		}
		if got := <-one.C(); got.EventID != "e3" {
			t.Errorf("filtered notification %+v, want that of e3", got)
		}
		// Closing the store closes what it has opened.
		if err := store.Close(); err != nil {
			t.Fatal(err)
		}
		for range one.C() {
			t.Error("a notification too many")
		}
		if _, err := store.SubscribeStored(ctx, eventstore.SubscribeOptions{}, 1); err == nil {
			t.Error("subscribed after close")
		}
	})
}

func TestSubscribeStoredRefuses(t *testing.T) {
	t.Parallel()
	store, _, _ := newStore(t)
	if _, err := store.SubscribeStored(deadline(t), eventstore.SubscribeOptions{FromSequence: 1}, 1); err == nil {
		t.Error("a place to start is accepted")
	}
}

func saveEvent(t *testing.T, store *jetstream.Store, e eventstore.Event) {
	t.Helper()
	if _, err := store.SaveEvent(deadline(t), e); err != nil {
		t.Fatal(err)
	}
}
