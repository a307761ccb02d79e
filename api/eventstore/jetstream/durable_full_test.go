package jetstream_test

import (
	"context"
	"testing"
	"time"

	natsjs "github.com/nats-io/nats.go/jetstream"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
)

// While the stream of snapshots is full a durable subscription stands still. It goes on
// once there is room, and nobody has to join again.
func TestDurableWaitsForRoom(t *testing.T) {
	t.Parallel()
	store, c, nc := newStore(t)
	js := jetStreamOf(t, nc)
	ctx := deadline(t)
	for version := int64(1); version <= 3; version++ {
		saveOf(t, store, "order-1", version)
	}
	member := joined(t, store, eventstore.DurableOptions{AckWait: 10 * time.Minute})
	first, err := member.Next(ctx)
	if err != nil {
		t.Fatal(err)
	}
	limit := func(bytes int64) {
		t.Helper()
		stream, err := js.Stream(ctx, c.SnapshotsStream)
		if err != nil {
			t.Fatal(err)
		}
		config := stream.CachedInfo().Config
		config.MaxBytes, config.Discard = bytes, natsjs.DiscardNew
		if _, err := js.UpdateStream(ctx, config); err != nil {
			t.Fatal(err)
		}
	}
	limit(1)
	soon, cancel := context.WithTimeout(ctx, time.Second)
	if err := member.Nak(soon, first.Event.Sequence, 0, "again"); err == nil {
		t.Error("an event was given back where that cannot be written")
	}
	cancel()
	// As the member that follows, too.
	other := joined(t, open(t, nc, c), eventstore.DurableOptions{AckWait: 10 * time.Minute})
	limit(-1)
	if err := member.Close(); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		next, err := other.Next(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if err := other.Ack(ctx, next.Event.Sequence); err != nil {
			t.Fatal(err)
		}
	}
}
