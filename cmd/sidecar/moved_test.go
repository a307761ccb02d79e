package main

import (
	"fmt"
	"log/slog"
	"net/http"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"git.flowmade.one/flowmade-one/aether-operator/internal/sidecar/binding"
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

// The servers, or how a platform reaches them, may have another domain of JetStream: it is
// asked in that then, also where the servers stay the same.
func TestBindingLeadsToAnotherDomain(t *testing.T) {
	t.Parallel()
	domain := func(name string) natsserver.Option { return func(o *server.Options) { o.JetStreamDomain = name } }
	before, after := natsserver.Run(t, 1, domain("hub")), natsserver.Run(t, 1, domain("spoke"))
	root := t.TempDir()
	bind(t, before, root, "orders", before.Connect(t), map[string]string{"domain": "hub"})
	s := startHere(t, map[string]string{"SERVICE_BINDING_ROOT": root})
	s.waitReady("")
	sent := 0
	saves := func(what string) {
		t.Helper()
		testenv.Eventually(t, time.Minute, what, func() error {
			sent++
			if status, body := s.post("orders", fmt.Sprintf(`{"id":"%d","eventType":"T","actorId":"order-%d"}`, sent, sent)); status != http.StatusCreated {
				return fmt.Errorf("%d %s", status, body)
			}
			return nil
		})
	}
	saves("an event in the domain of the beginning")
	bind(t, after, root, "orders", after.Connect(t), map[string]string{"domain": "spoke"})
	before.StopNode(0)
	saves("an event on the other servers")
	dir := filepath.Join(root, "orders")
	asksIn := func(name string) func() error {
		return func() error {
			status, body := s.post("orders", `{"id":"again","eventType":"T","actorId":"again-1"}`)
			if (status == http.StatusCreated) != (name == "spoke") {
				return fmt.Errorf("with the domain %s: %d %s", name, status, body)
			}
			return nil
		}
	}
	for _, name := range []string{"none", "spoke"} {
		writeBinding(t, dir, map[string]string{"domain": name})
		testenv.Eventually(t, time.Minute, "the domain "+name, asksIn(name))
	}
}

// Two stores of one pod are on one connection while their bindings lead to the same servers.
// When one class is moved the other store is not led to servers that do not have it.
func TestBindingOfOneStoreLeadsNoOther(t *testing.T) {
	t.Parallel()
	before, after := natsserver.Run(t, 1), natsserver.Run(t, 1)
	root := t.TempDir()
	bind(t, before, root, "orders", before.Connect(t), nil)
	bind(t, before, root, "parcels", before.Connect(t), nil)
	c := &connections{logger: slog.New(slog.DiscardHandler), closed: make(chan struct{})}
	t.Cleanup(c.close)
	dir := func(name string) string { return filepath.Join(root, name) }
	for _, name := range []string{"orders", "parcels"} {
		b, err := binding.Read(dir(name))
		if err == nil {
			_, err = c.open(name, b)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if len(c.made) != 1 {
		t.Fatalf("%d connections to the same servers, want 1", len(c.made))
	}
	on := c.made[0]
	leadsTo := func(servers *natsserver.Cluster) bool {
		on.mu.Lock()
		defer on.mu.Unlock()
		to, _ := on.leadsTo()
		return slices.Equal(to, servers.URLs())
	}
	writeBinding(t, dir("orders"), map[string]string{"servers": after.URL()})
	on.follow()
	if !leadsTo(before) || on.keeper.Conn().IsClosed() {
		t.Error("the binding of one store led the other with it")
	}
	writeBinding(t, dir("parcels"), map[string]string{"servers": after.URL()})
	if !leadsTo(after) {
		t.Error("the bindings of both stores lead nowhere else")
	}
}
