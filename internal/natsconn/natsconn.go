// Package natsconn says when a connection to NATS is given up, and has another made: the
// sidecar, the operator and what answers callouts notice alike that a server is silent.
package natsconn

import (
	"time"

	"github.com/nats-io/nats.go"
)

const (
	// pingInterval and maxPings say when a server that is silent is given up: a machine
	// that lost its power closes no connection. The third ping that finds two
	// unanswered ends it, so after 8 to 12 seconds. A save has 15, of which 3 are left
	// to find another server: DefaultRequestTimeout of package internal/sidecar.
	pingInterval = 4 * time.Second
	maxPings     = 2
	// writeTimeout bounds one write, during which everything else on the connection
	// waits. nats.go takes a minute.
	writeTimeout = 2 * time.Second
)

// Lively are the options of a connection that notices a server which is silent.
func Lively() []nats.Option {
	return []nats.Option{
		nats.PingInterval(pingInterval),
		nats.MaxPingsOutstanding(maxPings),
		nats.FlusherTimeout(writeTimeout),
		// What was cut off in the middle leaves nothing that a server could read on.
		nats.ReconnectOnFlusherError(),
	}
}
