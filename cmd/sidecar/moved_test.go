package main

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	natsjs "github.com/nats-io/nats.go/jetstream"

	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv/natsserver"
)

// A platform moves a class to other servers: a pod that runs saves there as soon as its
// binding says so, also while the old servers still take events.
func TestBindingLeadsToOtherServers(t *testing.T) {
	t.Parallel()
	before, after := natsserver.Run(t, 1), natsserver.Run(t, 1)
	root := t.TempDir()
	bind(t, before, root, "orders", before.Connect(t), nil)
	s := startHere(t, map[string]string{"SERVICE_BINDING_ROOT": root})
	s.waitReady("")
	bind(t, after, root, "orders", after.Connect(t), nil)
	there, err := natsjs.New(after.Connect(t))
	if err != nil {
		t.Fatal(err)
	}
	sent := 0
	testenv.Eventually(t, time.Minute, "an event on the other servers", func() error {
		sent++
		status, body := s.post("orders", fmt.Sprintf(`{"id":"%d","eventType":"T","actorId":"order-%d"}`, sent, sent))
		if status != http.StatusCreated {
			return fmt.Errorf("%d %s", status, body)
		}
		stream, err := there.Stream(t.Context(), "shop_orders")
		if err == nil && stream.CachedInfo().State.Msgs == 0 {
			err = fmt.Errorf("event %d was acknowledged by the servers of before", sent)
		}
		return err
	})
	before.StopNode(0)
	if status, body := s.post("orders", `{"id":"last","eventType":"T","actorId":"last-1"}`); status != http.StatusCreated {
		t.Errorf("without the servers of before: %d %s", status, body)
	}
}
