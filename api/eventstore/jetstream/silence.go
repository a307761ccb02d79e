package jetstream

import (
	"time"

	"github.com/nats-io/nats.go"
)

// link is one connection to one server: what was asked on it is not answered on the next.
type link struct {
	nc        *nats.Conn
	connected bool
	made      uint64
}

func linkOf(nc *nats.Conn) link {
	return link{nc: nc, connected: nc.IsConnected(), made: nc.Stats().Reconnects}
}

// lost says whether the connection has ended. One that was not there when it was asked
// has not: the client library may send what it is given when it is.
func (l link) lost() bool {
	return l.connected && (!l.nc.IsConnected() || l.nc.Stats().Reconnects != l.made)
}

const (
	// silentTries and silentFor are how many requests have to go without an answer, and
	// for how long none may have come, before the server is said to be silent. A save has 15
	// seconds, so that some are left to ask another server.
	silentTries = 3
	silentFor   = 8 * time.Second
	// silentAgain is how long after that it may be said again. It doubles, up to
	// maxSilentAgain, until an answer comes.
	silentAgain    = 10 * time.Second
	maxSilentAgain = 2 * time.Minute
)

// silence is that of a server that is there, as its answers to pings show, and answers no
// request.
type silence struct {
	// tell is called, on a goroutine of its own, when a server is silent; nil for nobody.
	tell func()

	unanswered int
	// since is when the first of them was sent, and arrived how many messages had come on
	// the connection when its wait had ended: with one more the server is not silent.
	since   time.Time
	arrived uint64
	// next is when it may be told again, and wait is how long after that.
	next time.Time
	wait time.Duration
}

// ends notes an answer.
func (s *silence) ends() {
	if s.unanswered > 0 || s.wait > 0 {
		*s = silence{tell: s.tell}
	}
}

// goesOn notes a request that was not answered.
func (s *silence) goesOn(w *waiter, now time.Time) {
	if s.tell == nil || w.link.lost() {
		return
	}
	arrived := w.link.nc.Stats().InMsgs
	if s.unanswered == 0 || arrived != s.arrived {
		s.unanswered, s.since, s.arrived = 0, w.started, arrived
	}
	if s.unanswered++; s.unanswered < silentTries || now.Sub(s.since) < silentFor || now.Before(s.next) {
		return
	}
	s.wait = min(max(2*s.wait, silentAgain), maxSilentAgain)
	s.unanswered, s.next = 0, now.Add(s.wait)
	go s.tell()
}
