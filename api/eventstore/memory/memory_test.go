package memory_test

import (
	"errors"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/memory"
	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/storetest"
)

func TestStore(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(_ *testing.T, opts ...eventstore.Option) eventstore.Store { return memory.New(opts...) })
}

func TestDurableStore(t *testing.T) {
	t.Parallel()
	storetest.RunDurable(t, func(_ *testing.T, opts ...eventstore.Option) eventstore.DurableStore { return memory.New(opts...) })
}

// What is forgotten in memory is what JetStream forgets, see the same test there.
func TestForgetting(t *testing.T) {
	t.Parallel()
	const window = time.Second
	storetest.RunForgetting(t, storetest.Forgetting{
		Open: func(_ *testing.T, opts ...eventstore.Option) eventstore.Store {
			return memory.New(append(opts, memory.WithDuplicateWindow(window))...)
		},
		Forget: func(*testing.T, eventstore.Store) { time.Sleep(window) },
		In:     synctest.Test,
	})
}

// The window of a Store that is given none is that of production.
func TestDefaultDuplicateWindow(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := memory.New()
		save := func(actorID string) error {
			_, err := store.SaveEvent(t.Context(), eventstore.Event{ID: "e", EventType: "Tested", ActorID: actorID})
			return err
		}
		if err := save("a"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(memory.DefaultDuplicateWindow - 1)
		if err := save("b"); !errors.As(err, new(*eventstore.DuplicateEventError)) {
			t.Errorf("inside the window: %v, want a duplicate", err)
		}
		time.Sleep(time.Nanosecond)
		if err := save("b"); err != nil {
			t.Errorf("after the window: %v", err)
		}
	})
}

// Position is known while Next waits for an event, and does not wait for it.
func TestPositionWhileNextWaits(t *testing.T) {
	t.Parallel()
	store := memory.New()
	followed, err := store.Subscribe(t.Context(), eventstore.SubscribeOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = followed.Close() }()
	ended := make(chan error, 1)
	go func() {
		for {
			if _, err := followed.Next(t.Context()); err != nil {
				ended <- err
				return
			}
		}
	}()
	saved, err := store.SaveEvent(t.Context(), eventstore.Event{ID: "e", EventType: "Tested", ActorID: "a"})
	if err != nil {
		t.Fatal(err)
	}
	for position := uint64(0); position < saved.Sequence; position, _ = followed.Position() {
		runtime.Gosched()
	}
	if err := followed.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; !errors.Is(err, eventstore.ErrSubscriptionClosed) {
		t.Errorf("Next ended with %v", err)
	}
}

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
