package main

import (
	"context"
	"encoding/hex"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	natsjs "github.com/nats-io/nats.go/jetstream"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracev1 "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv/natsserver"
)

const (
	requestTrace  = "4bf92f3577b34da6a3ce929d0e0e4736"
	requestParent = "00-" + requestTrace + "-00f067aa0ba902b7-01"
)

// collect receives traces as a collector does.
func collect(t *testing.T) (endpoint string, spans <-chan *tracev1.Span) {
	received := make(chan *tracev1.Span, 1000)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		var request collector.ExportTraceServiceRequest
		if err == nil {
			err = proto.Unmarshal(body, &request)
		}
		if err != nil || r.URL.Path != "/v1/traces" {
			http.Error(w, "no traces", http.StatusBadRequest)
			return
		}
		for _, resource := range request.GetResourceSpans() {
			for _, scope := range resource.GetScopeSpans() {
				for _, span := range scope.GetSpans() {
					received <- span
				}
			}
		}
	}))
	t.Cleanup(server.Close)
	return server.URL, received
}

// saveInTrace saves an event in the trace of requestParent.
func (s *started) saveInTrace(ctx context.Context) {
	s.Helper()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, s.api+"/v1/stores/orders/events", strings.NewReader(`{"id":"1","eventType":"T","actorId":"order-1"}`))
	if err != nil {
		s.Fatal(err)
	}
	request.Header.Set("Traceparent", requestParent)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		s.Fatal(err)
	}
	_ = response.Body.Close()
}

// From a request over the stored message to who follows it is one trace.
func TestTraces(t *testing.T) {
	t.Parallel()
	cluster := natsserver.Run(t, 1)
	nc, root := cluster.Connect(t), t.TempDir()
	bind(t, cluster, root, "orders", nc, nil)
	endpoint, spans := collect(t)
	s := startBinary(t, map[string]string{"SERVICE_BINDING_ROOT": root, "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint})
	s.waitReady("")
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	s.saveInTrace(ctx)
	followed, err := s.open("orders").Subscribe(ctx, eventstore.SubscribeOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = followed.Close() }()
	event, err := followed.Next(ctx)
	if err != nil || !eventstore.IsTraceParent(event.TraceParent) || !strings.Contains(event.TraceParent, requestTrace) || event.TraceParent == requestParent {
		t.Errorf("followed %+v, %v", event, err)
	}
	js, err := natsjs.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(ctx, "shop_orders")
	if err != nil {
		t.Fatal(err)
	}
	stored, err := stream.GetMsg(ctx, 1)
	if err != nil || stored.Header.Get("traceparent") != event.TraceParent {
		t.Errorf("stored %v, %v, want traceparent %s", stored.Header, err, event.TraceParent)
	}
	// The last traces are sent at the end.
	if err := s.stop(); err != nil {
		t.Error(err)
	}
	for {
		select {
		case span := <-spans:
			if span.GetName() != "POST /v1/stores/{store}/events" {
				continue
			}
			if got := "00-" + hex.EncodeToString(span.GetTraceId()) + "-" + hex.EncodeToString(span.GetSpanId()) + "-01"; got != event.TraceParent {
				t.Errorf("the span is %s, and the event was saved in %s", got, event.TraceParent)
			}
			if got := hex.EncodeToString(span.GetParentSpanId()); got != "00f067aa0ba902b7" {
				t.Errorf("the parent of the span is %s", got)
			}
			return
		default:
			t.Fatal("no span of the save was sent")
		}
	}
}

func TestTracingIsOffUnlessAsked(t *testing.T) {
	t.Parallel()
	for want, envs := range map[bool][]map[string]string{
		false: {
			nil, {"OTEL_SERVICE_NAME": "a"}, {"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://a"},
			{"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://a"},
		},
		true: {
			{"OTEL_TRACES_EXPORTER": "otlp"}, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a"},
			{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://a", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"},
			{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
			{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/json", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "grpc"},
		},
	} {
		for _, env := range envs {
			if got, err := wantsTracing(environment(env)); err != nil || got != want {
				t.Errorf("%v: %v, %v", env, got, err)
			}
		}
	}
	for want, env := range map[string]map[string]string{
		`OTEL_TRACES_EXPORTER is "jaeger"`:     {"OTEL_TRACES_EXPORTER": "jaeger"},
		`traces are to be sent as "http/json"`: {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"},
		`traces are to be sent as "thrift"`:    {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "thrift", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
	} {
		if _, err := wantsTracing(environment(env)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
}
