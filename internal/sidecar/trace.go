package sidecar

import (
	"context"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
)

// instrumentation names this package in traces.
const instrumentation = "git.flowmade.one/flowmade-one/aether-operator/internal/sidecar"

// contextFormat is that of trace contexts in headers and in events.
var contextFormat propagation.TraceContext

// calling is a call that is under way, for those who watch.
type calling struct {
	server          *Server
	protocol, route string
	span            trace.Span
	count           func(code string)
	started         time.Time
}

// begin starts to count, time and trace a call, in the trace that its header
// names. What is done in the context belongs to it.
func (s *Server) begin(ctx context.Context, header http.Header, protocol, route string, stream bool, links ...trace.Link) (context.Context, *calling) {
	c := &calling{server: s, protocol: protocol, route: strings.TrimPrefix(route, "/"), started: time.Now()}
	c.count = s.calls.begin(protocol, route, stream)
	ctx = contextFormat.Extract(ctx, propagation.HeaderCarrier(header))
	ctx, c.span = s.tracer.Start(ctx, c.route, trace.WithSpanKind(trace.SpanKindServer), trace.WithLinks(links...))
	return ctx, c
}

// end ends a call with the code that was answered, and with what failed inside
// the sidecar or its stores, where something did.
func (c *calling) end(ctx context.Context, code, failed string) {
	c.count(code)
	if c.span.IsRecording() {
		c.span.SetAttributes(attribute.String("aether.protocol", c.protocol), attribute.String("aether.route", c.route), attribute.String("aether.code", code))
		if failed != "" {
			c.span.SetStatus(codes.Error, failed)
		}
	}
	c.span.End()
	// Most sidecars log no calls, and this is every call.
	if c.server.config.Logger.Enabled(ctx, slog.LevelDebug) {
		c.server.config.Logger.LogAttrs(ctx, slog.LevelDebug, "call", slog.String("protocol", c.protocol), slog.String("route", c.route),
			slog.String("code", code), slog.Duration("took", time.Since(c.started)), traceID(ctx))
	}
}

// traceID is the trace of a context, for a log.
func traceID(ctx context.Context) slog.Attr {
	if span := trace.SpanContextFromContext(ctx); span.IsValid() {
		return slog.String("trace", span.TraceID().String())
	}
	return slog.Attr{}
}

// inTrace puts events into the trace of the call that saves them, unless they are
// in one.
func inTrace(ctx context.Context, events ...eventstore.Event) {
	if !trace.SpanContextFromContext(ctx).IsValid() {
		return
	}
	header := propagation.MapCarrier{}
	contextFormat.Inject(ctx, header)
	for i := range events {
		if events[i].TraceParent == "" {
			events[i].TraceParent = header["traceparent"]
		}
	}
}
