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

// slowServer serves streams that never end, and gives a write little time.
type slowServer struct {
	*testing.T
	server *Server
	url    string
	stop   context.CancelFunc
	ended  chan error
}

func serveEndless(t *testing.T, writeTimeout time.Duration) *slowServer {
	t.Helper()
	server, err := New(Config{Stores: []Store{{Name: "orders", Store: endless{memory.New()}}}})
	if err != nil {
		t.Fatal(err)
	}
	server.writeTimeout = writeTimeout
	var listeners [2]net.Listener
	for i := range listeners {
		if listeners[i], err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			t.Fatal(err)
		}
	}
	ctx, stop := context.WithCancel(context.Background())
	s := &slowServer{T: t, server: server, url: "http://" + listeners[0].Addr().String(), stop: stop, ended: make(chan error, 1)}
	go func() {
		s.ended <- server.Serve(ctx, listeners[:1], listeners[1])
		close(s.ended)
	}()
	t.Cleanup(func() { stop(); <-s.ended })
	return s
}

// client speaks gRPC over HTTP/2, through connections that dial makes.
func (s *slowServer) client(dial func(context.Context, string, string) (net.Conn, error)) eventstorev1connect.EventStoreServiceClient {
	transport := &http.Transport{Protocols: new(http.Protocols), DialContext: dial}
	transport.Protocols.SetUnencryptedHTTP2(true)
	s.Cleanup(transport.CloseIdleConnections)
	return eventstorev1connect.NewEventStoreServiceClient(&http.Client{Transport: transport}, s.url, connect.WithGRPC())
}

// get opens a stream over HTTP/1.1 that nobody reads.
func (s *slowServer) get(ctx context.Context, path string) {
	s.Helper()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url+path, nil)
	if err != nil {
		s.Fatal(err)
	}
	request.Header.Set("Accept", "text/event-stream, application/x-ndjson")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { _ = response.Body.Close() })
}

// wantOpen waits until no more streams are open.
func (s *slowServer) wantOpen(ctx context.Context, streams int64) {
	s.Helper()
	if err := s.server.limits.streams.Acquire(ctx, DefaultMaxStreams-streams); err != nil {
		s.Fatalf("a stream that nobody reads stays open: %v", err)
	}
	s.server.limits.streams.Release(DefaultMaxStreams - streams)
}

// A client that reads nothing over HTTP/1.1 is given up: it may have died.
func TestReadersThatDoNotRead(t *testing.T) {
	t.Parallel()
	s := serveEndless(t, 200*time.Millisecond)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	s.get(ctx, "/v1/stores/orders/events")
	s.get(ctx, "/v1/stores/orders/actors/order-1/events")
	// Both were open, and none is: what they took is there again.
	s.wantOpen(ctx, 0)
	if err := s.server.limits.memory.Acquire(ctx, DefaultMemory); err != nil {
		t.Fatalf("a stream that has ended keeps its memory: %v", err)
	}
}

// Over HTTP/2 a client that lives may take its time over one event: it is not cut off, and
// misses nothing.
func TestFollowersThatAreSlow(t *testing.T) {
	t.Parallel()
	// A client must answer pings in half of that, also on a busy machine.
	s := serveEndless(t, 4*time.Second)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	client := s.client(nil)
	followed, err := client.Subscribe(ctx, &eventstorev1.SubscribeRequest{})
	if err != nil {
		t.Fatal(err)
	}
	read, err := client.StreamEvents(ctx, &eventstorev1.StreamEventsRequest{ActorId: "order-1"})
	if err != nil {
		t.Fatal(err)
	}
	// Meanwhile others are given up, one after another.
	for range 2 {
		s.get(ctx, "/v1/stores/orders/events")
		s.wantOpen(ctx, 2)
	}
	for n := range 200 {
		if !followed.Receive() || !read.Receive() {
			t.Fatalf("after %d events: %v, %v", n, followed.Err(), read.Err())
		}
	}
	// Nor does it hold the server up that stops.
	s.stop()
	if err := <-s.ended; err != nil {
		t.Error(err)
	}
}

// frozen is a connection of a process that is stopped, once it is.
type frozen struct {
	net.Conn
	stopped chan struct{}
	closed  chan struct{}
}

func (f *frozen) Read(p []byte) (int, error) {
	select {
	case <-f.stopped:
		<-f.closed
		return 0, net.ErrClosed
	default:
		return f.Conn.Read(p)
	}
}

// A client that does not live is given up over HTTP/2 too: it answers no ping.
func TestFollowersThatAreStopped(t *testing.T) {
	t.Parallel()
	s := serveEndless(t, 200*time.Millisecond)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	conn := &frozen{stopped: make(chan struct{}), closed: make(chan struct{})}
	t.Cleanup(func() { close(conn.closed) })
	client := s.client(func(ctx context.Context, network, address string) (_ net.Conn, err error) {
		conn.Conn, err = new(net.Dialer).DialContext(ctx, network, address)
		return conn, err
	})
	followed, err := client.Subscribe(ctx, &eventstorev1.SubscribeRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if !followed.Receive() {
		t.Fatal(followed.Err())
	}
	close(conn.stopped)
	s.wantOpen(ctx, 0)
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
