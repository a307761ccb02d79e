package sidecar_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/memory"
	"git.flowmade.one/flowmade-one/aether-operator/internal/sidecar"
)

// healthOf makes a request of the health port.
func (r *running) healthOf(path string) answer {
	r.Helper()
	return (&running{T: r.T, api: r.health, health: r.health}).do("GET "+path, "")
}

func TestReadinessNamesTheStore(t *testing.T) {
	t.Parallel()
	waits := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
	r := serve(t, sidecar.Config{Stores: []sidecar.Store{
		{Name: "orders", Store: memory.New(), Check: func(context.Context) error { return nil }},
		{Name: "payments", Store: memory.New(), Check: func(context.Context) error { return errors.New("no leader") }},
		{Name: "slow", Store: memory.New(), Check: waits},
	}})
	got := r.healthOf("/readyz")
	if got.status != http.StatusServiceUnavailable || !strings.Contains(got.body, "store payments is not ready: no leader") ||
		!strings.Contains(got.body, "store slow is not ready") || strings.Contains(got.body, "orders") {
		t.Errorf("answered %d %s", got.status, got.body)
	}
	if got := r.healthOf("/healthz"); got.status != http.StatusOK {
		t.Errorf("a store that is not ready makes the sidecar unhealthy: %d %s", got.status, got.body)
	}
	if got := serveMemory(t).healthOf("/readyz"); got.status != http.StatusOK || got.body != "ok\n" {
		t.Errorf("answered %d %s", got.status, got.body)
	}
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	metrics := &eventstore.Metrics{}
	r := serve(t, sidecar.Config{Stores: []sidecar.Store{{Name: "orders", Store: memory.New(eventstore.WithMetrics(metrics)), Metrics: metrics}}})
	event := `{"id":"e-1","eventType":"T","actorId":"order-1","version":1}`
	r.post(ordersEvents, event)
	r.post(ordersEvents, event)
	r.do("POST "+ordersEvents, `{"id":"e-2","eventType":"T","actorId":"order-1","version":1}`)
	r.do("GET /v1/stores/orders/actors/a%2Fb/version", "")
	r.do("GET /nowhere", "")
	r.do("DELETE "+ordersEvents, "")
	follower := r.follow("")
	follower.want(1)
	if _, err := r.rpc().GetLatestVersion(t.Context(), nil); err == nil {
		t.Error("the version of no actor was answered")
	}
	got := r.healthOf("/metrics").body
	for _, want := range []string{
		`aether_store_events_saved_total{store="orders"} 1`,
		`aether_store_duplicates_saved_total{store="orders"} 1`,
		`aether_store_version_conflicts_total{store="orders"} 1`,
		`aether_store_events_read_total{store="orders"} 1`,
		`aether_sidecar_requests_total{code="201",protocol="http",route="POST /v1/stores/{store}/events"} 2`,
		`aether_sidecar_requests_total{code="409",protocol="http",route="POST /v1/stores/{store}/events"} 1`,
		`aether_sidecar_requests_total{code="200",protocol="http",route="GET /v1/stores/{store}/actors/{actorId}/version"} 1`,
		`aether_sidecar_requests_total{code="404",protocol="http",route="none"} 1`,
		`aether_sidecar_requests_total{code="405",protocol="http",route="/v1/stores/{store}/events"} 1`,
		`aether_sidecar_requests_total{code="invalid_argument",protocol="rpc",route="EventStoreService/GetLatestVersion"} 1`,
		`aether_sidecar_request_duration_seconds_count{protocol="http",route="POST /v1/stores/{store}/events"} 3`,
		`aether_sidecar_streams_open{protocol="http",route="GET /v1/stores/{store}/events"} 1`,
		`go_goroutines`,
	} {
		if !strings.Contains(got, want) {
			t.Errorf("metrics lack %s", want)
		}
	}
}
