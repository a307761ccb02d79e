package sidecar_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"connectrpc.com/connect"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"google.golang.org/protobuf/proto"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/memory"
	eventstorev1 "git.flowmade.one/flowmade-one/aether-operator/api/eventstore/v1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/sidecar"
)

// oneEvent is the save of one event.
func oneEvent(id, actorID string, version int64) *eventstorev1.SaveEventsRequest {
	return &eventstorev1.SaveEventsRequest{Events: []*eventstorev1.Event{{Id: id, EventType: "T", ActorId: actorID, Version: version}}}
}

func together(saves ...*eventstorev1.SaveEventsRequest) *eventstorev1.SaveBatchesRequest {
	request := &eventstorev1.SaveBatchesRequest{}
	for _, save := range saves {
		request.Batches = append(request.Batches, &eventstorev1.SaveBatch{Save: save})
	}
	return request
}

// some are n saves that nothing is wrong with.
func some(n int) []*eventstorev1.SaveEventsRequest {
	saves := make([]*eventstorev1.SaveEventsRequest, n)
	for i := range saves {
		saves[i] = oneEvent(fmt.Sprintf("some-%d", i), fmt.Sprintf("some-%d", i), 1)
	}
	return saves
}

// differentSaves are one of each kind, good and bad, none of which depends on another.
func differentSaves() map[string]*eventstorev1.SaveEventsRequest {
	expected := oneEvent("e-5", "order-5", 0)
	expected.ExpectedVersions = map[string]*eventstorev1.ExpectedVersion{"order-5": {Expected: &eventstorev1.ExpectedVersion_Version{Version: 4}}}
	impossible := oneEvent("e-6", "order-6", 0)
	impossible.ExpectedVersions = map[string]*eventstorev1.ExpectedVersion{"order-6": {Expected: &eventstorev1.ExpectedVersion_Version{Version: -2}}}
	elsewhere := oneEvent("e-7", "order-7", 0)
	elsewhere.Store = "nowhere"
	large := oneEvent("e-8", "order-8", 0)
	large.Events[0].ContentType, large.Events[0].Data = "a/b", make([]byte, 1<<20)
	halfBad := oneEvent("e-9", "order-9", 1)
	halfBad.Events = append(halfBad.Events, &eventstorev1.Event{Id: "e-10", ActorId: "order-9"})
	several := oneEvent("e-11", "order-11", 3)
	several.Events = append(several.Events, &eventstorev1.Event{Id: "e-12", EventType: "T", ActorId: "order-11"})
	return map[string]*eventstorev1.SaveEventsRequest{
		"one": oneEvent("e-1", "order-2", 7), "several": several, "again": oneEvent("old", "order-1", 3),
		"conflict": oneEvent("e-3", "order-1", 2), "duplicate": oneEvent("old", "order-4", 3), "expected version": expected,
		"no expected version": impossible, "unknown store": elsewhere, "too large": large, "half bad": halfBad,
		"no events": {}, "no save": nil,
	}
}

// Each save of a call is answered as SaveEvents would have, over each protocol:
// one that fails fails alone, with the same code, words and detail.
func TestSaveBatches(t *testing.T) {
	t.Parallel()
	for protocol, opts := range protocols {
		t.Run(protocol, func(t *testing.T) {
			t.Parallel()
			alone, all := serveMemory(t).rpc(opts...), serveMemory(t).rpc(opts...)
			request, names := &eventstorev1.SaveBatchesRequest{}, []string{}
			for name, save := range differentSaves() {
				names = append(names, name)
				request.Batches = append(request.Batches, &eventstorev1.SaveBatch{Save: save})
			}
			for _, client := range []interface {
				SaveEvents(context.Context, *eventstorev1.SaveEventsRequest) (*eventstorev1.SaveEventsResponse, error)
			}{alone, all} {
				_, err := client.SaveEvents(t.Context(), oneEvent("old", "order-1", 3))
				must(t, err)
			}
			response, err := all.SaveBatches(t.Context(), request)
			must(t, err)
			if len(response.GetResults()) != len(names) {
				t.Fatalf("%d results of %d saves", len(response.GetResults()), len(names))
			}
			failed := 0
			for i, result := range response.GetResults() {
				save := request.GetBatches()[i].GetSave()
				if save == nil {
					save = &eventstorev1.SaveEventsRequest{}
				}
				want, err := alone.SaveEvents(t.Context(), save)
				if err == nil {
					wantSameSaved(t, names[i], result.GetSaved(), want)
					continue
				}
				failed++
				wantSameFailure(t, names[i], result.GetFailure(), err)
			}
			if failed != 9 {
				t.Errorf("%d saves failed, want 9", failed)
			}
		})
	}
}

// wantSameSaved compares all but the sequence, which is that of the order of
// coming.
func wantSameSaved(t *testing.T, name string, got, want *eventstorev1.SaveEventsResponse) {
	t.Helper()
	for _, saved := range slices.Concat(got.GetSaved(), want.GetSaved()) {
		saved.Sequence = 0
	}
	if !proto.Equal(got, want) {
		t.Errorf("%s: answered %v, want %v", name, got, want)
	}
}

func wantSameFailure(t *testing.T, name string, got *eventstorev1.SaveFailure, err error) {
	t.Helper()
	var want *connect.Error
	if !errors.As(err, &want) {
		t.Fatalf("%s: %v", name, err)
	}
	if got.DetailMessage() == nil || connect.Code(got.GetCode()) != want.Code() || got.GetMessage() != want.Message() {
		t.Errorf("%s: failed with %v, want %v", name, got, err)
	}
	wantRPCError(t, err, want.Code(), got.DetailMessage())
}

func TestHowManyBatches(t *testing.T) {
	t.Parallel()
	r := serveMemory(t)
	client := r.rpc()
	for _, n := range []int{0, 257} {
		_, err := client.SaveBatches(t.Context(), together(some(n)...))
		wantRPCError(t, err, connect.CodeInvalidArgument, &eventstorev1.FieldViolation{
			Field: "batches", Description: fmt.Sprintf("are %d: give 1 to 256, and the others in a call of their own", n)})
	}
	version, err := client.GetLatestVersion(t.Context(), &eventstorev1.GetLatestVersionRequest{ActorId: "some-0"})
	must(t, err)
	if version.GetVersion() != 0 {
		t.Error("a call with too many saves has saved")
	}
	response, err := client.SaveBatches(t.Context(), together(some(256)...))
	must(t, err)
	for i, result := range response.GetResults() {
		if got := result.GetSaved().GetSaved(); len(got) != 1 || got[0].GetId() != fmt.Sprintf("some-%d", i) {
			t.Errorf("result %d is %v", i, result)
		}
	}
}

// fragile is a Store that panics for some actors.
type fragile struct{ eventstore.Store }

func (f fragile) SaveEvents(ctx context.Context, events []eventstore.Event, opts ...eventstore.SaveOption) ([]eventstore.Saved, error) {
	switch events[0].ActorID {
	case "panics":
		panic("made to panic")
	case "aborts":
		panic(http.ErrAbortHandler)
	}
	return f.Store.SaveEvents(ctx, events, opts...)
}

// A panic in one save is the answer of that one, whichever it is.
func TestPanicInABatch(t *testing.T) {
	t.Parallel()
	r := serve(t, sidecar.Config{Stores: []sidecar.Store{{Name: "orders", Store: fragile{memory.New()}}}})
	for round, actors := range [][]string{{"panics", "good", "aborts"}, {"good", "panics", "panics"}, {"aborts", "aborts", "good"}} {
		var saves []*eventstorev1.SaveEventsRequest
		for i, actor := range actors {
			saves = append(saves, oneEvent(fmt.Sprintf("e-%d-%d", round, i), actor, 0))
		}
		response, err := r.rpc().SaveBatches(t.Context(), together(saves...))
		must(t, err)
		for i, result := range response.GetResults() {
			if actors[i] == "good" {
				if len(result.GetSaved().GetSaved()) != 1 {
					t.Errorf("the good one is %v", result)
				}
				continue
			}
			failure := result.GetFailure()
			if connect.Code(failure.GetCode()) != connect.CodeInternal || failure.GetReason().GetCode() != "internal" || strings.Contains(failure.GetMessage(), "made to") {
				t.Errorf("%s: %v", actors[i], result)
			}
		}
	}
}

// A call of several has one slot; its saves are under way at the same time, and
// share the memory.
func TestLimitsOfBatches(t *testing.T) {
	t.Parallel()
	store := newHeld()
	r := serve(t, sidecar.Config{MaxCalls: 1, Stores: []sidecar.Store{{Name: "orders", Store: store}}})
	answered := r.saveBatches(some(3)...)
	for range 3 {
		<-store.began
	}
	_, err := r.rpc().SaveBatches(t.Context(), together(oneEvent("late", "late", 1)))
	wantRPCError(t, err, connect.CodeResourceExhausted, &eventstorev1.Reason{Code: "too_many_requests"})
	close(store.letGo)
	wantAllSaved(t, <-answered, 3)
	response, err := r.rpc().GetLatestVersion(t.Context(), &eventstorev1.GetLatestVersionRequest{ActorId: "late"})
	if err != nil || response.GetVersion() != 0 {
		t.Errorf("version %v, %v: what was refused was saved", response, err)
	}
}

func TestMemoryOfBatches(t *testing.T) {
	t.Parallel()
	store := newHeld()
	r := serve(t, sidecar.Config{Memory: 1 << 20, Stores: []sidecar.Store{{Name: "orders", Store: store}}})
	answered := r.saveBatches(some(100)...)
	for range 100 {
		<-store.began
	}
	for _, opts := range protocols {
		_, err := r.rpc(opts...).SaveBatches(t.Context(), together(some(100)...))
		wantRPCError(t, err, connect.CodeResourceExhausted, &eventstorev1.Reason{Code: "too_many_requests"})
	}
	close(store.letGo)
	wantAllSaved(t, <-answered, 100)
	// What they took is there again.
	store.began = make(chan struct{}, 100)
	response, err := r.rpc().SaveBatches(t.Context(), together(some(100)...))
	must(t, err)
	wantAllSaved(t, response, 100)
}

// saveBatches makes a call in the background; its answer is nil where it fails.
func (r *running) saveBatches(saves ...*eventstorev1.SaveEventsRequest) <-chan *eventstorev1.SaveBatchesResponse {
	answered := make(chan *eventstorev1.SaveBatchesResponse, 1)
	client := r.rpc()
	go func() {
		response, err := client.SaveBatches(r.Context(), together(saves...))
		if err != nil {
			r.Errorf("save %d batches: %v", len(saves), err)
		}
		answered <- response
	}()
	return answered
}

func wantAllSaved(t *testing.T, response *eventstorev1.SaveBatchesResponse, n int) {
	t.Helper()
	for _, result := range response.GetResults() {
		if len(result.GetSaved().GetSaved()) == 1 {
			n--
		}
	}
	if n != 0 {
		t.Errorf("%d saves more than wanted, or fewer: %v", -n, response)
	}
}

// A stop answers a call of several that is under way.
func TestStopAnswersBatches(t *testing.T) {
	t.Parallel()
	store := newHeld()
	r := serve(t, sidecar.Config{Stores: []sidecar.Store{{Name: "orders", Store: store}}})
	answered := r.saveBatches(some(3)...)
	for range 3 {
		<-store.began
	}
	r.stop()
	if got := r.healthOf("/readyz"); got.status != http.StatusServiceUnavailable {
		t.Errorf("readiness while the server stops: %d", got.status)
	}
	select {
	case err := <-r.ended:
		t.Fatalf("the server ended while saves were under way: %v", err)
	default:
	}
	close(store.letGo)
	wantAllSaved(t, <-answered, 3)
	if err := <-r.ended; err != nil {
		t.Errorf("the server ended with %v", err)
	}
}

// Each save is counted as a save, and the call that several came with as a call.
func TestMetricsOfBatches(t *testing.T) {
	t.Parallel()
	metrics := &eventstore.Metrics{}
	r := serve(t, sidecar.Config{Stores: []sidecar.Store{{Name: "orders", Store: memory.New(eventstore.WithMetrics(metrics)), Metrics: metrics}}})
	_, err := r.rpc().SaveEvents(t.Context(), oneEvent("old", "order-1", 3))
	must(t, err)
	_, err = r.rpc().SaveBatches(t.Context(), together(append(some(3), oneEvent("old", "order-1", 3), oneEvent("e-1", "order-1", 2), oneEvent("", "order-1", 9))...))
	must(t, err)
	got := r.healthOf("/metrics").body
	for _, want := range []string{
		`aether_store_events_saved_total{store="orders"} 4`,
		`aether_store_duplicates_saved_total{store="orders"} 1`,
		`aether_store_version_conflicts_total{store="orders"} 1`,
		`aether_store_save_errors_total{store="orders"} 1`,
		`aether_sidecar_requests_total{code="ok",protocol="rpc",route="EventStoreService/SaveEvents"} 5`,
		`aether_sidecar_requests_total{code="aborted",protocol="rpc",route="EventStoreService/SaveEvents"} 1`,
		`aether_sidecar_requests_total{code="invalid_argument",protocol="rpc",route="EventStoreService/SaveEvents"} 1`,
		`aether_sidecar_requests_total{code="ok",protocol="rpc",route="EventStoreService/SaveBatches"} 1`,
		`aether_sidecar_request_duration_seconds_count{protocol="rpc",route="EventStoreService/SaveEvents"} 7`,
	} {
		if !strings.Contains(got, want) {
			t.Errorf("metrics lack %s", want)
		}
	}
}

// Traces of a call, of a save in it and of an event.
const (
	callParent  = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	saveParent  = "00-0000000000000000000000000000000a-000000000000000a-01"
	eventParent = "00-0000000000000000000000000000000b-000000000000000b-01"
)

// tracedCall is a call of several saves, of which some are in a trace.
func tracedCall(t *testing.T) (context.Context, *eventstorev1.SaveBatchesRequest) {
	ctx, call := connect.NewClientContext(t.Context())
	call.RequestHeader().Set("Traceparent", callParent)
	request := together(oneEvent("of the save", "order-1", 0), oneEvent("of the call", "order-2", 0), oneEvent("of the event", "order-3", 0), oneEvent("of none", "order-4", 0))
	request.Batches[2].Save.Events[0].TraceParent = eventParent
	request.Batches[0].TraceParent, request.Batches[2].TraceParent, request.Batches[3].TraceParent = saveParent, saveParent, "00-1-2-01"
	return ctx, request
}

// savedIn are the traces that events were saved in, by their ids.
func (r *running) savedIn(request *eventstorev1.SaveBatchesRequest) map[string]string {
	r.Helper()
	traces := map[string]string{}
	for _, batch := range request.GetBatches() {
		page, err := r.rpc().GetEvents(r.Context(), &eventstorev1.GetEventsRequest{ActorId: batch.GetSave().GetEvents()[0].GetActorId()})
		must(r.T, err)
		for _, event := range page.GetEvents() {
			traces[event.GetId()] = event.GetTraceParent()
		}
	}
	return traces
}

// Each save of a call is in a trace of its own, where it names one.
func TestTraceOfABatch(t *testing.T) {
	t.Parallel()
	for name, opts := range protocols {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := serveMemory(t)
			ctx, request := tracedCall(t)
			_, err := r.rpc(opts...).SaveBatches(ctx, request)
			must(t, err)
			got := r.savedIn(request)
			for id, want := range map[string]string{"of the save": saveParent, "of the call": callParent, "of the event": eventParent, "of none": callParent} {
				if got[id] != want {
					t.Errorf("the event %s was saved in %q, want %q", id, got[id], want)
				}
			}
		})
	}
}

// Each save has a span in its trace, which is that of its events, and leads to
// the call that it came with.
func TestSpansOfBatches(t *testing.T) {
	t.Parallel()
	recorder := tracetest.NewSpanRecorder()
	r := serve(t, sidecar.Config{Tracer: sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(recorder)), Stores: []sidecar.Store{{Name: "orders", Store: memory.New()}}})
	ctx, request := tracedCall(t)
	_, err := r.rpc().SaveBatches(ctx, request)
	must(t, err)
	byTrace := map[string][]sdktrace.ReadOnlySpan{}
	var call sdktrace.ReadOnlySpan
	for _, span := range recorder.Ended() {
		if strings.HasSuffix(span.Name(), "/SaveBatches") {
			call = span
			continue
		}
		byTrace[span.SpanContext().TraceID().String()] = append(byTrace[span.SpanContext().TraceID().String()], span)
	}
	inCall, inSave := byTrace["4bf92f3577b34da6a3ce929d0e0e4736"], byTrace["0000000000000000000000000000000a"]
	if call == nil || len(inCall) != 2 || len(inSave) != 2 {
		t.Fatalf("the call is %v, with %d saves in its trace and %d in another, want 2 and 2", call, len(inCall), len(inSave))
	}
	for _, span := range inCall {
		if span.Parent().SpanID() != call.SpanContext().SpanID() {
			t.Errorf("the span %s is no child of the call", span.Name())
		}
	}
	for _, span := range inSave {
		if len(span.Links()) != 1 || span.Links()[0].SpanContext.SpanID() != call.SpanContext().SpanID() {
			t.Errorf("the span %s does not lead to the call: %v", span.Name(), span.Links())
		}
	}
	if got := r.savedIn(request)["of the save"]; !strings.Contains(got, inSave[0].SpanContext().SpanID().String()) && !strings.Contains(got, inSave[1].SpanContext().SpanID().String()) {
		t.Errorf("the event was saved in %s, want a span of its save", got)
	}
}
