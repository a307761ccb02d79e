package stream_test

import (
	"context"
	"testing"
	"time"

	"git.flowmade.one/flowmade-one/aether-operator/internal/stream"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv/natsserver"
)

// nobodyKnows answers other operators nothing.
func nobodyKnows(context.Context, stream.Owner) stream.Standing { return stream.Unknown }

// A pass that is still under way when the operator ends must not connect anew: nobody
// would close that connection, and it would tell other operators that ours is at work.
func TestClosedConnectionsStayClosed(t *testing.T) {
	t.Parallel()
	servers := natsserver.Run(t, 1)
	connections := stream.NewConnections(func(stream.Notice) {}, func(string, time.Duration, error) {}, nobodyKnows)
	target := stream.Target{Class: "standard", Servers: servers.URLs()}
	if _, err := connections.Get(t.Context(), target); err != nil {
		t.Fatal(err)
	}
	connections.Close()
	if _, err := connections.Get(t.Context(), target); err == nil {
		t.Error("it connects after it was closed")
	}
}
