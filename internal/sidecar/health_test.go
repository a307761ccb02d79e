package sidecar_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"

	"connectrpc.com/connect"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/memory"
	eventstorev1 "git.flowmade.one/flowmade-one/aether-operator/api/eventstore/v1"
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

// connection is one whose state is made up.
type connection struct{}

func (connection) IsConnected() bool   { return true }
func (connection) Reconnected() uint64 { return 3 }

func TestConnectionMetrics(t *testing.T) {
	t.Parallel()
	r := serve(t, sidecar.Config{Stores: []sidecar.Store{{Name: "orders", Store: memory.New(), Connection: connection{}}, {Name: "payments", Store: memory.New()}}})
	got := r.healthOf("/metrics").body
	for _, want := range []string{`aether_store_connected{store="orders"} 1`, `aether_store_reconnects_total{store="orders"} 3`} {
		if !strings.Contains(got, want) {
			t.Errorf("metrics lack %s", want)
		}
	}
}

// Without a tracer, the trace of a request is that of the event, over each
// protocol; a trace that is none is not.
func TestTraceOfARequest(t *testing.T) {
	t.Parallel()
	r := serveMemory(t)
	const parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	event := func(id, more string) string {
		return `{"id":"` + id + `","eventType":"T","actorId":"order-1"` + more + `}`
	}
	r.do("POST "+ordersEvents, event("e-1", ""), "Traceparent: "+parent)
	r.do("POST "+ordersEvents, event("e-2", ""), "Traceparent: 00-1-2-01")
	r.do("POST "+ordersEvents, event("e-3", `,"traceparent":"00-00000000000000000000000000000001-0000000000000001-00"`), "Traceparent: "+parent)
	r.wantProblem(r.do("POST "+ordersEvents, event("e-4", `,"traceparent":"x"`)), 400, "invalid_event", "traceparent")
	for name, opts := range protocols {
		request := &eventstorev1.SaveEventRequest{Event: &eventstorev1.Event{Id: name, EventType: "T", ActorId: "order-1"}}
		ctx, call := connect.NewClientContext(t.Context())
		call.RequestHeader().Set("Traceparent", parent)
		_, err := r.rpc(opts...).SaveEvent(ctx, request)
		must(t, err)
	}
	page, err := r.rpc().GetEvents(t.Context(), &eventstorev1.GetEventsRequest{ActorId: "order-1"})
	must(t, err)
	for _, e := range page.GetEvents() {
		want := parent
		switch e.GetId() {
		case "e-2":
			want = ""
		case "e-3":
			want = "00-00000000000000000000000000000001-0000000000000001-00"
		}
		if e.GetTraceParent() != want {
			t.Errorf("%s was saved in %q, want %q", e.GetId(), e.GetTraceParent(), want)
		}
	}
}
