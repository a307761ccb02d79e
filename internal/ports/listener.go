package ports

import (
	"net"
	"net/netip"
	"sync"
)

// listener accepts a bounded number of connections. Where there are as many, a new one takes
// the place of one of the peer that has most, so that nobody keeps others out; first of those
// that have asked nothing yet.
type listener struct {
	net.Listener
	most int

	mu   sync.Mutex
	open map[*connection]struct{}
}

// connection is one that was accepted.
type connection struct {
	net.Conn
	from *listener
	peer string
	// asked: a request has come, and is answered. It belongs to from.mu.
	asked bool
}

func bounded(l net.Listener, most int) *listener {
	return &listener{Listener: l, most: most, open: map[*connection]struct{}{}}
}

func (l *listener) Accept() (net.Conn, error) {
	for {
		accepted, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		c := &connection{Conn: accepted, from: l, peer: Peer(accepted.RemoteAddr().String())}
		out := l.admit(c)
		if out != nil {
			// Whoever reads from it has the error.
			_ = out.Close()
		}
		if out != c {
			return c, nil
		}
	}
}

// admit counts a connection, and gives the one that is to be closed for it: nil where there
// is room, and itself where its peer has as many as any.
func (l *listener) admit(c *connection) (out *connection) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.open) >= l.most {
		if out = l.superfluous(c.peer); out == nil {
			return c
		}
		delete(l.open, out)
	}
	l.open[c] = struct{}{}
	return out
}

// superfluous is a connection of a peer that has more than one that comes has with it.
func (l *listener) superfluous(comes string) *connection {
	has := map[string]int{comes: 1}
	for c := range l.open {
		has[c.peer]++
	}
	var out *connection
	for c := range l.open {
		switch {
		case has[c.peer] <= has[comes]:
		case out == nil, out.asked && !c.asked, out.asked == c.asked && has[c.peer] > has[out.peer]:
			out = c
		}
	}
	return out
}

func (l *listener) note(c *connection, asked bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c.asked = asked
}

func (c *connection) Close() error {
	c.from.mu.Lock()
	delete(c.from.open, c)
	c.from.mu.Unlock()
	return c.Conn.Close()
}

// Peer is who is at an address with a port, as far as places are shared: an address, and of
// IPv6 the /64 that a single host may have.
func Peer(address string) string {
	parsed, err := netip.ParseAddrPort(address)
	if err != nil {
		return address
	}
	ip := parsed.Addr().Unmap().WithZone("")
	if ip.Is4() {
		return ip.String()
	}
	network, err := ip.Prefix(64)
	if err != nil {
		return address
	}
	return network.String()
}
