package storetest

import (
	"fmt"
	"slices"
	"time"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
)

// durableStatus: what a store says of its durable subscriptions follows what their
// members do.
func durableStatus(e *env, store eventstore.DurableStore) {
	_, err := store.GetDurableStatus(e.ctx, "nobody")
	e.wantErrorIs(err, eventstore.ErrNoDurable)
	_, err = store.GetDurableStatus(e.ctx, "no name")
	e.wantInvalid(err, "durable")
	if names, err := store.ListDurables(e.ctx); err != nil || len(names) > 0 {
		e.Errorf("list %q, %v, want none", names, err)
	}
	for n := range 3 {
		e.save(store, newEvent(fmt.Sprintf("order-%d", n), 1))
	}
	e.save(store, newEvent("order-0", 2))
	member := e.join(store, eventstore.DurableOptions{Name: "work", MaxInHand: 3, MaxDeliveries: 1})
	e.join(store, eventstore.DurableOptions{Name: "idle"})
	if names, err := store.ListDurables(e.ctx); err != nil || !slices.Equal(names, []string{"idle", "work"}) {
		e.Errorf("list %q, %v", names, err)
	}
	first, _, _ := e.next(member), e.next(member), e.next(member)
	e.statusBecomes(store, "work", func(s eventstore.DurableStatus) bool {
		return s.Members == 1 && s.InHand == 3 && s.Queued == 1 && s.Waiting == 0 && s.Parked == 0 && s.Position == 4 && s.Lag == 0
	})
	e.nak(member, first.Event.Sequence, 0, "it is of no use")
	e.statusBecomes(store, "work", func(s eventstore.DurableStatus) bool { return s.Parked == 1 && s.InHand == 3 && s.Queued == 0 })
	if err := member.Close(); err != nil {
		e.Fatal(err)
	}
	e.statusBecomes(store, "work", func(s eventstore.DurableStatus) bool { return s.Members == 0 && s.InHand == 0 })
	if err := store.DeleteDurable(e.ctx, "work"); err != nil {
		e.Fatal(err)
	}
	if names, err := store.ListDurables(e.ctx); err != nil || !slices.Equal(names, []string{"idle"}) {
		e.Errorf("list %q, %v after one was deleted", names, err)
	}
	_, err = store.GetDurableStatus(e.ctx, "work")
	e.wantErrorIs(err, eventstore.ErrNoDurable)
}

func (e *env) statusBecomes(store eventstore.DurableStore, name string, is func(eventstore.DurableStatus) bool) {
	e.Helper()
	for {
		status, err := store.GetDurableStatus(e.ctx, name)
		if err != nil {
			e.Fatal(err)
		}
		if status.Name == name && is(status) {
			return
		}
		select {
		case <-e.ctx.Done():
			e.Fatalf("the status is %+v", status)
		case <-time.After(20 * time.Millisecond):
		}
	}
}
