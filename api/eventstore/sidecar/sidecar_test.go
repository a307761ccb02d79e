package sidecar_test

import (
	"context"
	"net"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/memory"
	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/sidecar"
	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/storetest"
	server "git.flowmade.one/flowmade-one/aether-operator/internal/sidecar"
)

func TestConformanceOverMemory(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(t *testing.T, opts ...eventstore.Option) eventstore.Store {
		return open(t, serve(t, server.Config{Stores: []server.Store{{Name: "orders", Store: memory.New()}}}), "orders", opts...)
	})
}

func TestConformanceOverASocket(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(t *testing.T, opts ...eventstore.Option) eventstore.Store {
		return open(t, serveUnix(t, server.Config{Stores: []server.Store{{Name: "orders", Store: memory.New()}}}), "orders", opts...)
	})
}

func TestDurableConformanceOverMemory(t *testing.T) {
	t.Parallel()
	for transport, serve := range transports {
		t.Run(transport, func(t *testing.T) {
			t.Parallel()
			storetest.RunDurable(t, func(t *testing.T, opts ...eventstore.Option) eventstore.DurableStore {
				return open(t, serve(t, server.Config{Stores: []server.Store{{Name: "orders", Store: memory.New()}}}), "orders", opts...)
			})
		})
	}
}

// transports are the ways to a sidecar.
var transports = map[string]func(*testing.T, server.Config) string{"tcp": serve, "socket": serveUnix}

// serve runs a sidecar for the time of a test and returns its endpoint.
func serve(t *testing.T, config server.Config) string {
	t.Helper()
	api := listen(t, "tcp", "127.0.0.1:0")
	start(t, config, api)
	return "http://" + api.Addr().String()
}

// serveUnix is serve on a Unix socket.
func serveUnix(t *testing.T, config server.Config) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	start(t, config, listen(t, "unix", path))
	return "unix://" + path
}

func listen(t *testing.T, network, address string) net.Listener {
	t.Helper()
	listener, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	return listener
}

// start serves until the test ends, or until the function that it returns is
// called.
func start(t *testing.T, config server.Config, api net.Listener) (stop func()) {
	t.Helper()
	s, err := server.New(config)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	health := listen(t, "tcp", "127.0.0.1:0")
	go func() { ended <- s.Serve(ctx, []net.Listener{api}, health) }()
	stopped := false
	stop = func() {
		cancel()
		if stopped {
			return
		}
		stopped = true
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(stop)
	return stop
}

func open(t *testing.T, endpoint, store string, opts ...eventstore.Option) *sidecar.Store {
	t.Helper()
	s, err := sidecar.New(endpoint, store, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
