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

// A silent stream says that it lives and where it is, whatever its filter leaves out,
// and loses no event over it.
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
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, endpoint.URL+"/v1/stores/orders/events?eventType=Rare", nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	save := func(id, eventType string) {
		t.Helper()
		if _, err := store.SaveEvent(ctx, eventstore.Event{ID: id, EventType: eventType, ActorID: "order-1"}); err != nil {
			t.Fatal(err)
		}
	}
	alive, moved := 0, false
	for lines := bufio.NewScanner(response.Body); lines.Scan(); {
		if strings.HasPrefix(lines.Text(), ": ") {
			if alive++; alive == 3 {
				save("e-1", "Common")
			}
		}
		switch lines.Text() {
		case "id: 1":
			if !moved {
				moved = true
				save("e-2", "Rare")
			}
		case "id: 2":
			return
		}
	}
	t.Fatalf("the stream ended after %d heartbeats", alive)
}
