// Package link puts a network between a client and a server that can go silent, as
// when the server's machine has lost its power: nothing arrives any more, and nobody
// is told that the connection has ended.
package link

import (
	"io"
	"net"
	"strings"
	"sync"
	"testing"
)

// Link is a way to one server.
type Link struct {
	listener net.Listener
	server   string

	mu   sync.Mutex
	flow *sync.Cond
	// silent: nothing passes, in either direction, also on connections that are new.
	silent, closed bool
	ends           []net.Conn
}

// To makes a link to the server of a NATS URL, for the time of a test.
func To(t testing.TB, url string) *Link {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &Link{listener: listener, server: strings.TrimPrefix(url, "nats://")}
	l.flow = sync.NewCond(&l.mu)
	var serving sync.WaitGroup
	serving.Go(func() { l.serve(&serving) })
	t.Cleanup(func() {
		_ = listener.Close()
		l.close()
		serving.Wait()
	})
	return l
}

// URL is the near end of the link, to be dialled in the place of the server.
func (l *Link) URL() string { return "nats://" + l.listener.Addr().String() }

// Silence stops everything, and closes nothing.
func (l *Link) Silence() { l.set(true) }

// Resume lets everything pass again, what was held back first.
func (l *Link) Resume() { l.set(false) }

func (l *Link) set(silent bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.silent = silent
	l.flow.Broadcast()
}

func (l *Link) serve(serving *sync.WaitGroup) {
	for {
		near, err := l.listener.Accept()
		if err != nil {
			return
		}
		far, err := net.Dial("tcp", l.server)
		if err != nil || !l.keep(near, far) {
			_ = near.Close()
			continue
		}
		serving.Go(func() { l.pass(far, near) })
		serving.Go(func() { l.pass(near, far) })
	}
}

// keep notes the ends of a connection; false when the link has ended.
func (l *Link) keep(near, far net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		_ = far.Close()
		return false
	}
	l.ends = append(l.ends, near, far)
	return true
}

// pass carries what comes from one end to the other.
func (l *Link) pass(to, from net.Conn) {
	defer func() { _ = to.Close() }()
	buffer := make([]byte, 1<<15)
	for {
		n, err := from.Read(buffer)
		l.await()
		if n > 0 {
			if _, werr := to.Write(buffer[:n]); werr != nil {
				return
			}
		}
		if err != nil {
			if err != io.EOF {
				_ = from.Close()
			}
			return
		}
	}
}

// await returns when the link is not silent, or has ended.
func (l *Link) await() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.silent && !l.closed {
		l.flow.Wait()
	}
}

func (l *Link) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	l.flow.Broadcast()
	for _, end := range l.ends {
		_ = end.Close()
	}
}
