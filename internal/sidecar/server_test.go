package sidecar_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/memory"
	"git.flowmade.one/flowmade-one/aether-operator/internal/sidecar"
)

// deadline bounds every wait of these tests.
const deadline = time.Minute

// running is a server for the time of a test.
type running struct {
	*testing.T
	config sidecar.Config
	// api and health are the bases of URLs.
	api, health string
	stop        context.CancelFunc
	ended       chan error
}

// serve runs a server over real listeners.
func serve(t *testing.T, config sidecar.Config) *running {
	t.Helper()
	server, err := sidecar.New(config)
	if err != nil {
		t.Fatal(err)
	}
	api, health := listen(t), listen(t)
	ctx, stop := context.WithCancel(context.Background())
	r := &running{T: t, config: config, api: "http://" + api.Addr().String(), health: "http://" + health.Addr().String(), stop: stop, ended: make(chan error, 1)}
	go func() {
		r.ended <- server.Serve(ctx, []net.Listener{api}, health)
		close(r.ended)
	}()
	t.Cleanup(func() { stop(); <-r.ended })
	return r
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return listener
}

// serveMemory serves the stores orders and payments in memory.
func serveMemory(t *testing.T) *running {
	t.Helper()
	return serve(t, sidecar.Config{Stores: []sidecar.Store{
		{Name: "orders", Namespace: "shop", Store: memory.New()},
		{Name: "payments", Store: memory.New()},
	}})
}

// answer is what a request was answered with.
type answer struct {
	status int
	header http.Header
	body   string
}

// do makes a request: "METHOD path", with headers as "Name: value".
func (r *running) do(request, body string, headers ...string) answer {
	r.Helper()
	response := r.open(r.Context(), request, body, headers...)
	defer func() { _ = response.Body.Close() }()
	content, err := io.ReadAll(response.Body)
	if err != nil {
		r.Fatalf("%s: read the answer: %v", request, err)
	}
	got := answer{status: response.StatusCode, header: response.Header, body: string(content)}
	if r.api != r.health && !strings.Contains(request, " /aether.") {
		r.keepsContract(request, got)
	}
	return got
}

// open is do that leaves the answer to be read.
func (r *running) open(ctx context.Context, request, body string, headers ...string) *http.Response {
	r.Helper()
	method, path, _ := strings.Cut(request, " ")
	ctx, cancel := context.WithTimeout(ctx, deadline)
	r.Cleanup(cancel)
	httpRequest, err := http.NewRequestWithContext(ctx, method, r.api+path, strings.NewReader(body))
	if err != nil {
		r.Fatal(err)
	}
	for _, header := range headers {
		name, value, _ := strings.Cut(header, ": ")
		httpRequest.Header.Set(name, value)
	}
	response, err := http.DefaultClient.Do(httpRequest)
	if err != nil {
		r.Fatalf("%s: %v", request, err)
	}
	return response
}

// post saves events and wants them stored.
func (r *running) post(path, body string) answer {
	r.Helper()
	got := r.do("POST "+path, body)
	if got.status != http.StatusCreated {
		r.Fatalf("POST %s: answered %d: %s", path, got.status, got.body)
	}
	return got
}

// problem is a problem document as a client reads it.
type problem struct {
	Type, Title, Detail, Code        string
	Status                           int
	Field                            *string
	ActorID, EventID                 string
	Version, Sequence                int64
	AttemptedVersion, CurrentVersion *int64
}

// wantProblem wants a problem document that is whole in itself.
func (r *running) wantProblem(got answer, status int, code, field string) problem {
	r.Helper()
	var p problem
	if err := json.Unmarshal([]byte(got.body), &p); err != nil {
		r.Fatalf("answered %d, no problem document: %q: %v", got.status, got.body, err)
	}
	if contentType := got.header.Get("Content-Type"); contentType != "application/problem+json" {
		r.Errorf("content type is %q", contentType)
	}
	if got.status != status || p.Status != status || p.Code != code || p.Type != "urn:aether:problem:"+code {
		r.Errorf("answered %d %s, want %d %s", got.status, got.body, status, code)
	}
	if p.Title == "" || p.Detail == "" {
		r.Errorf("title or detail is missing: %s", got.body)
	}
	if field != "" && (p.Field == nil || *p.Field != field) {
		r.Errorf("field is not %q: %s", field, got.body)
	}
	if field == "" && p.Field != nil {
		r.Errorf("field is %q, want none: %s", *p.Field, got.body)
	}
	return p
}

// wantJSON compares documents, without regard to white space and the order of
// members. Numbers must have the same digits.
func (r *running) wantJSON(got, want string) {
	r.Helper()
	if a, b := canonical(r.T, got), canonical(r.T, want); a != b {
		r.Errorf("got  %s\nwant %s", a, b)
	}
}

func canonical(t *testing.T, document string) string {
	t.Helper()
	decoder := json.NewDecoder(strings.NewReader(document))
	decoder.UseNumber()
	var value any
	if err := decoder.Decode(&value); err != nil {
		t.Fatalf("no JSON: %q: %v", document, err)
	}
	out, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// faulty is a Store that fails in ways that a real one cannot be made to.
type faulty struct {
	eventstore.Store
	err error
	// before are what Events and Next deliver before err.
	before []item
	next   int
}

type item struct {
	event eventstore.Event
	err   error
}

func (f *faulty) SaveEvent(context.Context, eventstore.Event, ...eventstore.SaveOption) (eventstore.Saved, error) {
	if f.err == nil {
		panic("made to panic")
	}
	return eventstore.Saved{}, fmt.Errorf("save an event: %w", f.err)
}

func (f *faulty) SaveEvents(ctx context.Context, events []eventstore.Event, _ ...eventstore.SaveOption) ([]eventstore.Saved, error) {
	_, err := f.SaveEvent(ctx, events[0])
	return nil, err
}

func (f *faulty) Events(context.Context, string, int64, ...eventstore.ReadOption) iter.Seq2[eventstore.Event, error] {
	return func(yield func(eventstore.Event, error) bool) {
		for _, i := range f.before {
			if !yield(i.event, i.err) {
				return
			}
		}
		if f.err != nil {
			yield(eventstore.Event{}, f.err)
		}
	}
}

func (f *faulty) Subscribe(context.Context, eventstore.SubscribeOptions) (eventstore.Subscription, error) {
	return f, nil
}

func (f *faulty) Next(ctx context.Context) (eventstore.Event, error) {
	if f.next == len(f.before) {
		return eventstore.Event{}, f.err
	}
	f.next++
	return f.before[f.next-1].event, f.before[f.next-1].err
}

func (f *faulty) Position() (uint64, bool) { return 0, false }

func (f *faulty) Close() error { return nil }

func serveFaulty(t *testing.T, store *faulty) *running {
	t.Helper()
	return serve(t, sidecar.Config{Stores: []sidecar.Store{{Name: "orders", Store: store}}})
}

// anEvent and aReplayError are what a stream of a faulty Store delivers.
var (
	anEvent = item{event: eventstore.Event{ID: "e-1", EventType: "T", ActorID: "order-1", Version: 1, Data: []byte("1"), Sequence: 7,
		Timestamp: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)}}
	aReplayError = item{err: &eventstore.ReplayError{Sequence: 8, RawData: []byte{0xff}, Err: errors.New("has no id")}}
	errAtLast    = fmt.Errorf("read on: %w", eventstore.ErrUnavailable)
)

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	for name, stores := range map[string][]sidecar.Store{
		"no store":     nil,
		"no name":      {{Store: memory.New()}},
		"a name twice": {{Name: "orders", Store: memory.New()}, {Name: "orders", Store: memory.New()}},
	} {
		if _, err := sidecar.New(sidecar.Config{Stores: stores}); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}

func lines(document string) []string { return strings.Split(strings.TrimSuffix(document, "\n"), "\n") }

// repeat is a JSON string of n bytes.
func repeat(n int) string { return `"` + string(bytes.Repeat([]byte("x"), n)) + `"` }
