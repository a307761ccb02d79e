package sidecar

import (
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"
)

// The health port listens on the address of the pod, where anybody can reach it who
// reaches the pod. So it takes few connections, for a short time each.
const (
	// maxHealthConnections from this machine, and as many from elsewhere: a probe in
	// the pod gets through however many others come. One more is closed at once.
	maxHealthConnections = 64
	// healthTimeout is for reading a request, and for writing its answer.
	healthTimeout = 5 * time.Second
	// healthIdleTimeout is less than the pause between two scrapes: each scrape
	// connects anew.
	healthIdleTimeout    = 10 * time.Second
	maxHealthHeaderBytes = 8 << 10
)

func (s *Server) healthServer() *http.Server {
	server := s.httpServer(s.health)
	server.ReadHeaderTimeout, server.ReadTimeout, server.WriteTimeout = healthTimeout, healthTimeout, healthTimeout
	server.IdleTimeout, server.MaxHeaderBytes = healthIdleTimeout, maxHealthHeaderBytes
	// One connection is one request at a time: HTTP/2 would be a hundred and more.
	server.Protocols.SetUnencryptedHTTP2(false)
	return server
}

// healthListener bounds the connections to the health port.
type healthListener struct {
	net.Listener
	local, others chan struct{}
}

func limitHealth(listener net.Listener) *healthListener {
	return &healthListener{listener, make(chan struct{}, maxHealthConnections), make(chan struct{}, maxHealthConnections)}
}

// Accept waits for a connection that there is a place for.
func (l *healthListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		places := l.others
		if isLocal(conn.RemoteAddr()) {
			places = l.local
		}
		select {
		case places <- struct{}{}:
			return &healthConn{Conn: conn, release: sync.OnceFunc(func() { <-places })}, nil
		default:
			_ = conn.Close()
		}
	}
}

// isLocal tells a program of the pod. A mesh that hands on what comes from elsewhere
// uses another address of 127.0.0.0/8, as Istio does, or that of the pod.
func isLocal(address net.Addr) bool {
	parsed, err := netip.ParseAddrPort(address.String())
	if err != nil {
		return false
	}
	ip := parsed.Addr().Unmap()
	return ip == netip.AddrFrom4([4]byte{127, 0, 0, 1}) || ip == netip.IPv6Loopback()
}

// healthConn gives its place back when it is closed.
type healthConn struct {
	net.Conn
	release func()
}

func (c *healthConn) Close() error {
	defer c.release()
	return c.Conn.Close()
}
