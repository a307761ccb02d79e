package sidecar

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strconv"

	eventstorev1 "git.flowmade.one/flowmade-one/aether-operator/api/eventstore/v1"
)

// recovered answers a panic as an internal error where nothing was answered
// yet, and cuts the answer off where it was.
func (s *Server) recovered(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		recorder := &statusRecorder{ResponseWriter: w}
		defer func() {
			cause := recover()
			if cause == nil {
				return
			}
			if cause == http.ErrAbortHandler {
				panic(cause)
			}
			s.logPanic(r.Context(), r.Method+" "+r.URL.EscapedPath(), cause)
			if recorder.status != 0 {
				panic(http.ErrAbortHandler)
			}
			s.answerError(recorder, r, errPanicked)
		}()
		next.ServeHTTP(recorder, r)
	})
}

// errPanicked tells a client no more than it can use; the log has the rest.
var errPanicked = fmt.Errorf("the sidecar made a mistake, which is in its log; what became of the call is not known")

func (s *Server) logPanic(ctx context.Context, call string, cause any) {
	s.config.Logger.ErrorContext(ctx, "panic", "call", call, "cause", fmt.Sprint(cause), "stack", string(debug.Stack()))
}

// logFailure logs at error what is the sidecar's own fault, at warn what its
// stores cannot do, and at debug what the client can change.
func (s *Server) logFailure(ctx context.Context, call string, f failure) {
	level := slog.LevelDebug
	switch {
	case f.code == eventstorev1.CodeInternal:
		level = slog.LevelError
	case f.failed() != "":
		level = slog.LevelWarn
	}
	if ctx.Err() != nil && level < slog.LevelError {
		// The client is gone: nobody is waiting for what was not done.
		level = slog.LevelDebug
	}
	s.config.Logger.LogAttrs(ctx, level, "call failed", slog.String("call", call), slog.String("code", f.code), slog.String("detail", f.detail), traceID(ctx))
}

// statusRecorder remembers the status that was answered.
type statusRecorder struct {
	http.ResponseWriter
	status int
}

func (w *statusRecorder) WriteHeader(status int) {
	// 1xx are not the answer; the one that is follows.
	if w.status == 0 && status >= http.StatusOK {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *statusRecorder) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	return w.ResponseWriter.Write(p)
}

// Flush is for those who do not use http.ResponseController.
func (w *statusRecorder) Flush() { _ = http.NewResponseController(w.ResponseWriter).Flush() }

// FlushError is for http.ResponseController.
func (w *statusRecorder) FlushError() error {
	return http.NewResponseController(w.ResponseWriter).Flush()
}

// Unwrap is for http.ResponseController.
func (w *statusRecorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// code is the status as metrics have it.
func (w *statusRecorder) code() string {
	if w.status == 0 {
		return "200"
	}
	return strconv.Itoa(w.status)
}
