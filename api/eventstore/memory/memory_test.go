package memory_test

import (
	"errors"
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

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
