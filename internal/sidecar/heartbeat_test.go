package sidecar

import (
	"bufio"
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/memory"
)

// A silent stream says that it lives, and loses no event over it.
func TestHeartbeat(t *testing.T) {
	t.Parallel()
	store := memory.New()
	server, err := New(Config{Stores: []Store{{Name: "orders", Store: store}}})
	if err != nil {
		t.Fatal(err)
	}
	server.heartbeat = time.Millisecond
	endpoint := httptest.NewServer(server.Handler())
	defer endpoint.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, endpoint.URL+"/v1/stores/orders/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	alive, saved := 0, false
	for lines := bufio.NewScanner(response.Body); lines.Scan(); {
		if strings.HasPrefix(lines.Text(), ": ") {
			alive++
		}
		if strings.HasPrefix(lines.Text(), "id: 1") {
			return
		}
		if alive == 3 && !saved {
			saved = true
			if _, err := store.SaveEvent(ctx, eventstore.Event{ID: "e-1", EventType: "T", ActorID: "order-1"}); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Fatalf("the stream ended after %d heartbeats", alive)
}
