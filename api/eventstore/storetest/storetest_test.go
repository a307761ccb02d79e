package storetest_test

import (
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/memory"
	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/storetest"
)

// wrapped is a Store of one's own: here one that changes nothing.
type wrapped struct{ eventstore.Store }

// A test like this one is all that a Store of one's own needs.
func ExampleRun() {
	test := func(t *testing.T) {
		storetest.Run(t, func(_ *testing.T, opts ...eventstore.Option) eventstore.Store {
			return wrapped{memory.New(opts...)}
		})
	}
	// go test calls it.
	_ = test
	// Output:
}

func TestWrapped(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(_ *testing.T, opts ...eventstore.Option) eventstore.Store {
		return wrapped{memory.New(opts...)}
	})
}

// wrappedDurable is the same with durable subscriptions.
type wrappedDurable struct{ eventstore.DurableStore }

// A Store with durable subscriptions needs one more.
func ExampleRunDurable() {
	test := func(t *testing.T) {
		storetest.RunDurable(t, func(_ *testing.T, opts ...eventstore.Option) eventstore.DurableStore {
			return wrappedDurable{memory.New(opts...)}
		})
	}
	// go test calls it.
	_ = test
	// Output:
}

// One whose duplicate window can be waited for has a test for that. Here time is that
// of a bubble.
func ExampleRunForgetting() {
	test := func(t *testing.T) {
		storetest.RunForgetting(t, storetest.Forgetting{
			Open: func(_ *testing.T, opts ...eventstore.Option) eventstore.Store {
				return wrapped{memory.New(append(opts, memory.WithDuplicateWindow(time.Minute))...)}
			},
			Forget: func(*testing.T, eventstore.Store) { time.Sleep(time.Minute) },
			In:     synctest.Test,
		})
	}
	// go test calls it.
	_ = test
	// Output:
}

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
