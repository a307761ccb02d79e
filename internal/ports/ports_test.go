package ports

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"git.flowmade.one/flowmade-one/aether-operator/internal/openport"
)

// serve answers on a port with so many connections. The answer to a call to /wait begins at
// once, and ends when one to /go comes or the test ends; to /read there is one when all of it
// has come, and what is called otherwise is not there.
func serve(t *testing.T, most int) (address string) {
	t.Helper()
	opened, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	over := make(chan struct{})
	end := sync.OnceFunc(func() { close(over) })
	mux := http.NewServeMux()
	mux.HandleFunc("/wait", func(w http.ResponseWriter, _ *http.Request) {
		_ = http.NewResponseController(w).Flush()
		<-over
	})
	mux.HandleFunc("/go", func(http.ResponseWriter, *http.Request) { end() })
	mux.HandleFunc("/read", func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) })
	mux.HandleFunc("/{$}", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") })
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- Server("test", openport.Bound(opened, most), mux).Start(ctx) }()
	t.Cleanup(func() {
		end()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return opened.Addr().String()
}

// call connects from an address of this machine, and begins what it is given.
func call(t *testing.T, from, to, begin string) net.Conn {
	t.Helper()
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: 10 * time.Second}
	c, err := dialer.DialContext(t.Context(), "tcp", to)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if _, err := io.WriteString(c, begin); err != nil {
		t.Fatal(err)
	}
	return c
}

const get = "GET / HTTP/1.1\r\nHost: x\r\n\r\n"

// answered says whether an answer comes: false when the connection is closed.
func answered(t *testing.T, c net.Conn) bool {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	_, err := c.Read(make([]byte, 1))
	if timeout := net.Error(nil); errors.As(err, &timeout) && timeout.Timeout() {
		t.Fatal("neither an answer nor an end")
	}
	return err == nil
}

// A place that was given up is free.
func TestPlacesComeBack(t *testing.T) {
	t.Parallel()
	to := serve(t, 1)
	for i := range 5 {
		c := call(t, "127.0.0.2", to, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
		if !answered(t, c) {
			t.Fatalf("call %d has no place", i)
		}
		if _, err := io.Copy(io.Discard, c); err != nil {
			t.Fatal(err)
		}
	}
}

func TestHeadersAreBounded(t *testing.T) {
	t.Parallel()
	c := call(t, "127.0.0.1", serve(t, 4), "GET / HTTP/1.1\r\nHost: x\r\nX: "+string(make([]byte, maxHeaderBytes+4096)))
	got := make([]byte, len("HTTP/1.1 431"))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != "HTTP/1.1 431" {
		t.Errorf("%q, %v", got, err)
	}
}

// A port that is taken is named.
func TestListenSaysWhere(t *testing.T) {
	t.Parallel()
	l, err := Listen(t.Context(), "127.0.0.1:0", 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	if _, err := Listen(t.Context(), l.Addr().String(), 1, nil); err == nil || fmt.Sprintf("%.9s", err) != "listen on" {
		t.Errorf("a port that is taken: %v", err)
	}
}
