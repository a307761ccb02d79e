package natsserver_test

import (
	"context"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv/natsserver"
)

// A cluster survives the loss of one server, and a server that comes back has
// its ports and its data again.
func TestNodeStopsAndComesBack(t *testing.T) {
	cluster := natsserver.Run(t, 3)
	js, err := jetstream.New(cluster.Connect(t))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := natsserver.CreateStream(ctx, js, jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}, Replicas: 3}); err != nil {
		t.Fatal(err)
	}
	urls := cluster.URL()
	for node := range cluster.Size() {
		cluster.StopNode(node)
		publishUntilStored(ctx, t, js)
		if err := cluster.StartNode(node); err != nil {
			t.Fatal(err)
		}
	}
	if cluster.URL() != urls {
		t.Errorf("URLs changed from %s to %s", urls, cluster.URL())
	}
}

// publishUntilStored gives each try its own deadline: the answer to one that was
// sent to the server that stopped never comes.
func publishUntilStored(ctx context.Context, t *testing.T, js jetstream.JetStream) {
	t.Helper()
	for {
		try, cancel := context.WithTimeout(ctx, time.Second)
		_, err := js.Publish(try, "s", nil)
		cancel()
		if err == nil {
			return
		}
		if ctx.Err() != nil {
			t.Fatalf("publish: %v", err)
		}
	}
}

// A server that cannot start says why, at once.
func TestStartSaysWhyNot(t *testing.T) {
	cluster := natsserver.Run(t, 1)
	cluster.StopNode(0)
	taken, err := net.Listen("tcp", strings.TrimPrefix(cluster.URL(), "nats://"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	if err := cluster.StartNode(0); err == nil || !strings.Contains(err.Error(), "address already in use") {
		t.Errorf("start on a port that is taken: %v", err)
	}
	_ = taken.Close()
	if err := cluster.StartNode(0); err != nil {
		t.Error(err)
	}
}
