package sidecar

import (
	"context"
	"net/http"
	"sync"
	"time"
)

const (
	// writeTimeout is how long one write may wait for a client that reads nothing, where
	// that is all that is known of it.
	writeTimeout = 30 * time.Second
	// lastWrite is how long a write of a stream may wait when the server stops.
	lastWrite = time.Second
)

// bounded gives every write a deadline, so that a client that reads nothing
// holds nothing for ever.
func (s *Server) bounded(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b := &boundedWriter{ResponseWriter: w, control: http.NewResponseController(w), timeout: s.writeTimeout}
		// That of the request before, on a connection that is kept alive.
		b.release()
		defer b.end()
		next.ServeHTTP(b, r)
	})
}

// stream lets the client of a stream take its time, where it is known to live: over
// HTTP/2 it answers pings, or its connection ends. Over HTTP/1.1 a client that works for
// long on one event looks as one that has died. When the server stops, neither has more
// than a moment.
func (s *Server) stream(w http.ResponseWriter, r *http.Request, patience time.Duration) {
	for {
		switch writer := w.(type) {
		case *boundedWriter:
			if r.ProtoMajor > 1 {
				writer.timeout = patience
			}
			writer.unwatch = context.AfterFunc(s.stopping, writer.cutOff)
			return
		case interface{ Unwrap() http.ResponseWriter }:
			w = writer.Unwrap()
		default:
			return
		}
	}
}

// boundedWriter bounds each write and flush. Between them there is no deadline:
// over HTTP/2 it would end a stream that is merely silent.
type boundedWriter struct {
	http.ResponseWriter
	// timeout is that of a write; 0 is none.
	timeout time.Duration
	unwatch func() bool

	// mu guards control, of which there is none any more when the handler has ended.
	mu            sync.Mutex
	control       *http.ResponseController
	ended, isLast bool
}

func (w *boundedWriter) limit()   { w.deadline(w.timeout) }
func (w *boundedWriter) release() { w.deadline(0) }

// deadline gives a write so much time; 0 is no end.
func (w *boundedWriter) deadline(after time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.isLast {
		return
	}
	var at time.Time
	if after > 0 {
		at = time.Now().Add(after)
	}
	// A connection that takes no deadlines has none to keep, as in a test.
	_ = w.control.SetWriteDeadline(at)
}

// cutOff bounds all writes that are still to come together, and one under way.
func (w *boundedWriter) cutOff() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ended || w.isLast {
		return
	}
	w.isLast = true
	_ = w.control.SetWriteDeadline(time.Now().Add(lastWrite))
}

// end is for what is left, which is written after the handler has returned.
func (w *boundedWriter) end() {
	if w.unwatch != nil {
		w.unwatch()
	}
	w.limit()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ended = true
}

func (w *boundedWriter) Write(p []byte) (int, error) {
	w.limit()
	defer w.release()
	return w.ResponseWriter.Write(p)
}

// Flush is for those who do not use http.ResponseController.
func (w *boundedWriter) Flush() { _ = w.FlushError() }

// FlushError is for http.ResponseController.
func (w *boundedWriter) FlushError() error {
	w.limit()
	defer w.release()
	return w.control.Flush()
}

// Unwrap is for http.ResponseController.
func (w *boundedWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
