package openport

import (
	"cmp"
	"net"
	"sync"
	"time"
)

// asksWithin is how long one who connects is taken for one who is about to ask.
const asksWithin = time.Second

// Places are for a bounded number of connections. Where all are taken, a new one takes that of
// one that asks nothing, and none where all are in the middle of a request. A connection whose
// server is not watched asks nothing as far as they know, so that a new one always has a place.
type Places struct {
	most int

	mu   sync.Mutex
	open map[*connection]struct{}
}

// connection is one that was accepted.
type connection struct {
	net.Conn
	from *Places
	peer Peer
	doing
}

// doing is what a connection is about. It belongs to the mutex of the places.
type doing struct {
	// asks: a request is answered. asked: one was, or is.
	asks, asked bool
	// since is when it began to ask nothing.
	since time.Time
}

// NewPlaces makes places for as many connections at once.
func NewPlaces(most int) *Places {
	return &Places{most: most, open: map[*connection]struct{}{}}
}

// Take gives a connection a place until it is closed. It closes the one that has to go for it:
// itself where there is none, and then there is nothing to serve.
func (p *Places) Take(conn net.Conn) (taken net.Conn, ok bool) {
	c := &connection{Conn: conn, from: p, peer: PeerOf(conn.RemoteAddr().String()), doing: doing{since: time.Now()}}
	out := p.admit(c)
	if out != nil {
		// Whoever reads from it has the error.
		_ = out.Close()
	}
	return c, out != c
}

// listener accepts the connections that have a place.
type listener struct {
	net.Listener
	places *Places
}

// Bound has a listener accept no more connections at once than most.
func Bound(l net.Listener, most int) net.Listener {
	return &listener{l, NewPlaces(most)}
}

func (l *listener) Accept() (net.Conn, error) {
	for {
		accepted, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if c, ok := l.places.Take(accepted); ok {
			return c, nil
		}
	}
}

// admit counts a connection, and gives the one that is to be closed for it: nil where there
// is room, and itself where there is no place for it.
func (p *Places) admit(c *connection) (out *connection) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.open) >= p.most {
		if out = goes(p.open, c); out == nil {
			return c
		}
		delete(p.open, out)
	}
	p.open[c] = struct{}{}
	return out
}

// goes is the connection whose place one takes that comes: the first in this order of those
// that ask nothing. Who comes asks in a moment, so one that is new stays while others do
// nothing; of these, and then of the new ones, one of the network that has most goes, inside of
// it of the address that has most, and there the one that has asked nothing for the longest.
func goes(open map[*connection]struct{}, comes *connection) (out *connection) {
	networks, addresses := map[string]int{comes.peer.Network: 1}, map[string]int{comes.peer.Address: 1}
	for c := range open {
		if !c.asks {
			networks[c.peer.Network]++
			addresses[c.peer.Address]++
		}
	}
	own := map[Peer]int{comes.peer: 1}
	before := func(a, b *connection) bool {
		return cmp.Or(
			cmp.Compare(a.waits(comes.since), b.waits(comes.since)),
			cmp.Compare(networks[b.peer.Network], networks[a.peer.Network]),
			cmp.Compare(addresses[b.peer.Address], addresses[a.peer.Address]),
			// Where others have as many, who comes takes nothing from them.
			cmp.Compare(own[b.peer], own[a.peer]),
			a.since.Compare(b.since),
		) < 0
	}
	for c := range open {
		if !c.asks && (out == nil || before(c, out)) {
			out = c
		}
	}
	return out
}

// waits is how much there is to wait for: nothing of who has sent no request in a while,
// little of one that may ask again, most of one that is new.
func (d *doing) waits(now time.Time) int {
	switch {
	case d.asked:
		return 1
	case now.Sub(d.since) >= asksWithin:
		return 0
	default:
		return 2
	}
}

// note says whether a request is answered from now on.
func (c *connection) note(asks bool) {
	c.from.mu.Lock()
	defer c.from.mu.Unlock()
	c.asks, c.asked = asks, c.asked || asks
	if !asks {
		c.since = time.Now()
	}
}

func (c *connection) Close() error {
	c.from.mu.Lock()
	delete(c.from.open, c)
	c.from.mu.Unlock()
	return c.Conn.Close()
}
