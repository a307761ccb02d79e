package webhook

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"git.flowmade.one/flowmade-one/aether-operator/internal/ports"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv"
)

// pipes is a port in memory, whose time is that of the test. What is written there waits until
// it is read.
type pipes struct {
	come   chan net.Conn
	closed chan struct{}
}

type pipe struct {
	net.Conn
	from net.Addr
}

func (p pipe) RemoteAddr() net.Addr { return p.from }

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.come:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { close(p.closed); return nil }
func (p *pipes) Addr() net.Addr { return &net.TCPAddr{} }

// dial connects from an address until the context ends.
func (p *pipes) dial(ctx context.Context, from string) (net.Conn, error) {
	near, far := net.Pipe()
	select {
	case p.come <- pipe{far, &net.TCPAddr{IP: net.ParseIP(from), Port: 1}}:
		context.AfterFunc(ctx, func() { _ = near.Close() })
		return near, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// begin writes a request with all but the last byte of its body.
func begin(to io.Writer, path, body string) error {
	_, err := fmt.Fprintf(to, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", path, len(body), body[:len(body)-1])
	return err
}

// TestSlowCallers: pods that know the path have turns in every way in which a caller can be
// slow. The API server, which is not, has its own in time, one after the other.
func TestSlowCallers(t *testing.T) {
	t.Parallel()
	wait := func(ctx context.Context, duration time.Duration) {
		select {
		case <-ctx.Done():
		case <-time.After(duration):
		}
	}
	body := review("made-up", "orders")
	body = body[:len(body)-1] + strings.Repeat(" ", 2*headBytes) + "}"
	for name, goOn := range map[string]func(context.Context, net.Conn){
		"stops":             func(_ context.Context, c net.Conn) { _, _ = c.Read(make([]byte, 1)) },
		"goes away":         func(ctx context.Context, _ net.Conn) { wait(ctx, bodyTimeout-400*time.Millisecond) },
		"goes away in time": func(ctx context.Context, _ net.Conn) { wait(ctx, patience-time.Millisecond) },
		"ends a moment before it is ended": func(ctx context.Context, c net.Conn) {
			wait(ctx, bodyTimeout-100*time.Millisecond)
			_, _ = io.WriteString(c, "}")
			_, _ = io.Copy(io.Discard, c)
		},
		"does not read": func(ctx context.Context, c net.Conn) {
			_, _ = io.WriteString(c, "}")
			<-ctx.Done()
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				port := &pipes{make(chan net.Conn), make(chan struct{})}
				server := ports.Server("webhook", port, oneCallEach(behind(&slow{each: time.Millisecond}))).Server
				var all sync.WaitGroup
				defer all.Wait()
				all.Go(func() { _ = server.Serve(port) })
				defer func() { _ = server.Shutdown(context.WithoutCancel(t.Context())) }()
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				for pod := range 2 * turnsAtOnce {
					for range 2 {
						all.Go(func() {
							for ctx.Err() == nil {
								c, err := port.dial(ctx, fmt.Sprintf("192.0.2.%d", pod+1))
								if err != nil {
									return
								}
								if begin(c, "/", body) == nil {
									goOn(ctx, c)
								}
								_ = c.Close()
							}
						})
					}
				}
				wait(ctx, time.Second)
				for range 4 {
					if err := ask(ctx, port, body); err != nil {
						t.Error(err)
					}
				}
			})
		})
	}
}

// ask calls as an API server does.
func ask(ctx context.Context, port *pipes, body string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return port.dial(context.WithoutCancel(ctx), "198.51.100.1")
	}}
	defer transport.CloseIdleConnections()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://x/", bytes.NewReader([]byte(body)))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := transport.RoundTrip(request)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	answer, err := io.ReadAll(response.Body)
	if err == nil && (response.StatusCode != http.StatusOK || !json.Valid(answer)) {
		return fmt.Errorf("%s: %s", response.Status, answer)
	}
	return err
}

// TestCallersThatGoAway: who has seen the path has no turns for long by going away just before
// it would be known as one that stops: sixteen pods hold up no other.
func TestCallersThatGoAway(t *testing.T) {
	r := startReplica(t, Options{})
	install(t, r)
	waitUntilServing(t, r)
	called, err := url.Parse(*configuration(t).Webhooks[0].ClientConfig.URL)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var callers sync.WaitGroup
	defer callers.Wait()
	defer cancel()
	var held atomic.Int64
	const pods = 16
	for pod := range pods {
		for range 2 {
			callers.Go(func() {
				for ctx.Err() == nil {
					goAway(ctx, fmt.Sprintf("127.0.1.%d", pod+1), r.address, called.Path, &held)
				}
			})
		}
	}
	testenv.Eventually(t, deadline, "turns to be held", func() error {
		if n := held.Load(); n < 2*pods {
			return fmt.Errorf("%d were", n)
		}
		return nil
	})
	for range 4 {
		if err := kubernetes.Client.Create(t.Context(), labelled(plainNamespace, "orders"), client.DryRunAll); err != nil {
			t.Error(err)
		}
	}
}

// goAway begins a review that is too large for what is kept of it before its turn, so all but its
// end is sent when the turn has come. Then it holds the turn for most of the time that it may.
func goAway(ctx context.Context, from, address, path string, held *atomic.Int64) {
	conn, err := dialFrom(ctx, from, address)
	if err != nil {
		return
	}
	defer func() { _ = conn.Close() }()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	tcp, isTCP := conn.(*tls.Conn).NetConn().(*net.TCPConn)
	if !isTCP || tcp.SetWriteBuffer(4<<10) != nil {
		return
	}
	body := review("made-up", "orders")
	if begin(conn, path, body+strings.Repeat(" ", maxBodyBytes-1-len(body))) != nil {
		return
	}
	held.Add(1)
	select {
	case <-ctx.Done():
	case <-time.After(bodyTimeout - 400*time.Millisecond):
	}
}
