package sidecar_test

import (
	"context"
	"errors"
	"fmt"
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

const getHealthz = "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"

// wantAnswer asks over a connection, and wants an answer, and the end of the connection.
func wantAnswer(t *testing.T, conn net.Conn) {
	t.Helper()
	must(t, conn.SetDeadline(time.Now().Add(deadline)))
	_, err := io.WriteString(conn, getHealthz)
	must(t, err)
	if answered, err := io.ReadAll(conn); err != nil || !strings.HasPrefix(string(answered), "HTTP/1.1 200") {
		t.Errorf("%s is answered %q, %v", conn.LocalAddr(), answered, err)
	}
}

// TestHealthConnections: whoever reaches the pod, and has as many connections as one likes,
// keeps nobody out, neither the programs of the pod nor who comes from elsewhere.
func TestHealthConnections(t *testing.T) {
	t.Parallel()
	const local, stranger, most = "127.0.0.1", "127.0.0.2", 64
	for name, held := range map[string]struct {
		from  func(i int) string
		begin string
	}{
		"silent":                           {func(int) string { return stranger }, ""},
		"silent, of as many addresses":     {func(i int) string { return fmt.Sprintf("127.0.1.%d", i) }, ""},
		"silent, of the pod":               {func(int) string { return local }, ""},
		"headers without an end":           {func(int) string { return stranger }, "GET / HTTP/1.1\r\n"},
		"bodies without an end":            {func(int) string { return stranger }, "POST /readyz HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n"},
		"who waits for an answer":          {func(int) string { return stranger }, "GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n"},
		"who waits for one, in the pod":    {func(int) string { return local }, "GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n"},
		"who was answered, and asks again": {func(int) string { return stranger }, getHealthz},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			waits := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
			r := serve(t, sidecar.Config{Stores: []sidecar.Store{{Name: "orders", Store: memory.New(), Check: waits}}})
			for i := range most {
				_, err := io.WriteString(r.dialFrom(held.from(i)), held.begin)
				must(t, err)
			}
			for range 2 {
				for _, from := range []string{local, stranger, "127.0.0.3"} {
					wantAnswer(t, r.dialFrom(from))
				}
			}
		})
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
