package sidecar

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http/httptest"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/memory"
	eventstorev1 "git.flowmade.one/flowmade-one/aether-operator/api/eventstore/v1"
	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/v1/eventstorev1connect"
	server "git.flowmade.one/flowmade-one/aether-operator/internal/sidecar"
)

// callClient hands each call over to the test, which answers it.
type callClient struct {
	eventstorev1connect.EventStoreServiceClient
	calls chan *testCall
}

// testCall is a call under way: of one save, or of several.
type testCall struct {
	ctx      context.Context
	batches  []*eventstorev1.SaveBatch
	answered chan error
}

func (c *callClient) call(ctx context.Context, batches ...*eventstorev1.SaveBatch) error {
	call := &testCall{ctx: ctx, batches: batches, answered: make(chan error)}
	c.calls <- call
	select {
	case err := <-call.answered:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (c *callClient) SaveEvents(ctx context.Context, request *eventstorev1.SaveEventsRequest) (*eventstorev1.SaveEventsResponse, error) {
	if err := c.call(ctx, &eventstorev1.SaveBatch{Save: request}); err != nil {
		return nil, err
	}
	return saved(request), nil
}

func (c *callClient) SaveBatches(ctx context.Context, request *eventstorev1.SaveBatchesRequest) (*eventstorev1.SaveBatchesResponse, error) {
	if err := c.call(ctx, request.GetBatches()...); err != nil {
		return nil, err
	}
	response := &eventstorev1.SaveBatchesResponse{}
	for _, batch := range request.GetBatches() {
		response.Results = append(response.Results, &eventstorev1.SaveBatchResult{Result: &eventstorev1.SaveBatchResult_Saved{Saved: saved(batch.GetSave())}})
	}
	return response, nil
}

func saved(request *eventstorev1.SaveEventsRequest) *eventstorev1.SaveEventsResponse {
	return &eventstorev1.SaveEventsResponse{Saved: []*eventstorev1.SavedEvent{{Id: request.GetEvents()[0].GetId()}}}
}

// grouped is a group whose calls the test answers, and never out of patience.
type grouped struct {
	*testing.T
	*group
	client *callClient
}

func newGrouped(t *testing.T) *grouped {
	client := &callClient{calls: make(chan *testCall)}
	return &grouped{t, &group{client: client, patience: time.Hour}, client}
}

// ended is what a save came to.
type ended struct {
	response *eventstorev1.SaveEventsResponse
	err      error
}

// start saves an event with data of so many bytes in the background.
func (g *grouped) start(ctx context.Context, id string, bytes int) <-chan ended {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	result := make(chan ended, 1)
	go func() {
		defer cancel()
		response, err := g.save(ctx, &eventstorev1.SaveEventsRequest{Events: []*eventstorev1.Event{{Id: id, Data: make([]byte, bytes)}}})
		result <- ended{response, err}
	}()
	return result
}

// fill has as many calls under way as there may be.
func (g *grouped) fill() (calls []*testCall) {
	for n := range callsAtOnce {
		g.start(g.Context(), fmt.Sprintf("first-%d", n), 0)
		calls = append(calls, <-g.client.calls)
	}
	return calls
}

// wait starts a save that waits in line, as the n-th.
func (g *grouped) wait(ctx context.Context, id string, n int) <-chan ended {
	g.Helper()
	result := g.start(ctx, id, 0)
	g.until(func() bool { return len(g.line) == n })
	return result
}

// until waits for something that is so under the lock.
func (g *grouped) until(is func() bool) {
	g.Helper()
	for deadline := time.Now().Add(time.Minute); ; runtime.Gosched() {
		g.mu.Lock()
		found := is()
		g.mu.Unlock()
		if found {
			return
		}
		if time.Now().After(deadline) {
			g.Fatalf("%d calls are under way and %d saves in line", len(g.calls), len(g.line))
		}
	}
}

func (c *testCall) ids() []string {
	var ids []string
	for _, batch := range c.batches {
		ids = append(ids, batch.GetSave().GetEvents()[0].GetId())
	}
	return ids
}

func wantSaved(t *testing.T, result <-chan ended, id string) {
	t.Helper()
	if got := <-result; got.err != nil || got.response.GetSaved()[0].GetId() != id {
		t.Errorf("%s was answered %v, %v", id, got.response, got.err)
	}
}

// A few saves go at once; those that come meanwhile go together.
func TestSavesGoTogether(t *testing.T) {
	t.Parallel()
	g := newGrouped(t)
	first := g.fill()
	waiting := []<-chan ended{g.wait(t.Context(), "a", 1), g.wait(t.Context(), "b", 2), g.wait(t.Context(), "c", 3)}
	first[0].answered <- nil
	call := <-g.client.calls
	if !slices.Equal(call.ids(), []string{"a", "b", "c"}) {
		t.Errorf("%q went together", call.ids())
	}
	call.answered <- nil
	for i, id := range []string{"a", "b", "c"} {
		wantSaved(t, waiting[i], id)
	}
	first[1].answered <- nil
	g.until(func() bool { return len(g.calls) == 0 })
	// And the next goes at once again.
	next := g.start(t.Context(), "d", 0)
	(<-g.client.calls).answered <- nil
	wantSaved(t, next, "d")
}

// What is large goes by itself, and in nobody's place.
func TestLargeSavesGoAlone(t *testing.T) {
	t.Parallel()
	g := newGrouped(t)
	first := g.fill()
	large := g.start(t.Context(), "large", largeSave)
	call := <-g.client.calls
	small := g.wait(t.Context(), "small", 1)
	first[0].answered <- nil
	(<-g.client.calls).answered <- nil
	wantSaved(t, small, "small")
	call.answered <- nil
	wantSaved(t, large, "large")
	first[1].answered <- nil
	g.until(func() bool { return len(g.calls) == 0 })
}

func TestFitting(t *testing.T) {
	t.Parallel()
	line := func(n, bytes int) (line []*waiter) {
		for range n {
			line = append(line, &waiter{bytes: bytes})
		}
		return line
	}
	for name, c := range map[string]struct {
		line []*waiter
		want int
	}{
		"nobody":     {nil, 0},
		"all":        {line(200, 100), 200},
		"most":       {line(256, 100), 256},
		"too many":   {line(300, 100), 256},
		"bytes":      {line(16, 16<<10), 16},
		"more bytes": {line(17, 16<<10), 16},
		"one at all": {line(2, 1<<20), 1},
	} {
		if got := fitting(c.line); got != c.want {
			t.Errorf("%s: %d go together, want %d", name, got, c.want)
		}
	}
}

// A save whose context ends in line was not sent, and is not.
func TestContextEndsInLine(t *testing.T) {
	t.Parallel()
	g := newGrouped(t)
	first := g.fill()
	ctx, cancel := context.WithCancel(t.Context())
	given := g.wait(ctx, "given up", 1)
	kept := g.wait(t.Context(), "kept", 2)
	cancel()
	got := <-given
	if !errors.Is(got.err, eventstore.ErrUnavailable) || !errors.Is(got.err, context.Canceled) || errors.Is(got.err, eventstore.ErrUnknownOutcome) {
		t.Errorf("error %v, want that nothing was sent", got.err)
	}
	first[0].answered <- nil
	call := <-g.client.calls
	if !slices.Equal(call.ids(), []string{"kept"}) {
		t.Errorf("%q was sent", call.ids())
	}
	call.answered <- nil
	wantSaved(t, kept, "kept")
	first[1].answered <- nil
	g.until(func() bool { return len(g.calls) == 0 && len(g.line) == 0 })
}

// A save whose context ends under way returns at once; the others of its call
// are answered, in the time that the last of them has.
func TestContextEndsUnderWay(t *testing.T) {
	t.Parallel()
	g := newGrouped(t)
	first := g.fill()
	ctx, cancel := context.WithCancel(t.Context())
	given := g.wait(ctx, "given up", 1)
	kept := g.wait(t.Context(), "kept", 2)
	first[0].answered <- nil
	call := <-g.client.calls
	cancel()
	got := <-given
	if !errors.Is(got.err, eventstore.ErrUnknownOutcome) || !errors.Is(got.err, context.Canceled) || errors.Is(got.err, eventstore.ErrUnavailable) {
		t.Errorf("error %v, want that the outcome is unknown", got.err)
	}
	if call.ctx.Err() != nil {
		t.Errorf("the call of the others has ended: %v", call.ctx.Err())
	}
	call.answered <- nil
	wantSaved(t, kept, "kept")
	first[1].answered <- nil
	g.until(func() bool { return len(g.calls) == 0 })
}

// The time of a call is that of its most patient save.
func TestDeadlineOfACall(t *testing.T) {
	t.Parallel()
	g := newGrouped(t)
	first := g.fill()
	latest := time.Now().Add(50 * time.Second)
	var waiting []<-chan ended
	for n, deadline := range []time.Time{latest.Add(-10 * time.Second), latest, latest.Add(-20 * time.Second)} {
		ctx, cancel := context.WithDeadline(t.Context(), deadline)
		defer cancel()
		waiting = append(waiting, g.wait(ctx, fmt.Sprint(n), n+1))
	}
	first[0].answered <- nil
	call := <-g.client.calls
	if got, has := call.ctx.Deadline(); !has || !got.Equal(latest) {
		t.Errorf("the call has until %s, want %s", got, latest)
	}
	call.answered <- nil
	for n, result := range waiting {
		wantSaved(t, result, fmt.Sprint(n))
	}
	first[1].answered <- nil
}

// A call that fails gives each save the error that one of its own would have
// got.
func TestCallOfSeveralFails(t *testing.T) {
	t.Parallel()
	reason := func(code connect.Code, reason string) error {
		err := connect.NewWireError(code, errors.New("as the sidecar says"))
		detail, detailErr := connect.NewErrorDetail(&eventstorev1.Reason{Code: reason})
		if detailErr != nil {
			t.Fatal(detailErr)
		}
		err.AddDetail(detail)
		return err
	}
	for name, c := range map[string]struct {
		err  error
		want error
	}{
		"no sidecar":        {connect.NewError(connect.CodeUnavailable, &net.OpError{Op: "dial", Err: errors.New("refused")}), eventstore.ErrUnavailable},
		"cut off":           {connect.NewError(connect.CodeUnavailable, io.ErrUnexpectedEOF), eventstore.ErrUnknownOutcome},
		"too many requests": {reason(connect.CodeResourceExhausted, eventstorev1.CodeTooManyRequests), eventstore.ErrUnavailable},
		"unknown outcome":   {reason(connect.CodeDeadlineExceeded, eventstorev1.CodeUnknownOutcome), eventstore.ErrUnknownOutcome},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := newGrouped(t)
			alone := g.start(t.Context(), "alone", 0)
			(<-g.client.calls).answered <- c.err
			own := <-alone
			first := g.fill()
			waiting := []<-chan ended{g.wait(t.Context(), "a", 1), g.wait(t.Context(), "b", 2)}
			first[0].answered <- nil
			(<-g.client.calls).answered <- c.err
			for _, result := range waiting {
				if got := <-result; !errors.Is(got.err, c.want) || got.err.Error() != own.err.Error() {
					t.Errorf("error %v, want %v as alone: %v", got.err, c.want, own.err)
				}
			}
			first[1].answered <- nil
			g.until(func() bool { return len(g.calls) == 0 })
		})
	}
}

// Together too large for a sidecar with a small limit, they go one by one, and
// the next together again.
func TestTooLargeTogether(t *testing.T) {
	t.Parallel()
	g := newGrouped(t)
	first := g.fill()
	waiting := []<-chan ended{g.wait(t.Context(), "a", 1), g.wait(t.Context(), "b", 2)}
	first[0].answered <- nil
	(<-g.client.calls).answered <- connect.NewWireError(connect.CodeResourceExhausted, errors.New("message is larger than allowed"))
	for range waiting {
		call := <-g.client.calls
		if len(call.batches) != 1 {
			t.Errorf("%q went together", call.ids())
		}
		call.answered <- nil
	}
	wantSaved(t, waiting[0], "a")
	wantSaved(t, waiting[1], "b")
	first[1].answered <- nil
	g.until(func() bool { return len(g.calls) == 0 && !g.unbatched })
}

// What takes long holds nobody up: once out of patience, others go.
func TestPatience(t *testing.T) {
	t.Parallel()
	g := newGrouped(t)
	g.patience = time.Millisecond
	var long []*testCall
	var results []<-chan ended
	for n := range 4 * callsAtOnce {
		results = append(results, g.start(t.Context(), fmt.Sprint(n), 0))
		long = append(long, <-g.client.calls)
	}
	for n, call := range long {
		call.answered <- nil
		wantSaved(t, results[n], fmt.Sprint(n))
	}
	g.until(func() bool { return len(g.calls) == 0 })
}

// gate is a Store whose saves of the actor held wait.
type gate struct {
	eventstore.Store
	began, release chan struct{}
}

func (g *gate) SaveEvents(ctx context.Context, events []eventstore.Event, opts ...eventstore.SaveOption) ([]eventstore.Saved, error) {
	if eventstore.ActorType(events[0].ActorID) == "held" {
		g.began <- struct{}{}
		<-g.release
	}
	return g.Store.SaveEvents(ctx, events, opts...)
}

// Each save that goes with others ends as it would alone: with a real sidecar,
// the same answers, errors, counts and notifications.
func TestTogetherAsAlone(t *testing.T) {
	t.Parallel()
	saves := []eventstore.Event{
		{ID: "e-1", EventType: "T", ActorID: "order-1"},
		{ID: "e-2", EventType: "T", ActorID: "old-1", Version: 2},
		{ID: "old", EventType: "T", ActorID: "other-1", Version: 3},
		{ID: "old", EventType: "T", ActorID: "old-1", Version: 3},
		{ID: "e-3", EventType: "T", ActorID: "order-3", TraceParent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"},
	}
	alone, together := outcomes(t, saves, false), outcomes(t, saves, true)
	for i := range saves {
		if alone[i] != together[i] {
			t.Errorf("%+v: together %s, alone %s", saves[i], together[i], alone[i])
		}
	}
	if last := len(saves); alone[last] != together[last] {
		t.Errorf("together %s, alone %s", together[last], alone[last])
	}
}

// outcomes are what each of the saves comes to, and last what is counted.
func outcomes(t *testing.T, saves []eventstore.Event, together bool) []string {
	t.Helper()
	kept := &gate{Store: memory.New(), began: make(chan struct{}), release: make(chan struct{})}
	s, err := server.New(server.Config{Stores: []server.Store{{Name: "orders", Store: kept}}})
	if err != nil {
		t.Fatal(err)
	}
	endpoint := httptest.NewServer(s.Handler())
	t.Cleanup(endpoint.Close)
	bus, metrics := &eventstore.Bus{}, &eventstore.Metrics{}
	stored := bus.Subscribe(eventstore.InternalNamespace, 100)
	store, err := New(endpoint.URL, "", eventstore.WithBus(bus), eventstore.WithMetrics(metrics))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	store.saves.patience = time.Hour
	save := func(event eventstore.Event) string {
		saved, err := store.SaveEvent(t.Context(), event)
		// The sequence is that of the order of coming.
		saved.Sequence = 0
		var conflict *eventstore.VersionConflictError
		var duplicate *eventstore.DuplicateEventError
		return fmt.Sprintf("%+v %v %t %t", saved, err, errors.As(err, &conflict), errors.As(err, &duplicate))
	}
	save(eventstore.Event{ID: "old", EventType: "T", ActorID: "old-1", Version: 3})
	var saving sync.WaitGroup
	for n := range callsAtOnce {
		held := eventstore.Event{ID: fmt.Sprintf("held-%d", n), EventType: "T", ActorID: fmt.Sprintf("held-%d", n)}
		if !together {
			go func() { <-kept.began; kept.release <- struct{}{} }()
			save(held)
			continue
		}
		saving.Go(func() { save(held) })
		<-kept.began
	}
	results := make([]string, len(saves))
	for i, event := range saves {
		if !together {
			results[i] = save(event)
			continue
		}
		saving.Go(func() { results[i] = save(event) })
		(&grouped{t, store.saves, nil}).until(func() bool { return len(store.saves.line) == i+1 })
	}
	close(kept.release)
	saving.Wait()
	stored.Close()
	return append(results, fmt.Sprintf("saved %d duplicates %d conflicts %d errors %d notified %d", metrics.EventsSaved.Load(),
		metrics.DuplicatesSaved.Load(), metrics.VersionConflicts.Load(), metrics.SaveErrors.Load(), len(stored.C())))
}
