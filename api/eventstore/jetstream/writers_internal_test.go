package jetstream

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"testing"
	"time"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
)

// waiting blocks until so many wait for an actor.
func (w *writers) waiting(t *testing.T, actorID string, n int) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		w.mu.Lock()
		got := 0
		if l := w.lines[actorID]; l != nil {
			got = len(l.waiting)
		}
		w.mu.Unlock()
		if got == n {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d wait, want %d", got, n)
		}
		runtime.Gosched()
	}
}

func (w *writers) mustEnter(t *testing.T, ctx context.Context, actorID string) (leave func()) {
	t.Helper()
	leave, err := w.enter(ctx, actorID)
	if err != nil {
		t.Fatal(err)
	}
	return leave
}

func TestWritersOfOneActorGoOneAfterAnother(t *testing.T) {
	t.Parallel()
	w := newWriters()
	leave := w.mustEnter(t, t.Context(), "a")
	order := make(chan int, 3)
	for n := range 3 {
		go func() {
			leave, err := w.enter(t.Context(), "a")
			if err == nil {
				order <- n
				leave()
			}
		}()
		w.waiting(t, "a", n+1)
	}
	// Another actor has nothing to do with it.
	w.mustEnter(t, t.Context(), "b")()
	leave()
	if got := []int{<-order, <-order, <-order}; !slices.Equal(got, []int{0, 1, 2}) {
		t.Errorf("they went in the order %v", got)
	}
	w.waiting(t, "a", 0)
	w.mustEnter(t, t.Context(), "a")()
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.lines) != 0 {
		t.Errorf("%d lines are left", len(w.lines))
	}
}

func TestWriterGivesUp(t *testing.T) {
	t.Parallel()
	w := newWriters()
	leave := w.mustEnter(t, t.Context(), "a")
	ctx, cancel := context.WithCancel(t.Context())
	gone, next := make(chan error), make(chan func())
	go func() {
		_, err := w.enter(ctx, "a")
		gone <- err
	}()
	w.waiting(t, "a", 1)
	go func() {
		leave, _ := w.enter(t.Context(), "a")
		next <- leave
	}()
	w.waiting(t, "a", 2)
	cancel()
	if err := <-gone; !errors.Is(err, context.Canceled) || !errors.Is(err, eventstore.ErrUnavailable) {
		t.Errorf("the one that gave up has %v", err)
	}
	w.waiting(t, "a", 1)
	leave()
	(<-next)()
	w.waiting(t, "a", 0)
}

// One that has got its turn and given up at the same moment passes it on.
func TestWriterGivesUpItsTurn(t *testing.T) {
	t.Parallel()
	w := newWriters()
	leave := w.mustEnter(t, t.Context(), "a")
	l, own := w.lines["a"], make(chan int, 1)
	l.waiting = append(l.waiting, own)
	leave()
	next := make(chan func())
	go func() {
		leave, _ := w.enter(t.Context(), "a")
		next <- leave
	}()
	w.waiting(t, "a", 1)
	w.giveUp("a", l, own)
	(<-next)()
}

// Who takes longer than the others are patient for holds up nobody, and its end takes
// nobody's turn.
func TestWritersArePatientOnlySoLong(t *testing.T) {
	t.Parallel()
	w := newWriters()
	late := w.mustEnter(t, t.Context(), "a")
	leave := w.mustEnter(t, t.Context(), "a")
	late()
	waits := make(chan func())
	go func() {
		leave, _ := w.enter(t.Context(), "a")
		waits <- leave
	}()
	w.waiting(t, "a", 1)
	leave()
	(<-waits)()
}

func TestTakesNext(t *testing.T) {
	t.Parallel()
	next, second := eventstore.Event{ActorID: "a"}, eventstore.Event{ActorID: "a", Version: 2}
	for _, c := range []struct {
		name   string
		events []eventstore.Event
		opts   []eventstore.SaveOption
		want   bool
	}{
		{"one", []eventstore.Event{next}, nil, true},
		{"several of one actor", []eventstore.Event{next, next}, nil, true},
		{"any is expected", []eventstore.Event{next}, []eventstore.SaveOption{eventstore.Expect("a", eventstore.ExpectAny)}, true},
		{"a version", []eventstore.Event{second}, nil, false},
		{"a version among others", []eventstore.Event{next, second}, nil, false},
		{"two actors", []eventstore.Event{next, {ActorID: "b"}}, nil, false},
		{"an expected version", []eventstore.Event{next}, []eventstore.SaveOption{eventstore.Expect("a", eventstore.ExpectNone)}, false},
	} {
		if got := takesNext(c.events, eventstore.NewSaveOptions(c.opts...)); got != c.want {
			t.Errorf("%s: %t", c.name, got)
		}
	}
}

func TestWaitAfterManyConflicts(t *testing.T) {
	t.Parallel()
	for tries, want := range map[int]time.Duration{1: 2 * time.Millisecond, 2: 4 * time.Millisecond, 6: 64 * time.Millisecond, 1000: 64 * time.Millisecond} {
		if got := waitAfter(errAgain, tries); got != want {
			t.Errorf("after %d tries: %s, want %s", tries, got, want)
		}
	}
	if got := waitAfter(errNoAnswer, 1000); got != retryWait {
		t.Errorf("after no answer: %s", got)
	}
}
