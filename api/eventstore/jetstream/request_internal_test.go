package jetstream

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv/natsserver"
)

// A request that nobody answers ends while there is time left to find out what has
// become of it, also when the Store was closed between others and this one.
func TestRequestsEndInTime(t *testing.T) {
	t.Parallel()
	nc := natsserver.Run(t, 1).Connect(t)
	for subject, answer := range map[string]nats.MsgHandler{"prompt": func(m *nats.Msg) { _ = m.Respond(nil) }, "silent": func(*nats.Msg) {}} {
		if _, err := nc.Subscribe(subject, answer); err != nil {
			t.Fatal(err)
		}
	}
	store, err := New(nc, Config{Namespace: "test", Store: "test", EventsStream: "test", SnapshotsStream: "test_snapshots"})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := store.request(t.Context(), nats.NewMsg("prompt")); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		_, err := store.request(ctx, nats.NewMsg("silent"))
		cancel()
		if !errors.Is(err, errNoAnswer) || errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the request ended with %v", err)
		}
		if _, err := store.request(t.Context(), nats.NewMsg("prompt")); err != nil {
			t.Fatal(err)
		}
		if err := store.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
