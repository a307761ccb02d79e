package stream

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"k8s.io/apimachinery/pkg/types"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv/link"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv/natsserver"
)

// nobodyKnows is of a cluster that has no EventStores.
var nobodyKnows = Self{
	Cluster:  func(context.Context) (types.UID, error) { return "cluster", nil },
	Standing: func(context.Context, Owner) Standing { return Unknown },
}

func connected(t *testing.T, url string) *Conn {
	t.Helper()
	connections := NewConnections(func(Notice) {}, func(string, time.Duration, error) {}, nobodyKnows)
	t.Cleanup(connections.Close)
	conn, err := connections.Get(t.Context(), Target{Class: "c", Servers: []string{url}})
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

// While a watch waits for a server that is slow, everything else goes on.
func TestWatchHoldsNothingUp(t *testing.T) {
	t.Parallel()
	slow := link.To(t, natsserver.Run(t, 1).URL())
	conn := connected(t, slow.URL())
	before := conn.nc.NumSubscriptions()
	slow.Silence()
	watched := make(chan error, 1)
	go func() {
		_, err := conn.WatchFirstEvent("shop_orders", "shop_orders.stored.>")
		watched <- err
	}()
	testenv.Eventually(t, time.Minute, "the watch", func() error {
		if conn.nc.NumSubscriptions() == before {
			return fmt.Errorf("there are %d subscriptions", before)
		}
		return nil
	})
	// Held up, this would go on only once the watch has run out of time.
	conn.Told("shop_orders")
	slow.Resume()
	if err := <-watched; err != nil {
		t.Errorf("the watch was waited for: %v", err)
	}
}

// A store that is gone is waited for no more.
func TestWatchesOfDeletedStoresEnd(t *testing.T) {
	t.Parallel()
	conn := connected(t, natsserver.Run(t, 1).URL())
	none := conn.nc.NumSubscriptions()
	for _, name := range []string{"shop_kept", "shop_gone"} {
		if _, err := conn.WatchFirstEvent(name, name+".stored.>"); err != nil {
			t.Fatal(err)
		}
	}
	kept := map[string]bool{"shop_kept": true}
	if conn.KeepFirstEvents(kept, time.Now().Add(-time.Hour)); conn.nc.NumSubscriptions() != none+2 {
		t.Errorf("of watches that are new %d are left, want 2", conn.nc.NumSubscriptions()-none)
	}
	if conn.KeepFirstEvents(kept, time.Now().Add(time.Hour)); conn.nc.NumSubscriptions() != none+1 || len(conn.firstEvents) != 1 {
		t.Errorf("%d subscriptions and %d entries are left, want those of one store", conn.nc.NumSubscriptions()-none, len(conn.firstEvents))
	}
	if isNew, err := conn.WatchFirstEvent("shop_kept", "shop_kept.stored.>"); isNew || err != nil {
		t.Errorf("the watch of the store that is there is new: %t, %v", isNew, err)
	}
}

// Where no answer comes the operator says whether the server is there at all: one that is may
// be busy with requests of others.
func TestLateAnswersAreExplained(t *testing.T) {
	t.Parallel()
	servers := natsserver.Run(t, 1)
	const subject = "nobody.answers"
	if _, err := servers.Connect(t).SubscribeSync(subject); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		silent bool
		says   string
	}{
		"the server is there":     {false, "the server answers a ping. Check that a majority of the servers runs; if it does, they may be busy with requests"},
		"the server is not there": {true, "the server does not answer a ping either"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			way := link.To(t, servers.URL())
			conn := connected(t, way.URL())
			if c.silent {
				way.Silence()
			}
			err := conn.ask(t.Context(), subject, nil, nil)
			if fault, ok := AsFault(err); !ok || fault.Reason != v1alpha1.ReasonJetStreamUnavailable || !strings.Contains(fault.Error(), c.says) {
				t.Errorf("got %v, want a fault that says %q", err, c.says)
			}
		})
	}
}

// The answers are those that nats-server 2.15 gave: the first for some
// milliseconds after three servers had found each other, which cannot be caused
// at will.
func TestNoSuitablePeers(t *testing.T) {
	t.Parallel()
	for description, handling := range map[string]Handling{
		"no suitable peers for placement, peer offline":     Retry,
		"no suitable peers for placement, tags not matched": Stall,
	} {
		err := apiFault("create", &jetstream.APIError{Code: 400, ErrorCode: errNoSuitablePeers, Description: description})
		if fault, ok := AsFault(err); !ok || fault.Handling != handling || fault.Reason != v1alpha1.ReasonInsufficientPeers {
			t.Errorf("%s: got %v, want a fault with handling %d", description, err, handling)
		}
	}
}
