package sidecar_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/memory"
	"git.flowmade.one/flowmade-one/aether-operator/internal/sidecar"
)

// dialFrom connects to the health port from an address of this machine.
func (r *running) dialFrom(source string) net.Conn {
	r.Helper()
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(source)}}
	conn, err := dialer.DialContext(r.Context(), "tcp", strings.TrimPrefix(r.health, "http://"))
	must(r.T, err)
	r.Cleanup(func() { _ = conn.Close() })
	return conn
}

// wantClosed: the server ends a connection without a word.
func wantClosed(t *testing.T, conn net.Conn) {
	t.Helper()
	must(t, conn.SetReadDeadline(time.Now().Add(deadline)))
	if n, err := conn.Read(make([]byte, 1)); n != 0 || err == nil {
		t.Errorf("the server answered with %d bytes", n)
	} else if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
		t.Error("the connection was kept")
	}
}

// TestHealthConnections: whoever reaches the pod has a few connections, which take
// nothing from the programs of the pod.
func TestHealthConnections(t *testing.T) {
	t.Parallel()
	r := serveMemory(t)
	const elsewhere, most = "127.0.0.2", 64
	for range most {
		r.dialFrom(elsewhere)
	}
	wantClosed(t, r.dialFrom(elsewhere))
	if got := r.healthOf("/readyz"); got.status != http.StatusOK {
		t.Errorf("a probe of the pod: %d %s", got.status, got.body)
	}
}

// TestHealthIsHTTP1: over one connection of HTTP/2 come as many requests as one likes.
func TestHealthIsHTTP1(t *testing.T) {
	t.Parallel()
	r := serveMemory(t)
	conn := r.dialFrom("127.0.0.1")
	_, err := io.WriteString(conn, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")
	must(t, err)
	must(t, conn.SetReadDeadline(time.Now().Add(deadline)))
	answered, err := io.ReadAll(conn)
	must(t, err)
	if !strings.HasPrefix(string(answered), "HTTP/1.1 4") && len(answered) != 0 {
		t.Errorf("answered %q", answered)
	}
}

// TestOneCheckAtATime: who asks often is told what was found once.
func TestOneCheckAtATime(t *testing.T) {
	t.Parallel()
	var now, most atomic.Int64
	check := func(context.Context) error {
		defer now.Add(-1)
		most.Store(max(most.Load(), now.Add(1)))
		return nil
	}
	r := serve(t, sidecar.Config{Stores: []sidecar.Store{{Name: "orders", Store: memory.New(), Check: check}}})
	var asking sync.WaitGroup
	for range 16 {
		asking.Go(func() {
			for range 20 {
				if got := r.healthOf("/readyz"); got.status != http.StatusOK {
					t.Errorf("%d %s", got.status, got.body)
				}
			}
		})
	}
	asking.Wait()
	if most.Load() != 1 {
		t.Errorf("%d checks of a store at once", most.Load())
	}
}

// TestStartupWaitsForStores, for ever or for a while, and no more after that.
func TestStartupWaitsForStores(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		wait time.Duration
		want int
	}{"for ever": {0, http.StatusServiceUnavailable}, "for a while": {time.Nanosecond, http.StatusOK}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var there atomic.Bool
			check := func(context.Context) error {
				if there.Load() {
					return nil
				}
				return errors.New("no leader")
			}
			r := serve(t, sidecar.Config{WaitForStores: c.wait, Stores: []sidecar.Store{{Name: "orders", Store: memory.New(), Check: check}}})
			if got := r.healthOf("/startupz"); got.status != c.want {
				t.Errorf("before the stores: %d %s, want %d", got.status, got.body, c.want)
			}
			there.Store(true)
			if got := r.healthOf("/startupz"); got.status != http.StatusOK {
				t.Errorf("beside the stores: %d %s", got.status, got.body)
			}
			there.Store(false)
			if got := r.healthOf("/startupz"); got.status != http.StatusOK {
				t.Errorf("without the stores again: %d %s", got.status, got.body)
			}
			if got := r.healthOf("/readyz"); got.status != http.StatusServiceUnavailable {
				t.Errorf("readyz tells something else: %d %s", got.status, got.body)
			}
		})
	}
}
