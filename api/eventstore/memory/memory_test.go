package memory_test

import (
	"testing"

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

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
