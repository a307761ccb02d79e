package jetstream_test

import (
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv/natsserver"
)

// What callers name makes no line longer than 2 KiB, half of what a server takes unless it
// is told otherwise. A server ends the connection, and with it all calls, on a longer one.
func TestLongestLine(t *testing.T) {
	t.Parallel()
	cluster := natsserver.Run(t, 1, func(o *server.Options) { o.MaxControlLine = 2 << 10 })
	nc, c := cluster.Connect(t), config()
	// As long as the operator makes them, of names of 63 characters.
	c.EventsStream = strings.Repeat("n", 63) + "_" + strings.Repeat("s", 63)
	c.SnapshotsStream = c.EventsStream + "_snapshots"
	createStreams(t, nc, streamConfigs(c, 1)...)
	store, ctx := open(t, nc, c), deadline(t)
	for n, actorID := range []string{
		strings.Repeat("ü", 127), strings.Repeat("\x00", eventstore.MaxActorIDBytes), strings.Repeat(".", eventstore.MaxActorIDBytes-1) + "-",
	} {
		e := event(strings.Repeat("i", eventstore.MaxIDBytes-1)+string(rune('a'+n)), actorID, 1)
		saveEvent(t, store, e)
		if err := store.SaveSnapshot(ctx, eventstore.Snapshot{ActorID: actorID, Version: 1}); err != nil {
			t.Fatal(err)
		}
		if events, err := store.GetEvents(ctx, actorID, 0, eventstore.UpToDate()); err != nil || len(events) != 1 {
			t.Fatalf("read %d events: %v", len(events), err)
		}
		for _, opts := range []eventstore.SubscribeOptions{{ActorID: actorID}, {ActorType: eventstore.ActorType(actorID)}} {
			followed, err := store.Subscribe(ctx, opts)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := followed.Next(ctx); err != nil || got.Version != 1 {
				t.Errorf("followed %+v: %v", got, err)
			}
			stored, err := store.SubscribeStored(ctx, opts, 1)
			if err != nil {
				t.Fatal(err)
			}
			if err := stored.Close(); err != nil {
				t.Error(err)
			}
			if err := followed.Close(); err != nil {
				t.Error(err)
			}
		}
	}
	if nc.Stats().Reconnects != 0 {
		t.Error("a line was longer than the server takes")
	}
}
