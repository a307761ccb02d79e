package sidecar

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"golang.org/x/net/netutil"
	"golang.org/x/sync/errgroup"
)

const (
	// stopTimeout bounds how long a stop waits for calls under way: more than
	// DefaultRequestTimeout, less than the 30 s that a pod has by default.
	stopTimeout = 20 * time.Second
	// headerTimeout is how long the headers of a request may take.
	headerTimeout = 10 * time.Second
	// idleTimeout is how long a connection is kept that nobody uses.
	idleTimeout = 5 * time.Minute
	// maxConnections is how many connections to the API there may be at once. A
	// connection that nobody uses takes some 20 KiB; one more waits until another is
	// closed.
	maxConnections = 1024
	// maxHeaderBytes leaves room for a path that holds the longest actor id, each
	// byte percent-encoded, many times over.
	maxHeaderBytes = 32 << 10
)

// Serve serves the API on each of the listeners api, and health and metrics on
// health, until ctx ends. Then it accepts no more, ends streams, and returns
// when the calls under way have been answered, or after 20 s with an error. It
// closes the listeners.
func (s *Server) Serve(ctx context.Context, api []net.Listener, health net.Listener) error {
	apiServer := s.httpServer(s.api)
	healthServer := s.healthServer()
	serving, ctx := errgroup.WithContext(ctx)
	for _, listener := range api {
		serving.Go(func() error { return serve(apiServer, netutil.LimitListener(listener, maxConnections)) })
	}
	serving.Go(func() error { return serve(healthServer, limitHealth(health)) })
	serving.Go(func() error {
		<-ctx.Done()
		return s.shutdown(apiServer, healthServer)
	})
	return serving.Wait()
}

func serve(server *http.Server, listener net.Listener) error {
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve on %s: %w", listener.Addr(), err)
	}
	return nil
}

// shutdown ends the API first: while calls are answered, readyz says that the
// sidecar stops.
func (s *Server) shutdown(apiServer, healthServer *http.Server) error {
	s.stop()
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	var unfinished error
	if err := apiServer.Shutdown(ctx); err != nil {
		unfinished = fmt.Errorf("stop: calls were cut off that had no answer after %s: %w", stopTimeout, err)
	}
	return errors.Join(unfinished, apiServer.Close(), healthServer.Close())
}

func (s *Server) httpServer(handler http.Handler) *http.Server {
	server := &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		Protocols:         new(http.Protocols),
		ErrorLog:          slog.NewLogLogger(s.config.Logger.Handler(), slog.LevelDebug),
		// A client that answers no ping, or takes no byte, is gone.
		HTTP2: &http.HTTP2Config{WriteByteTimeout: s.writeTimeout, SendPingTimeout: s.writeTimeout / 2, PingTimeout: s.writeTimeout / 2},
	}
	server.Protocols.SetHTTP1(true)
	// gRPC needs HTTP/2, and on localhost there is no TLS to agree on it.
	server.Protocols.SetUnencryptedHTTP2(true)
	return server
}
