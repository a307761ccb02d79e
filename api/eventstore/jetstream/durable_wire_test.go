package jetstream_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/jetstream"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv/natsserver"
)

// newGroupOn is newGroup on servers of its own.
func newGroupOn(t *testing.T, cluster *natsserver.Cluster) (c jetstream.Config, again func() *jetstream.Store) {
	t.Helper()
	c = config()
	createStreams(t, cluster.Connect(t), streamConfigs(c, cluster.Size())...)
	return c, func() *jetstream.Store { return open(t, cluster.Connect(t), c) }
}

// limited is a server that takes messages of so many bytes.
func limited(t *testing.T, bytes int) *natsserver.Cluster {
	t.Helper()
	return natsserver.Run(t, 1, func(o *server.Options) { o.MaxPayload = int32(bytes) })
}

// coordinates joins a member that coordinates, and takes no more events.
func coordinates(ctx context.Context, t *testing.T, store *jetstream.Store, opts eventstore.DurableOptions) {
	t.Helper()
	member := joined(t, store, opts)
	saveOf(t, store, "first-0", 1)
	d, err := member.Next(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := member.Ack(ctx, d.Event.Sequence); err != nil {
		t.Fatal(err)
	}
}

// An event goes along with its hand-out where that fits into a message of the server.
// One that does not is handed out all the same, to each member.
func TestDurableEventsAsLargeAsMessages(t *testing.T) {
	t.Parallel()
	_, again := newGroupOn(t, limited(t, 96<<10))
	ctx, cancel := context.WithTimeout(deadline(t), time.Minute)
	defer cancel()
	store := again()
	opts := eventstore.DurableOptions{AckWait: time.Second}
	coordinates(ctx, t, store, opts)
	for n := range 5 {
		large := event(fmt.Sprint(n), fmt.Sprintf("order-%d", n), 1)
		large.ContentType, large.Data = "text/plain", make([]byte, 90<<10)
		if _, err := store.SaveEvent(ctx, large); err != nil {
			t.Fatal(err)
		}
	}
	l := newLedger(t, eventstore.DefaultMaxDeliveries)
	member := joined(t, again(), opts)
	l.workedOff(ctx, member, func() {}, func() bool { return l.settled == 5 })
}

// A member takes no more at once than it can tell of in one message.
func TestDurableManyInHandOfSmallMessages(t *testing.T) {
	t.Parallel()
	const limit = 64 << 10
	_, again := newGroupOn(t, limited(t, limit))
	ctx := deadline(t)
	store := again()
	member := joined(t, store, eventstore.DurableOptions{MaxInHand: 3000})
	saveRows(ctx, t, store, rowOf("order", 1000, 1))
	l := newLedger(t, 1)
	var taken []eventstore.Delivery
	take := func() {
		d, err := member.Next(ctx)
		if err != nil {
			t.Fatal(err)
		}
		l.take(d)
		taken = append(taken, d)
	}
	for range limit / 150 {
		take()
	}
	wantNothing(ctx, t, member)
	for _, d := range taken {
		if err := l.ack(ctx, member, d.Event); err != nil {
			t.Fatal(err)
		}
	}
	take()
}
