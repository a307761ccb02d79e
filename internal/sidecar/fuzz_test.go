package sidecar

import (
	"bytes"
	"context"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/memory"
	eventstorev1 "git.flowmade.one/flowmade-one/aether-operator/api/eventstore/v1"
	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/v1/eventstorev1connect"
)

// fuzzed answers requests of any bytes.
type fuzzed struct{ handler http.Handler }

func newFuzzed(f *testing.F) fuzzed {
	f.Helper()
	server, err := New(Config{Stores: []Store{{Name: "orders", Store: memory.New()}}})
	if err != nil {
		f.Fatal(err)
	}
	return fuzzed{server.Handler()}
}

// leaving is a client that goes once it has got something of a stream.
type leaving struct {
	*httptest.ResponseRecorder
	leave context.CancelFunc
}

func (l *leaving) Flush() {
	l.ResponseRecorder.Flush()
	l.leave()
}

// answer is what a request is answered. A panic would be a 500.
func (f fuzzed) answer(t *testing.T, request *http.Request) *httptest.ResponseRecorder {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	recorder := httptest.NewRecorder()
	func() {
		// An answer that is cut off on purpose.
		defer func() {
			if cause := recover(); cause != nil && cause != http.ErrAbortHandler {
				panic(cause)
			}
		}()
		f.handler.ServeHTTP(&leaving{recorder, cancel}, request.WithContext(ctx))
	}()
	if recorder.Code == http.StatusInternalServerError || recorder.Code < 200 || recorder.Code > 599 {
		t.Errorf("%s %s answered %d: %s", request.Method, request.URL, recorder.Code, recorder.Body)
	}
	return recorder
}

func FuzzHTTP(f *testing.F) {
	const events = "/v1/stores/orders/events"
	for _, seed := range []struct{ method, target, accept, body string }{
		{"GET", "/v1/stores", "", ""},
		{"GET", "/openapi.yaml", "", ""},
		{"POST", events, "", `{"id":"e-1","eventType":"T","actorId":"order-1","version":1,"data":{"n":1.50,"huge":1e400},"metadata":{"k":"v"}}`},
		{"POST", events, "", `[{"id":"e-2","eventType":"T","actorId":"a","contentType":"a/b","dataBase64":"AP8="},{"id":"e-3","eventType":"T","actorId":"b"}]`},
		{"POST", events + "?expectedVersion=none", "", `{"id":"e-4","eventType":"T","actorId":"c","timestamp":"2026-01-02T03:04:05.000000006Z","commandId":"\ud83d\ude00"}`},
		{"POST", events, "", `{"id":"e-5","eventType":"T","actorId":"\ufffd\ud800","expectedVersion":"exists","traceparent":"00-1-2-3"}`},
		{"POST", events, "", strings.Repeat("[", 10000)},
		{"GET", events + "?fromSequence=now&actorType=order", "text/event-stream", ""},
		{"GET", events + "?fromTime=2026-01-02T03:04:05Z&eventType=T", "*/*;q=0.1, text/html", ""},
		{"GET", "/v1/stores/orders/actors/order-1/events?fromVersion=1&limit=1", "application/json", ""},
		{"GET", "/v1/stores/orders/actors/a%2Fb%00%FF/events", "application/x-ndjson", ""},
		{"GET", "/v1/stores/orders/actors/../version?%zz", "", ""},
		{"PUT", "/v1/stores/orders/actors/order-1/snapshot", "", `{"version":9223372036854775807,"data":null,"timestamp":null}`},
		{"GET", "/v1/stores/orders/actors/order-1/snapshot", "", ""},
		{"BREW", "//", "", "\xff"},
	} {
		f.Add(seed.method, seed.target, seed.accept, "", []byte(seed.body))
	}
	f.Add("GET", events, "text/event-stream", "1", []byte(nil))
	fuzzed := newFuzzed(f)
	f.Fuzz(func(t *testing.T, method, target, accept, lastID string, body []byte) {
		u, err := url.ParseRequestURI(target)
		if err != nil || method == "" {
			t.Skip("net/http refuses it")
		}
		request, err := http.NewRequest(method, "http://localhost", bytes.NewReader(body))
		if err != nil {
			t.Skip("net/http refuses it")
		}
		request.URL = u
		request.Header.Set("Accept", accept)
		request.Header.Set("Last-Event-ID", lastID)
		got := fuzzed.answer(t, request)
		if got.Code >= 400 && !strings.HasPrefix(u.Path, "/aether.eventstore.") && !strings.HasPrefix(u.Path, "/grpc.") &&
			got.Header().Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s %s answered %d without a problem document: %s", method, target, got.Code, got.Body)
		}
	})
}

func FuzzRPC(f *testing.F) {
	all := slices.Sorted(maps.Keys(procedures))
	contentTypes := []string{
		"application/proto", "application/json", "application/connect+proto", "application/connect+json",
		"application/grpc", "application/grpc+json", "application/grpc-web", "application/grpc-web+json", "text/plain",
	}
	event := &eventstorev1.Event{Id: "e-1", EventType: "T", ActorId: "order-1", Version: 1, Data: []byte("1")}
	for _, message := range []proto.Message{
		&eventstorev1.SaveEventRequest{Event: event, ExpectedVersion: &eventstorev1.ExpectedVersion{Expected: &eventstorev1.ExpectedVersion_Version{Version: -1}}},
		&eventstorev1.SaveEventsRequest{Events: []*eventstorev1.Event{event, nil}},
		&eventstorev1.GetEventsRequest{ActorId: "order-1", Limit: 1},
		&eventstorev1.SubscribeDurableRequest{Name: "p", MaxInHand: 1},
	} {
		binary, err := proto.Marshal(message)
		if err != nil {
			f.Fatal(err)
		}
		text, err := protojson.Marshal(message)
		if err != nil {
			f.Fatal(err)
		}
		for i := range contentTypes {
			body := binary
			if strings.HasSuffix(contentTypes[i], "json") {
				body = text
			}
			if i > 1 {
				body = append([]byte{0, 0, 0, 0, byte(len(body))}, body...)
			}
			f.Add(uint8(slices.Index(all, eventstorev1connect.EventStoreServiceSaveEventProcedure)), uint8(i), body)
			f.Add(uint8(i), uint8(i), body)
		}
	}
	fuzzed := newFuzzed(f)
	f.Fuzz(func(t *testing.T, procedure, contentType uint8, body []byte) {
		request, err := http.NewRequest(http.MethodPost, "http://localhost"+all[int(procedure)%len(all)], bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		request.ProtoMajor = 2
		request.Header.Set("Content-Type", contentTypes[int(contentType)%len(contentTypes)])
		request.Header.Set("Connect-Protocol-Version", "1")
		got := fuzzed.answer(t, request)
		// gRPC calls a message that is cut off internal too; a mistake of the sidecar's
		// has a detail.
		trailer := got.Result().Trailer
		if status := trailer.Get("Grpc-Status"); (status == "13" || status == "2") && trailer.Get("Grpc-Status-Details-Bin") != "" {
			t.Errorf("%s answered %s: %s", request.URL.Path, status, trailer.Get("Grpc-Message"))
		}
	})
}
