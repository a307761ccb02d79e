package sidecar_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"slices"
	"testing"

	gosse "github.com/tmaxmax/go-sse"
)

// A client of server-sent events whose connection breaks connects again by
// itself, and misses nothing and gets nothing twice.
func TestResume(t *testing.T) {
	t.Parallel()
	r := serveMemory(t)
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, r.api+ordersEvents, nil)
	must(t, err)
	conns := make(chan net.Conn, 10)
	transport := &http.Transport{DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, address)
		if err == nil {
			conns <- conn
		}
		return conn, err
	}}
	client := &gosse.Client{HTTPClient: &http.Client{Transport: transport}}
	connection := client.NewConnection(request)
	ids := make(chan string)
	connection.SubscribeMessages(func(event gosse.Event) {
		// This client makes an event of the wait that it is told, too.
		if event.Data == "" {
			return
		}
		select {
		case ids <- event.LastEventID:
		case <-ctx.Done():
		}
	})
	ended := make(chan error, 1)
	go func() { ended <- connection.Connect() }()
	var got []string
	for n := range 3 {
		for i := range 2 {
			r.saveOne(fmt.Sprintf("e-%d-%d", n, i), "order-1", "T")
			select {
			case id := <-ids:
				got = append(got, id)
			case err := <-ended:
				t.Fatalf("the client has ended after %q: %v", got, err)
			case <-ctx.Done():
				t.Fatalf("the client waits after %q", got)
			}
		}
		must(t, (<-conns).Close())
	}
	if want := []string{"1", "2", "3", "4", "5", "6"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	cancel()
	<-ended
}
