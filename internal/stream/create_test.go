package stream_test

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/stream"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv/natsserver"
)

// An answer to CREATE that got lost, and a save before the next try: the stream stays
// with what it holds.
func TestCreateAgainKeepsWhatWasSaved(t *testing.T) {
	t.Parallel()
	for name, size := range map[string]int{"one server": 1, "three servers": 3} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			servers := natsserver.Run(t, size)
			conn, _ := connect(t, servers, nil)
			js, err := jetstream.New(servers.Connect(t))
			fail(t, err)
			wanted := desired(t, orders(func(s *v1alpha1.EventStore) { s.Spec.Replicas = int32(size) }))[0]
			first := create(t, conn, wanted.Config)
			_, err = js.Publish(t.Context(), wanted.Config.Name+".events.a.b", []byte("{}"))
			fail(t, err)
			again, err := conn.Create(t.Context(), wanted.Config)
			if fault, ok := stream.AsFault(err); !ok || fault.Handling != stream.Retry {
				t.Errorf("it is made again: %+v, %v", again, err)
			}
			live, err := conn.Stream(t.Context(), wanted.Config.Name)
			fail(t, err)
			if live == nil || live.State.Msgs != 1 || !live.Created.Equal(first.Created) {
				t.Errorf("the event is gone: %+v", live)
			}
		})
	}
}

// A backup is restored after the operator has looked, and before it makes the stream: what
// was restored is older than its stream, and stays.
func TestCreateKeepsWhatWasRestored(t *testing.T) {
	t.Parallel()
	servers := natsserver.Run(t, 1)
	conn, _ := connect(t, servers, nil)
	nc := servers.Connect(t)
	js, err := jetstream.New(nc)
	fail(t, err)
	wanted := desired(t, orders(func(s *v1alpha1.EventStore) { s.Spec.Replicas = 1 }))[0]
	create(t, conn, wanted.Config)
	for range 3 {
		_, err = js.Publish(t.Context(), wanted.Config.Name+".events.a.b", []byte("{}"))
		fail(t, err)
	}
	backup, err := natsserver.TakeBackup(t.Context(), nc, wanted.Config.Name)
	fail(t, err)
	fail(t, js.DeleteStream(t.Context(), wanted.Config.Name))
	fail(t, backup.Restore(t.Context(), nc))
	if made, err := conn.Create(t.Context(), wanted.Config); err == nil {
		t.Errorf("it was made: %+v", made)
	}
	live, err := conn.Stream(t.Context(), wanted.Config.Name)
	fail(t, err)
	if live == nil || live.State.Msgs != 3 {
		t.Fatalf("the restored events are gone: %+v", live)
	}
	if plan := stream.NewPlan(wanted, live, time.Now()); !plan.Settled() {
		t.Errorf("a restored stream is to be changed: %+v", plan.Steps)
	}
}

func TestSurplus(t *testing.T) {
	t.Parallel()
	servers := natsserver.Run(t, 1)
	conn, _ := connect(t, servers, nil)
	js, err := jetstream.New(servers.Connect(t))
	fail(t, err)
	before := desired(t, orders(func(s *v1alpha1.EventStore) { s.Spec.Replicas, s.Spec.Snapshots.History = 1, 5 }))[1]
	create(t, conn, before.Config)
	for actor, count := range map[string]int{"a": 5, "b": 1, "c": 3} {
		for range count {
			_, err := js.Publish(t.Context(), "shop_orders.snapshots.order."+actor, nil)
			fail(t, err)
		}
	}
	for history, want := range map[int32]uint64{4: 1, 3: 2, 2: 4, 1: 6} {
		wanted := desired(t, orders(func(s *v1alpha1.EventStore) { s.Spec.Replicas, s.Spec.Snapshots.History = 1, history }))[1]
		live, err := conn.Stream(t.Context(), wanted.Config.Name)
		fail(t, err)
		plan := stream.NewPlan(wanted, live, time.Now())
		if !plan.MustCount() {
			t.Errorf("%d of each: is not counted: %+v", history, plan.Steps)
		}
		if got, err := conn.Surplus(t.Context(), plan); err != nil || got != want {
			t.Errorf("%d of each: %d, %v, want %d", history, got, err, want)
		}
	}
}
