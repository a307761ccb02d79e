package sidecar_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
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

// TestStartupWaitsForStores, for ever or for a while, and no more after that.
func TestStartupWaitsForStores(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		wait time.Duration
		want int
	}{"for ever": {0, http.StatusServiceUnavailable}, "for a while": {time.Nanosecond, http.StatusOK}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				outcome := errors.New("no leader")
				check := func(context.Context) error { return outcome }
				server, err := sidecar.New(sidecar.Config{WaitForStores: c.wait, Stores: []sidecar.Store{{Name: "orders", Store: memory.New(), Check: check}}})
				must(t, err)
				time.Sleep(time.Second)
				wantStatus(t, server, "/startupz", c.want)
				outcome = nil
				time.Sleep(time.Second)
				wantStatus(t, server, "/startupz", http.StatusOK)
				outcome = errors.New("no leader")
				time.Sleep(time.Second)
				wantStatus(t, server, "/startupz", http.StatusOK)
				wantStatus(t, server, "/readyz", http.StatusServiceUnavailable)
			})
		})
	}
}

// wantStatus asks the health port, without a connection.
func wantStatus(t *testing.T, server *sidecar.Server, path string, want int) {
	t.Helper()
	got := httptest.NewRecorder()
	server.HealthHandler().ServeHTTP(got, httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil))
	if got.Code != want {
		t.Errorf("%s answers %d %s, want %d", path, got.Code, got.Body, want)
	}
}

// wantHealth asks over the health protocol of gRPC.
func wantHealth(t *testing.T, server *sidecar.Server, want string) {
	t.Helper()
	got := httptest.NewRecorder()
	request := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "http://127.0.0.1:4280/grpc.health.v1.Health/Check", strings.NewReader("{}"))
	request.Header.Set("Content-Type", "application/json")
	server.Handler().ServeHTTP(got, request)
	if !strings.Contains(got.Body.String(), want) {
		t.Errorf("health is %d %s, want %s", got.Code, got.Body, want)
	}
}

// TestStoresAreCheckedOnceASecond, however many ask: a check has JetStream work, and whoever
// reaches the pod may ask. A second later all see what has changed.
func TestStoresAreCheckedOnceASecond(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		checks, outcome := 0, errors.New("no leader")
		check := func(context.Context) error { checks++; return outcome }
		server, err := sidecar.New(sidecar.Config{Stores: []sidecar.Store{{Name: "orders", Store: memory.New(), Check: check}}})
		must(t, err)
		ask := func(status int, health string, want int) {
			t.Helper()
			for range 100 {
				wantStatus(t, server, "/readyz", status)
				wantStatus(t, server, "/startupz", status)
				wantHealth(t, server, health)
			}
			if checks != want {
				t.Errorf("stores were checked %d times, want %d", checks, want)
			}
		}
		ask(http.StatusServiceUnavailable, "NOT_SERVING", 1)
		outcome = nil
		time.Sleep(time.Second)
		ask(http.StatusOK, `"SERVING`, 2)
		outcome = errors.New("no leader")
		time.Sleep(time.Second)
		wantStatus(t, server, "/readyz", http.StatusServiceUnavailable)
		wantHealth(t, server, "NOT_SERVING")
	})
}
