package sidecar_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"strings"
	"testing"
	"time"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/memory"
	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/sidecar"
	server "git.flowmade.one/flowmade-one/aether-operator/internal/sidecar"
)

func event(id, actorID string) eventstore.Event {
	return eventstore.Event{ID: id, EventType: "Tested", ActorID: actorID}
}

// faulty is a Store that fails in ways that a real one cannot be made to.
type faulty struct {
	eventstore.Store
	err error
}

func (f *faulty) SaveEvents(context.Context, []eventstore.Event, ...eventstore.SaveOption) ([]eventstore.Saved, error) {
	return nil, fmt.Errorf("made to fail: %w", f.err)
}

func (f *faulty) GetLatestVersion(context.Context, string) (int64, error) { return 0, f.err }

func (f *faulty) Events(context.Context, string, int64, ...eventstore.ReadOption) iter.Seq2[eventstore.Event, error] {
	return func(yield func(eventstore.Event, error) bool) {
		replay := &eventstore.ReplayError{Sequence: 7, RawData: []byte("raw"), Err: errors.New("has no id")}
		_ = yield(event("e-1", "order-1"), nil) && yield(eventstore.Event{}, replay) && yield(event("e-2", "order-1"), nil) &&
			(f.err == nil || yield(eventstore.Event{}, f.err))
	}
}

func openFaulty(t *testing.T, err error, opts ...eventstore.Option) *sidecar.Store {
	t.Helper()
	return open(t, serve(t, server.Config{Stores: []server.Store{{Name: "orders", Store: &faulty{err: err}}}}), "orders", opts...)
}

// Errors are on both sides the same.
func TestErrorsOverTheWire(t *testing.T) {
	t.Parallel()
	for _, want := range []error{
		eventstore.ErrNoSnapshot, eventstore.ErrTooLarge, eventstore.ErrStoreFull, eventstore.ErrUnavailable, eventstore.ErrPermissionDenied, eventstore.ErrUnknownOutcome,
	} {
		store := openFaulty(t, want)
		_, err := store.SaveEvent(t.Context(), event("e-1", "order-1"))
		if !errors.Is(err, want) || strings.Count(err.Error(), want.Error()) != 1 {
			t.Errorf("save: error %v, want %v, once", err, want)
		}
		if _, err := store.GetLatestVersion(t.Context(), "order-1"); !errors.Is(err, want) {
			t.Errorf("read: error %v, want %v", err, want)
		}
		if _, err := store.GetEvents(t.Context(), "order-1", 0); !errors.Is(err, want) {
			t.Errorf("stream: error %v, want %v", err, want)
		}
	}
	_, err := openFaulty(t, errors.New("a mistake")).SaveEvent(t.Context(), event("e-1", "order-1"))
	for _, wrong := range []error{eventstore.ErrUnavailable, eventstore.ErrUnknownOutcome} {
		if err == nil || errors.Is(err, wrong) {
			t.Errorf("a mistake of the sidecar is %v", err)
		}
	}
}

func TestTypedErrorsOverTheWire(t *testing.T) {
	t.Parallel()
	store := open(t, serve(t, server.Config{Stores: []server.Store{{Name: "orders", Store: memory.New()}}, MaxBodyBytes: 1 << 20}), "orders")
	first := event("e-1", "order-1")
	first.Version = 3
	if _, err := store.SaveEvent(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	_, err := store.SaveEvent(t.Context(), event("e-2", "order-1"), eventstore.Expect("order-1", 1))
	var conflict *eventstore.VersionConflictError
	if want := (eventstore.VersionConflictError{ActorID: "order-1", EventID: "e-2", ExpectedVersion: 1, CurrentVersion: 3}); !errors.As(err, &conflict) || *conflict != want {
		t.Errorf("error %v, want %v", err, &want)
	}
	first.ActorID = "other"
	_, err = store.SaveEvent(t.Context(), first)
	var duplicate *eventstore.DuplicateEventError
	if want := (eventstore.DuplicateEventError{EventID: "e-1", ActorID: "order-1", Version: 3, Sequence: 1}); !errors.As(err, &duplicate) || *duplicate != want {
		t.Errorf("error %v, want %v", err, &want)
	}
	batch := make([]eventstore.Event, 4)
	for i := range batch {
		batch[i] = event(fmt.Sprintf("large-%d", i), "order-1")
		batch[i].ContentType, batch[i].Data = "application/octet-stream", make([]byte, 900<<10)
	}
	if _, err := store.SaveEvents(t.Context(), batch); !errors.Is(err, eventstore.ErrTooLarge) {
		t.Errorf("a batch above the limit of the sidecar: error %v", err)
	}
	if version, err := store.GetLatestVersion(t.Context(), "order-1"); err != nil || version != 3 {
		t.Errorf("version %d, %v, want 3", version, err)
	}
}

func TestUnknownStore(t *testing.T) {
	t.Parallel()
	store := open(t, serve(t, server.Config{Stores: []server.Store{{Name: "orders", Store: memory.New()}}}), "nowhere")
	_, saveErr := store.SaveEvent(t.Context(), event("e-1", "order-1"))
	_, readErr := store.GetEvents(t.Context(), "order-1", 0)
	_, followErr := store.Subscribe(t.Context(), eventstore.SubscribeOptions{})
	for _, err := range []error{saveErr, readErr, followErr} {
		if !errors.Is(err, sidecar.ErrUnknownStore) || !strings.Contains(err.Error(), "the stores are orders") {
			t.Errorf("error %v does not name the stores", err)
		}
	}
}

func TestReplayErrors(t *testing.T) {
	t.Parallel()
	metrics := &eventstore.Metrics{}
	store := openFaulty(t, nil, eventstore.WithMetrics(metrics))
	result, err := store.GetEventsWithErrors(t.Context(), "order-1", 0)
	if err != nil || len(result.Events) != 2 || len(result.Errors) != 1 {
		t.Fatalf("result %+v, %v", result, err)
	}
	if got := result.Errors[0]; got.Sequence != 7 || string(got.RawData) != "raw" || got.Err.Error() != "has no id" {
		t.Errorf("replay error %+v", got)
	}
	if events, err := store.GetEvents(t.Context(), "order-1", 0); err != nil || len(events) != 2 {
		t.Errorf("events %+v, %v", events, err)
	}
	if got := metrics.ReplayErrors.Load(); got != 2 {
		t.Errorf("%d replay errors counted, want 2", got)
	}
}

// Nobody listens: nothing was sent, and trying again is safe.
func TestSidecarThatIsNotThere(t *testing.T) {
	t.Parallel()
	listener := listen(t, "tcp", "127.0.0.1:0")
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	store := open(t, "http://"+listener.Addr().String(), "orders")
	_, saveErr := store.SaveEvent(t.Context(), event("e-1", "order-1"))
	_, readErr := store.GetEvents(t.Context(), "order-1", 0)
	_, followErr := store.Subscribe(t.Context(), eventstore.SubscribeOptions{})
	for _, err := range []error{saveErr, readErr, followErr} {
		if !errors.Is(err, eventstore.ErrUnavailable) || errors.Is(err, eventstore.ErrUnknownOutcome) {
			t.Errorf("error %v, want unavailable", err)
		}
	}
}

// blocked is a Store whose calls last until it is released.
type blocked struct {
	eventstore.Store
	began, release chan struct{}
}

func (b *blocked) SaveEvents(context.Context, []eventstore.Event, ...eventstore.SaveOption) ([]eventstore.Saved, error) {
	b.began <- struct{}{}
	<-b.release
	return nil, eventstore.ErrUnavailable
}

// A sidecar that has too much to do has stored nothing.
func TestTooManyCalls(t *testing.T) {
	t.Parallel()
	store := &blocked{Store: memory.New(), began: make(chan struct{}), release: make(chan struct{})}
	dialed := open(t, serve(t, server.Config{MaxCalls: 1, Stores: []server.Store{{Name: "orders", Store: store}}}), "orders")
	ended := make(chan error, 1)
	go func() {
		_, err := dialed.SaveEvent(t.Context(), event("e-1", "order-1"))
		ended <- err
	}()
	<-store.began
	_, err := dialed.SaveEvent(t.Context(), event("e-2", "order-1"))
	if !errors.Is(err, eventstore.ErrUnavailable) || errors.Is(err, eventstore.ErrUnknownOutcome) || !strings.Contains(err.Error(), "too many requests") {
		t.Errorf("error %v, want unavailable", err)
	}
	close(store.release)
	<-ended
}

// A save that was sent and has no answer is not guessed at.
func TestSaveWithoutAnAnswer(t *testing.T) {
	t.Parallel()
	store := &blocked{began: make(chan struct{}), release: make(chan struct{})}
	dialed := open(t, serve(t, server.Config{Stores: []server.Store{{Name: "orders", Store: store}}}), "orders")
	defer close(store.release)
	for name, c := range map[string]struct {
		context func() (context.Context, context.CancelFunc)
		want    error
	}{
		"canceled":    {func() (context.Context, context.CancelFunc) { return context.WithCancel(t.Context()) }, context.Canceled},
		"out of time": {func() (context.Context, context.CancelFunc) { return context.WithTimeout(t.Context(), time.Second) }, context.DeadlineExceeded},
	} {
		ctx, cancel := c.context()
		ended := make(chan error, 1)
		go func() {
			_, err := dialed.SaveEvent(ctx, event("e-1", "order-1"))
			ended <- err
		}()
		<-store.began
		if c.want == context.Canceled {
			cancel()
		}
		if err := <-ended; !errors.Is(err, eventstore.ErrUnknownOutcome) || !errors.Is(err, c.want) || errors.Is(err, eventstore.ErrUnavailable) {
			t.Errorf("%s: error %v, want %v and that the outcome is unknown", name, err, c.want)
		}
		cancel()
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := dialed.SaveEvent(ctx, event("e-1", "order-1")); !errors.Is(err, eventstore.ErrUnavailable) || !errors.Is(err, context.Canceled) || errors.Is(err, eventstore.ErrUnknownOutcome) {
		t.Errorf("a context that had ended: error %v", err)
	}
}

// A subscription hears that the sidecar stops, and of nothing else.
func TestSubscriptionWhoseSidecarStops(t *testing.T) {
	t.Parallel()
	api := listen(t, "tcp", "127.0.0.1:0")
	stop := start(t, server.Config{Stores: []server.Store{{Name: "orders", Store: memory.New()}}}, api)
	store := open(t, "http://"+api.Addr().String(), "orders")
	if _, err := store.SaveEvent(t.Context(), event("e-1", "order-1")); err != nil {
		t.Fatal(err)
	}
	subscription, err := store.Subscribe(t.Context(), eventstore.SubscribeOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = subscription.Close() }()
	if got, err := subscription.Next(t.Context()); err != nil || got.ID != "e-1" {
		t.Fatalf("next is %+v, %v", got, err)
	}
	stop()
	if _, err := subscription.Next(t.Context()); !errors.Is(err, eventstore.ErrUnavailable) || !strings.Contains(err.Error(), "connect again") {
		t.Errorf("error %v, want that the sidecar stops", err)
	}
}

func TestEndpoints(t *testing.T) {
	t.Parallel()
	config := server.Config{Stores: []server.Store{{Name: "orders", Store: memory.New()}}}
	for _, endpoint := range []string{serve(t, config), serve(t, config) + "/", serveUnix(t, config)} {
		if version, err := open(t, endpoint, "").GetLatestVersion(t.Context(), "order-1"); err != nil || version != 0 {
			t.Errorf("%s: version %d, %v", endpoint, version, err)
		}
	}
	for _, endpoint := range []string{"", "127.0.0.1:4280", "localhost", "https://127.0.0.1:4280", "unix://relative", "unix://", "http://", "://", "nats://a:4222"} {
		if _, err := sidecar.New(endpoint, "orders"); err == nil || !strings.Contains(err.Error(), "endpoint of the sidecar") {
			t.Errorf("endpoint %q: error %v", endpoint, err)
		}
	}
}

// What answers there is some other server.
func TestEndpointOfSomethingElse(t *testing.T) {
	t.Parallel()
	listener := listen(t, "tcp", "127.0.0.1:0")
	other := &http.Server{Handler: http.NotFoundHandler(), Protocols: new(http.Protocols)}
	other.Protocols.SetUnencryptedHTTP2(true)
	go func() { _ = other.Serve(listener) }()
	t.Cleanup(func() { _ = other.Close() })
	_, err := open(t, "http://"+listener.Addr().String(), "orders").GetLatestVersion(t.Context(), "order-1")
	if err == nil {
		t.Error("a server that is no sidecar was taken for one")
	}
}

// paged is a Store whose actor has more events than a page, and before them a
// message that is none.
type paged struct{ eventstore.Store }

func (paged) Events(_ context.Context, _ string, _ int64, opts ...eventstore.ReadOption) iter.Seq2[eventstore.Event, error] {
	from := eventstore.NewReadOptions(opts...).FromSequence
	return func(yield func(eventstore.Event, error) bool) {
		if from <= 1 && !yield(eventstore.Event{}, &eventstore.ReplayError{Sequence: 1, Err: errors.New("has no id")}) {
			return
		}
		for version := max(int64(from), 2) - 1; version <= 2500; version++ {
			if !yield(eventstore.Event{ID: "e", EventType: "T", ActorID: "order-1", Version: version, Sequence: uint64(version) + 1}, nil) {
				return
			}
		}
	}
}

func TestPages(t *testing.T) {
	t.Parallel()
	store := open(t, serve(t, server.Config{Stores: []server.Store{{Name: "orders", Store: paged{}}}}), "orders")
	result, err := store.GetEventsWithErrors(t.Context(), "order-1", 0)
	if err != nil || len(result.Errors) != 1 || len(result.Events) != 2500 {
		t.Fatalf("%d events, %d errors, %v", len(result.Events), len(result.Errors), err)
	}
	for i, event := range result.Events {
		if event.Version != int64(i+1) {
			t.Fatalf("event %d has version %d", i, event.Version)
		}
	}
}
