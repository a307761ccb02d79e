package sidecar

import (
	"net"
	"net/http"
	"net/netip"
	"time"

	"git.flowmade.one/flowmade-one/aether-operator/internal/openport"
)

// The health port listens on the address of the pod, where anybody can reach it who
// reaches the pod. So it takes few connections, for one request each.
const (
	// maxHealthConnections from this machine, and as many from elsewhere: a probe in
	// the pod gets through however many others come.
	maxHealthConnections = 64
	// healthTimeout is for reading a request, and for writing its answer.
	healthTimeout        = 5 * time.Second
	maxHealthHeaderBytes = 8 << 10
)

func (s *Server) healthServer() *http.Server {
	server := s.httpServer(s.health)
	server.ReadHeaderTimeout, server.ReadTimeout, server.WriteTimeout = healthTimeout, healthTimeout, healthTimeout
	server.MaxHeaderBytes = maxHealthHeaderBytes
	// One connection is one request at a time: HTTP/2 would be a hundred and more.
	server.Protocols.SetUnencryptedHTTP2(false)
	// Probes and scrapes connect anew, and who was answered needs no place any more.
	server.SetKeepAlivesEnabled(false)
	return server
}

// healthListener bounds the connections to the health port. Whoever comes gets a place: the
// places do not know what is answered, so that nobody keeps one by reading an answer slowly.
type healthListener struct {
	net.Listener
	local, others *openport.Places
}

func limitHealth(listener net.Listener) *healthListener {
	return &healthListener{listener, openport.NewPlaces(maxHealthConnections), openport.NewPlaces(maxHealthConnections)}
}

// Accept waits for a connection, and makes a place for it.
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
		if taken, ok := places.Take(conn); ok {
			return taken, nil
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
