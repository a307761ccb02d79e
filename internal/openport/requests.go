package openport

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
)

// Begun is how many bytes of the body of a request come before it is one that is answered. Of
// a shorter one it is all.
const Begun = 4 << 10

type connectionKey struct{}

// Watch has the places know on which connections of a server a request is answered, and closes
// those whose request is refused. The server has its handler, and does not serve yet.
func Watch(server *http.Server) {
	server.Handler, server.ConnContext, server.ConnState = noted(server.Handler), withConnection, idle
}

func withConnection(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, connectionKey{}, accepted(c))
}

// accepted is the connection that has a place, or nil.
func accepted(c net.Conn) *connection {
	if secure, isTLS := c.(*tls.Conn); isTLS {
		c = secure.NetConn()
	}
	mine, _ := c.(*connection)
	return mine
}

// idle has the places know which connections wait for another request.
func idle(c net.Conn, state http.ConnState) {
	if mine := accepted(c); mine != nil && state == http.StateIdle {
		mine.note(false)
	}
}

// noted has the places know on which connections a request is answered: as far as it has
// come, until it is answered. It closes those whose request is refused.
func noted(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		on, _ := r.Context().Value(connectionKey{}).(*connection)
		if on == nil {
			next.ServeHTTP(w, r)
			return
		}
		come := &incoming{ReadCloser: r.Body, on: on, all: r.ContentLength == 0}
		if come.all {
			on.note(true)
		}
		// The server goes on with its own request.
		r = r.WithContext(r.Context())
		r.Body = come
		next.ServeHTTP(&answer{w}, r)
		if !come.all {
			// The server waits for the rest, which may not come.
			on.note(false)
		}
	})
}

// incoming is the body of a request that is read.
type incoming struct {
	io.ReadCloser
	on    *connection
	bytes int
	// all has come.
	all bool
}

func (i *incoming) Read(into []byte) (n int, err error) {
	n, err = i.ReadCloser.Read(into)
	ended, before := errors.Is(err, io.EOF), i.bytes
	i.bytes += n
	if ended && !i.all || before < Begun && i.bytes >= Begun {
		i.on.note(true)
	}
	i.all = i.all || ended
	return n, err
}

// answer closes the connection behind a refusal: who has no path and no token keeps none.
type answer struct{ http.ResponseWriter }

func (a *answer) WriteHeader(status int) {
	if status >= http.StatusMultipleChoices {
		a.Header().Set("Connection", "close")
	}
	a.ResponseWriter.WriteHeader(status)
}

// Unwrap is for http.ResponseController.
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }
