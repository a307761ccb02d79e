package stream_test

import (
	"context"
	"testing"
	"time"

	"git.flowmade.one/flowmade-one/aether-operator/internal/stream"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv/link"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv/natsserver"
)

// nobodyKnows answers other operators nothing.
func nobodyKnows(context.Context, stream.Owner, bool) stream.Standing { return stream.Unknown }

// A pass that is still under way when the operator ends must not connect anew: nobody
// would close that connection, and it would tell other operators that ours is at work.
func TestClosedConnectionsStayClosed(t *testing.T) {
	t.Parallel()
	servers := natsserver.Run(t, 1)
	connections := stream.NewConnections(func(stream.Notice) {}, func(string, time.Duration, error) {}, nobodyKnows)
	target := stream.Target{Class: "standard", Servers: servers.URLs()}
	conn, err := connections.Get(t.Context(), target)
	if err != nil {
		t.Fatal(err)
	}
	connections.Close()
	_, err = connections.Get(t.Context(), target)
	if err == nil {
		t.Error("it connects after it was closed")
	}
	// Nothing is wrong with the NATS system, whoever asks with the one or the other.
	_, ofRequest := conn.Stream(t.Context(), "shop_orders")
	_, ofWatch := conn.WatchFirstEvent("shop_orders", "shop_orders.stored.>")
	for _, err := range []error{err, ofRequest, ofWatch} {
		if !stream.WasClosed(err) {
			t.Errorf("that it was closed is told as %v", err)
		}
	}
}

// A server whose machine has lost its power closes no connection. The others of its
// cluster are found within seconds, and what listens there listens on.
func TestSilentServerIsLeft(t *testing.T) {
	t.Parallel()
	servers := natsserver.Run(t, 3)
	silent := link.To(t, servers.URLs()[0])
	connections := stream.NewConnections(func(stream.Notice) {}, func(string, time.Duration, error) {}, func(_ context.Context, owner stream.Owner, _ bool) stream.Standing {
		if owner.UID == "ours" {
			return stream.Exists
		}
		return stream.Unknown
	})
	t.Cleanup(connections.Close)
	target := stream.Target{Class: "c", Servers: []string{silent.URL()}}
	conn, err := connections.Get(t.Context(), target)
	fail(t, err)
	if _, err := conn.Stream(t.Context(), "shop_orders"); err != nil {
		t.Fatal(err)
	}
	silent.Silence()
	testenv.Eventually(t, time.Minute, "another server", func() error {
		conn, err := connections.Get(t.Context(), target)
		if err == nil {
			_, err = conn.Stream(t.Context(), "shop_orders")
		}
		return err
	})
	another := servers.Connect(t)
	testenv.Eventually(t, time.Minute, "an answer to another operator", func() error {
		_, err := another.Request("aether.owner.ours", []byte("{}"), time.Second)
		return err
	})
}
