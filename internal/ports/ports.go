// Package ports serves the ports of the operator. Each pod of a cluster may reach them, so
// whoever knows no path and no token takes little memory, and no place that others need.
package ports

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/manager"

	"git.flowmade.one/flowmade-one/aether-operator/internal/openport"
)

const (
	// headerTimeout is how long a handshake may take, and then the header of a request;
	// requestTimeout and answerTimeout how long all of it, and the answer.
	headerTimeout  = 5 * time.Second
	requestTimeout = 10 * time.Second
	answerTimeout  = 30 * time.Second
	idleTimeout    = 90 * time.Second
	// endTimeout is how long what is under way is waited for in the end: less than the grace
	// period of the manager, which else ends with an error for a client that reads slowly.
	endTimeout = 10 * time.Second
	// maxHeaderBytes is more than a token and a path take. The server reads 4 KiB more.
	maxHeaderBytes = 16 << 10
)

// Few is how many connections a port has at once that a few ask now and then. One takes some
// 60 KiB while a header of maxHeaderBytes comes in over TLS.
const Few = 64

// Listen opens a port for so many connections at once, over TLS where a configuration is
// given. HTTP/2, which lets a client make a server work for requests that it has cancelled,
// is not offered.
func Listen(ctx context.Context, address string, most int, secure *tls.Config) (net.Listener, error) {
	var config net.ListenConfig
	opened, err := config.Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", address, err)
	}
	listener := openport.Bound(opened, most)
	if secure != nil {
		secure = secure.Clone()
		secure.MinVersion, secure.NextProtos = tls.VersionTLS12, []string{"http/1.1"}
		listener = tls.NewListener(listener, secure)
	}
	return listener, nil
}

// Server answers what comes to a port that Listen has opened, over HTTP/1.1, on each replica,
// until it is to end; then it waits for a while for what is under way.
func Server(name string, listener net.Listener, handler http.Handler) *manager.Server {
	patience := endTimeout
	server := &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       requestTimeout,
		WriteTimeout:      answerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		// It would answer everybody, and keep the connection.
		DisableGeneralOptionsHandler: true,
	}
	openport.Watch(server)
	return &manager.Server{Name: name, Listener: listener, ShutdownTimeout: &patience, Server: server}
}
