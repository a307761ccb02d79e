package sidecar_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/encoding/protowire"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/memory"
	eventstorev1 "git.flowmade.one/flowmade-one/aether-operator/api/eventstore/v1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/sidecar"
)

// held is a Store whose saves wait until they are let go.
type held struct {
	eventstore.Store
	began, letGo chan struct{}
}

func newHeld() *held {
	return &held{Store: memory.New(), began: make(chan struct{}), letGo: make(chan struct{})}
}

func (h *held) SaveEvents(ctx context.Context, events []eventstore.Event, opts ...eventstore.SaveOption) ([]eventstore.Saved, error) {
	h.began <- struct{}{}
	<-h.letGo
	return h.Store.SaveEvents(ctx, events, opts...)
}

// save saves in the background; what it returns waits for the answer.
func (r *running) save(body string) (wait func() answer) {
	answered := make(chan answer, 1)
	go func() { answered <- r.do("POST "+ordersEvents, body) }()
	return func() answer { return <-answered }
}

func (r *running) wantTooMany(got answer) {
	r.Helper()
	r.wantProblem(got, http.StatusTooManyRequests, "too_many_requests", "")
	if got.header.Get("Retry-After") != "1" {
		r.Errorf("Retry-After is %q", got.header.Get("Retry-After"))
	}
}

func TestTooManyCalls(t *testing.T) {
	t.Parallel()
	store := newHeld()
	r := serve(t, sidecar.Config{MaxCalls: 2, Stores: []sidecar.Store{{Name: "orders", Store: store}}})
	event := func(n int) string { return fmt.Sprintf(`{"id":"e-%d","eventType":"T","actorId":"order-%d"}`, n, n) }
	first, second := r.save(event(1)), r.save(event(2))
	<-store.began
	<-store.began
	r.wantTooMany(r.do("POST "+ordersEvents, event(3)))
	for _, opts := range protocols {
		_, err := r.rpc(opts...).GetLatestVersion(t.Context(), &eventstorev1.GetLatestVersionRequest{ActorId: "order-1"})
		wantRPCError(t, err, connect.CodeResourceExhausted, &eventstorev1.Reason{Code: "too_many_requests"})
		if refused := new(connect.Error); connectError(err, &refused) && refused.Meta().Get("Retry-After") != "1" {
			t.Errorf("Retry-After is missing: %v", refused.Meta())
		}
	}
	// Those that are under way are answered, and then there is room.
	close(store.letGo)
	for _, wait := range []func() answer{first, second} {
		if got := wait(); got.status != http.StatusCreated {
			t.Errorf("a save that was let in was answered %d %s", got.status, got.body)
		}
	}
	if got := r.do("GET "+order1+"/version", ""); got.status != http.StatusOK {
		t.Errorf("answered %d %s", got.status, got.body)
	}
}

func connectError(err error, target **connect.Error) bool {
	found, ok := err.(*connect.Error)
	*target = found
	return ok
}

func TestTooManyStreams(t *testing.T) {
	t.Parallel()
	r := serve(t, sidecar.Config{MaxStreams: 1, Stores: []sidecar.Store{{Name: "orders", Store: memory.New()}}})
	follower := r.follow("")
	r.wantTooMany(r.do("GET "+ordersEvents, "", "Accept: text/event-stream"))
	stream, err := r.rpc().Subscribe(t.Context(), &eventstorev1.SubscribeRequest{})
	must(t, err)
	if stream.Receive() {
		t.Error("one stream more was let in")
	}
	wantRPCError(t, stream.Err(), connect.CodeResourceExhausted, &eventstorev1.Reason{Code: "too_many_requests"})
	// Calls are counted by themselves.
	r.saveOne("e-1", "order-1", "T")
	follower.want(1)
}

func TestBodiesShareTheMemory(t *testing.T) {
	t.Parallel()
	store := newHeld()
	r := serve(t, sidecar.Config{Memory: 2 << 20, Stores: []sidecar.Store{{Name: "orders", Store: store}}})
	event := func(n int) string {
		return fmt.Sprintf(`{"id":"e-%d","eventType":"T","actorId":"order-%d","data":%s}`, n, n, repeat(400<<10))
	}
	first := r.save(event(1))
	<-store.began
	r.wantTooMany(r.do("POST "+ordersEvents, event(2)))
	large := &eventstorev1.Event{Id: "e-3", EventType: "T", ActorId: "order-3", ContentType: "a/b", Data: bytes.Repeat([]byte("x"), 400<<10)}
	for _, opts := range protocols {
		_, err := r.rpc(opts...).SaveEvents(t.Context(), &eventstorev1.SaveEventsRequest{Events: []*eventstorev1.Event{large}})
		wantRPCError(t, err, connect.CodeResourceExhausted, &eventstorev1.Reason{Code: "too_many_requests"})
	}
	close(store.letGo)
	if got := first(); got.status != http.StatusCreated {
		t.Errorf("answered %d %s", got.status, got.body)
	}
}

// A page for which there is little memory is shorter, and nothing is left out.
func TestPagesShareTheMemory(t *testing.T) {
	t.Parallel()
	store := memory.New()
	for n := range 8 {
		event := eventstore.Event{ID: fmt.Sprint(n), EventType: "T", ActorID: "order-1", Data: []byte(repeat(200 << 10))}
		if _, err := store.SaveEvent(t.Context(), event); err != nil {
			t.Fatal(err)
		}
	}
	r := serve(t, sidecar.Config{Memory: 4 << 20, Stores: []sidecar.Store{{Name: "orders", Store: store}}})
	pages, read := 0, 0
	for next := int64(0); ; pages++ {
		var page struct {
			Events           []json.RawMessage
			NextFromSequence int64
		}
		got := r.do(fmt.Sprintf("GET %s/events?fromSequence=%d", order1, next), "")
		if err := json.Unmarshal([]byte(got.body), &page); err != nil || len(page.Events) == 0 {
			t.Fatalf("answered %d %.200s: %v", got.status, got.body, err)
		}
		read += len(page.Events)
		if next = page.NextFromSequence; next == 0 {
			break
		}
	}
	if read != 8 || pages < 2 {
		t.Errorf("%d events in %d pages", read, pages+1)
	}
}

func TestCompressedRequests(t *testing.T) {
	t.Parallel()
	r := serveMemory(t)
	for name, opts := range protocols {
		client := r.rpc(append([]connect.ClientOption{connect.WithSendGzip()}, opts...)...)
		_, err := client.GetLatestVersion(t.Context(), &eventstorev1.GetLatestVersionRequest{ActorId: "order-1"})
		wantRPCError(t, err, connect.CodeUnimplemented, nil)
		if err != nil && !strings.Contains(err.Error(), "send them as they are") {
			t.Errorf("%s: %v does not say what to do", name, err)
		}
	}
	r.wantProblem(r.do("POST "+ordersEvents, "\x1f\x8b", "Content-Encoding: gzip"), 415, "invalid_request", "Content-Encoding")
}

// What is too much is refused before it is kept: of the smallest elements a body has
// millions.
func TestBodiesOfManyParts(t *testing.T) {
	t.Parallel()
	r := serveMemory(t)
	const most = 8 << 20
	r.wantProblem(r.do("POST "+ordersEvents, "["+strings.Repeat("{},", most/3-1)+"{}]"), 413, "too_large", "")
	var keys strings.Builder
	for n := 0; keys.Len() < most/2; n++ {
		fmt.Fprintf(&keys, `"%d":"",`, n)
	}
	event := `{"id":"e-1","eventType":"T","actorId":"order-1","metadata":{` + keys.String() + `"last":""}}`
	r.wantProblem(r.do("POST "+ordersEvents, event), 400, "invalid_event", "metadata")
}

// The same holds for messages of gRPC and Connect, whose smallest event has two bytes.
func TestMessagesOfManyParts(t *testing.T) {
	t.Parallel()
	r := serveMemory(t)
	const most, service = 6 << 20, "POST /aether.eventstore.v1.EventStoreService/"
	events := bytes.Repeat([]byte{0x12, 0}, most/2)
	var keys []byte
	for n := 0; len(keys) < most; n++ {
		keys = protowire.AppendTag(keys, 8, protowire.BytesType)
		keys = protowire.AppendBytes(keys, protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), strconv.Itoa(n)))
	}
	metadata := protowire.AppendBytes(protowire.AppendTag(nil, 2, protowire.BytesType), keys)
	batches := protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType),
		protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), events))
	for name, sent := range map[string]struct{ procedure, contentType, body string }{
		"events":          {"SaveEvents", "application/proto", string(events)},
		"batches":         {"SaveBatches", "application/proto", string(batches)},
		"metadata":        {"SaveEvent", "application/proto", string(metadata)},
		"events of JSON":  {"SaveEvents", "application/json", `{"events":[` + strings.Repeat("{},", most/3) + "{}]}"},
		"numbers":         {"ReplayParked", "application/proto", "\x12\xff\xff\x7f" + strings.Repeat("\x01", 1<<21-1)},
		"numbers of JSON": {"ReplayParked", "application/json", `{"sequences":[` + strings.Repeat("1,", 1<<21) + "1]}"},
	} {
		got := r.do(service+sent.procedure, sent.body, "Content-Type: "+sent.contentType)
		if got.status != http.StatusBadRequest || !strings.Contains(got.body, "than there is memory for") || !strings.Contains(got.body, "send fewer") {
			t.Errorf("%s: answered %d %.300s", name, got.status, got.body)
		}
	}
	// In an envelope it is the same.
	message := append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(events))), events...)
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, r.api+strings.TrimPrefix(service, "POST ")+"SaveEvents", bytes.NewReader(message))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/grpc+proto")
	request.Header.Set("Te", "trailers")
	response, err := http2(t).Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	if _, err := io.Copy(io.Discard, response.Body); err != nil {
		t.Fatal(err)
	}
	status := response.Header.Get("Grpc-Status") + response.Trailer.Get("Grpc-Status")
	if text := response.Header.Get("Grpc-Message") + response.Trailer.Get("Grpc-Message"); status != "3" || !strings.Contains(text, "than there is memory for") {
		t.Errorf("over gRPC: %s %s", status, text)
	}
	// Of what JSON has many, the memory is taken while it is taken apart.
	var event strings.Builder
	for n := range 1900 {
		fmt.Fprintf(&event, `"%d":"",`, n)
	}
	body := "[" + strings.Repeat(`{"metadata":{`+event.String()+`"last":""}},`, 100) + "{}]"
	r.wantProblem(r.do("POST "+ordersEvents, body), http.StatusRequestEntityTooLarge, "too_large", "")
}

// What has no room beside its own body is too large, and not worth another try.
func TestPartsBesideTheirBody(t *testing.T) {
	t.Parallel()
	r := serve(t, sidecar.Config{Memory: 2 << 20, Stores: []sidecar.Store{{Name: "orders", Store: memory.New()}}})
	batch := func(size int) string {
		var events []string
		for n := range 1000 {
			events = append(events, fmt.Sprintf(`{"id":"%d-%d","eventType":"T","actorId":"order-1","metadata":{"a":"","b":""},"data":%q}`, size, n, strings.Repeat("x", size)))
		}
		return "[" + strings.Join(events, ",") + "]"
	}
	r.wantProblem(r.do("POST "+ordersEvents, batch(500)), http.StatusRequestEntityTooLarge, "too_large", "")
	r.post(ordersEvents, batch(100))
}
