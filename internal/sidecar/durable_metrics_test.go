package sidecar_test

import (
	"bytes"
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/memory"
	eventstorev1 "git.flowmade.one/flowmade-one/aether-operator/api/eventstore/v1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/sidecar"
)

// What a durable subscription says of itself is answered, and measured while a
// session is here.
func TestDurableStatus(t *testing.T) {
	t.Parallel()
	r := serveMemory(t)
	client := r.rpc()
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	saveEach(ctx, t, client, "order-1", "order-1", "order-2")
	j := join(ctx, t, client, &eventstorev1.SubscribeDurableRequest{Name: "mailer"})
	j.want("e-1")
	names, err := client.ListDurables(ctx, &eventstorev1.ListDurablesRequest{})
	if err != nil || len(names.GetNames()) != 1 || names.GetNames()[0] != "mailer" {
		t.Errorf("list %v, %v", names, err)
	}
	status, err := client.GetDurableStatus(ctx, &eventstorev1.GetDurableStatusRequest{Name: "mailer"})
	if s := status.GetStatus(); err != nil || s.GetMembers() != 1 || s.GetInHand() < 1 || s.GetPosition() != 3 || s.GetLag() != 0 {
		t.Errorf("status %v, %v", status, err)
	}
	got := r.healthOf("/metrics").body
	for _, want := range []string{
		`aether_durable_lag{durable="mailer",store="orders"} 0`, `aether_durable_members{durable="mailer",store="orders"} 1`,
		`aether_durable_in_hand{durable="mailer",store="orders"} 1`, `aether_durable_queued{`, `aether_durable_waiting{`,
		`aether_durable_parked{durable="mailer",store="orders"} 0`, `aether_durable_full{durable="mailer",store="orders"} 0`,
	} {
		if !strings.Contains(got, want) {
			t.Errorf("metrics lack %s:\n%s", want, got)
		}
	}
}

// counted counts how often it is asked how a durable subscription is doing.
type counted struct {
	eventstore.DurableStore
	asked atomic.Int64
}

func (c *counted) GetDurableStatus(ctx context.Context, name string) (eventstore.DurableStatus, error) {
	c.asked.Add(1)
	return c.DurableStore.GetDurableStatus(ctx, name)
}

// Whoever reaches the pod may scrape, and has durable subscriptions asked once a second.
func TestDurablesAreAskedOnceASecond(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := &counted{DurableStore: memory.New()}
		server, err := sidecar.New(sidecar.Config{Stores: []sidecar.Store{{Name: "orders", Store: store}}})
		must(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		joined := httptest.NewRequestWithContext(ctx, http.MethodPost, "http://127.0.0.1:4280/aether.eventstore.v1.EventStoreService/SubscribeDurable", bytes.NewReader(append([]byte{0, 0, 0, 0, 17}, `{"name":"mailer"}`...)))
		joined.Header.Set("Content-Type", "application/connect+json")
		go server.Handler().ServeHTTP(httptest.NewRecorder(), joined)
		for seconds := range int64(3) {
			time.Sleep(time.Second)
			for range 100 {
				wantStatus(t, server, "/metrics", http.StatusOK)
			}
			if asked := store.asked.Load(); asked != seconds+1 {
				t.Errorf("asked %d times, want %d", asked, seconds+1)
			}
		}
	})
}

// What was released comes again, and a session that is paused gets nothing until it
// starts.
func TestReleaseDeliveries(t *testing.T) {
	t.Parallel()
	client := serveMemory(t).rpc()
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	saveEach(ctx, t, client, "order-1")
	j := join(ctx, t, client, &eventstorev1.SubscribeDurableRequest{Name: "mailer", MaxDeliveries: 1})
	for _, pause := range []bool{false, true} {
		sequence := j.want("e-1")
		_, err := client.ReleaseDeliveries(ctx, &eventstorev1.ReleaseDeliveriesRequest{Session: j.session, Sequences: []uint64{sequence}, Pause: pause})
		must(t, err)
	}
	other := join(ctx, t, client, &eventstorev1.SubscribeDurableRequest{Name: "mailer", MaxDeliveries: 1})
	other.want("e-1")
}
