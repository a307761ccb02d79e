package sidecar

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"iter"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/memory"
	eventstorev1 "git.flowmade.one/flowmade-one/aether-operator/api/eventstore/v1"
	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/v1/eventstorev1connect"
)

// endless is a Store whose streams never end.
type endless struct{ eventstore.Store }

var largeEvent = eventstore.Event{ID: "e", EventType: "T", ActorID: "order-1", Version: 1, ContentType: "a/b", Data: bytes.Repeat([]byte("x"), 256<<10)}

func (endless) Events(context.Context, string, int64, ...eventstore.ReadOption) iter.Seq2[eventstore.Event, error] {
	return func(yield func(eventstore.Event, error) bool) {
		for yield(largeEvent, nil) {
		}
	}
}

func (e endless) Subscribe(context.Context, eventstore.SubscribeOptions) (eventstore.Subscription, error) {
	return e, nil
}

func (endless) Position() (uint64, bool)                       { return 0, true }
func (endless) Next(context.Context) (eventstore.Event, error) { return largeEvent, nil }
func (endless) Close() error                                   { return nil }

// A client that reads nothing is given up, whatever it speaks.
func TestReadersThatDoNotRead(t *testing.T) {
	t.Parallel()
	server, err := New(Config{Stores: []Store{{Name: "orders", Store: endless{memory.New()}}}})
	if err != nil {
		t.Fatal(err)
	}
	server.writeTimeout = 100 * time.Millisecond
	endpoint := httptest.NewUnstartedServer(server.Handler())
	endpoint.Config.Protocols = new(http.Protocols)
	endpoint.Config.Protocols.SetHTTP1(true)
	endpoint.Config.Protocols.SetUnencryptedHTTP2(true)
	endpoint.Start()
	defer endpoint.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for _, path := range []string{"/v1/stores/orders/events", "/v1/stores/orders/actors/order-1/events"} {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, endpoint.URL+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Accept", "text/event-stream, application/x-ndjson")
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = response.Body.Close() }()
	}
	transport := &http.Transport{Protocols: new(http.Protocols)}
	transport.Protocols.SetUnencryptedHTTP2(true)
	defer transport.CloseIdleConnections()
	client := eventstorev1connect.NewEventStoreServiceClient(&http.Client{Transport: transport}, endpoint.URL, connect.WithGRPC())
	events, err := client.StreamEvents(ctx, &eventstorev1.StreamEventsRequest{ActorId: "order-1"})
	if err != nil {
		t.Fatal(err)
	}
	followed, err := client.Subscribe(ctx, &eventstorev1.SubscribeRequest{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = events.Close(), followed.Close() }()
	// All four were open, and none is: what they took is there again.
	if err := server.limits.streams.Acquire(ctx, DefaultMaxStreams); err != nil {
		t.Fatalf("a stream that nobody reads stays open: %v", err)
	}
	if err := server.limits.memory.Acquire(ctx, DefaultMemory); err != nil {
		t.Fatalf("a stream that has ended keeps its memory: %v", err)
	}
}

// A body that does not come to its end is given up.
func TestBodiesThatDoNotEnd(t *testing.T) {
	t.Parallel()
	server, err := New(Config{Stores: []Store{{Name: "orders", Store: memory.New()}}})
	if err != nil {
		t.Fatal(err)
	}
	server.readTimeout = 50 * time.Millisecond
	endpoint := httptest.NewServer(server.Handler())
	defer endpoint.Close()
	for _, path := range []string{"/v1/stores/orders/events", eventstorev1connect.EventStoreServiceSaveEventProcedure, eventstorev1connect.EventStoreServiceSubscribeProcedure} {
		contentType := "application/json"
		if strings.HasSuffix(path, "Subscribe") {
			contentType = "application/connect+json"
		}
		conn, err := net.Dial("tcp", endpoint.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
		if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		if _, err := fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: %s\r\nContent-Length: 100\r\n\r\n{", path, contentType); err != nil {
			t.Fatal(err)
		}
		// An answer, or the end.
		if _, err := io.Copy(io.Discard, conn); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
}
