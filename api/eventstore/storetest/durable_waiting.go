package storetest

import (
	"context"
	"fmt"
	"sync"
	"time"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
)

// durableOvertaken: another member settles what this one has had for too long, and
// the actor goes on here.
func durableOvertaken(e *env, store eventstore.DurableStore) {
	opts := eventstore.DurableOptions{AckWait: waitShort, MaxInHand: 1}
	first := e.join(store, opts)
	events := e.saved(store, newEvents("order-1", 1)...)
	e.wantDelivery(first, events[0], 1)
	other := e.join(store, opts)
	e.wantDelivery(other, events[0], 2)
	e.wantErrorIs(first.Ack(e.ctx, events[0].Sequence), eventstore.ErrNotInHand)
	e.ack(other, events[0].Sequence)
	if err := other.Close(); err != nil {
		e.Fatal(err)
	}
	for _, event := range e.saved(store, newEvents("order-1", 2, 3, 4)...) {
		e.wantDelivery(first, event, 1)
		e.ack(first, event.Sequence)
	}
}

// durableHangs: what an application does not come for goes to others, and does not
// count as delivered.
func durableHangs(e *env, store eventstore.DurableStore) {
	opts := eventstore.DurableOptions{AckWait: waitShort, MaxInHand: 8, MaxDeliveries: 100}
	hangs := e.join(store, opts)
	events := e.saved(store, newEvent("order-1", 1), newEvent("order-2", 1), newEvent("order-3", 1))
	e.wantDelivery(hangs, events[0], 1)
	other := e.join(store, opts)
	for left := map[uint64]bool{events[1].Sequence: true, events[2].Sequence: true}; len(left) > 0; {
		got := e.next(other)
		if left[got.Event.Sequence] && got.Attempt != 1 {
			e.Errorf("attempt %d of sequence %d, which no application had", got.Attempt, got.Event.Sequence)
		}
		delete(left, got.Event.Sequence)
		e.ack(other, got.Event.Sequence)
	}
}

// durableReleases: a delivery that was released does not count.
func durableReleases(e *env, store eventstore.DurableStore) {
	member := e.join(store, eventstore.DurableOptions{MaxInHand: 2, MaxDeliveries: 2})
	events := e.saved(store, newEvents("order-1", 1)...)
	for range 5 {
		e.wantDelivery(member, events[0], 1)
		if err := member.Release(e.ctx, events[0].Sequence, 99); err != nil {
			e.Fatal(err)
		}
	}
	e.wantDelivery(member, events[0], 1)
	e.ack(member, events[0].Sequence)
}

// durableLateAck: what was done too late is done, as long as nobody else has it.
func durableLateAck(e *env, store eventstore.DurableStore) {
	member := e.join(store, eventstore.DurableOptions{AckWait: waitShort, MaxDeliveries: 5, MaxInHand: 2})
	events := e.saved(store, newEvents("order-1", 1, 2)...)
	e.wantDelivery(member, events[0], 1)
	e.nak(member, events[0].Sequence, time.Hour, "later")
	e.ack(member, events[0].Sequence)
	e.wantDelivery(member, events[1], 1)
	e.ack(member, events[1].Sequence)
	e.wantNothing(member)
}

// durableOrderAfterNak: what a member holds of an actor does not overtake the one
// that it gives back.
func durableOrderAfterNak(e *env, store eventstore.DurableStore) {
	opts := eventstore.DurableOptions{MaxInHand: 8}
	other := e.join(store, opts)
	first := e.saved(store, newEvent("x-1", 1), newEvent("y-1", 1))
	for range first {
		e.next(other)
	}
	e.ack(other, first[1].Sequence)
	if err := other.Close(); err != nil {
		e.Fatal(err)
	}
	e.saved(store, newEvent("x-1", 2), newEvent("y-1", 2))
	member := e.join(store, opts)
	seen := map[string]int64{"y-1": 1}
	for range 3 {
		got := e.next(member)
		if got.Event.Version != seen[got.Event.ActorID]+1 {
			e.Errorf("version %d of %s comes after %d", got.Event.Version, got.Event.ActorID, seen[got.Event.ActorID])
		}
		if got.Event.Sequence == first[0].Sequence && got.Attempt == 2 {
			e.nak(member, got.Event.Sequence, waitShort, "again")
			continue
		}
		seen[got.Event.ActorID]++
		e.ack(member, got.Event.Sequence)
	}
}

// durableWaitsAcrossRestarts: an event that is given back for an hour holds up its
// own actor and no other, whoever joins.
func durableWaitsAcrossRestarts(e *env, store eventstore.DurableStore) {
	const actors = 10
	poison := e.save(store, newEvent("poison-1", 1))
	var others []eventstore.Event
	for actor := range actors {
		others = append(others, newEvent(fmt.Sprintf("order-%d", actor), 1))
	}
	e.saveAll(store, others)
	for round := int64(1); round <= 3; round++ {
		member := e.join(store, eventstore.DurableOptions{AckWait: 5 * waitShort})
		want := actors
		if round == 1 {
			want++
		}
		for range want {
			got := e.next(member)
			switch {
			case got.Event.ActorID != "poison-1":
				if got.Event.Version != round {
					e.Errorf("version %d of %s came in round %d", got.Event.Version, got.Event.ActorID, round)
				}
				e.ack(member, got.Event.Sequence)
			case got.Event.Sequence == poison.Sequence && round == 1:
				e.nak(member, poison.Sequence, time.Hour, "later")
			default:
				e.Errorf("version %d of the actor that waits came in round %d", got.Event.Version, round)
			}
		}
		e.wantNothing(member)
		if err := member.Close(); err != nil {
			e.Fatal(err)
		}
		next := []eventstore.Event{newEvent("poison-1", round+1)}
		for actor := range actors {
			next = append(next, newEvent(fmt.Sprintf("order-%d", actor), round+1))
		}
		e.saveAll(store, next)
	}
}

// saveMany saves more events than go into one batch.
func (e *env) saveMany(store eventstore.Store, events []eventstore.Event) {
	e.Helper()
	for len(events) > 0 {
		some := events[:min(len(events), 500)]
		e.saveAll(store, some)
		events = events[len(some):]
	}
}

// drain has some workers take so many events of a member.
func (e *env) drain(member eventstore.DurableSubscription, events int, settle func(eventstore.Delivery) error) {
	e.Helper()
	ctx, cancel := context.WithCancel(e.ctx)
	defer cancel()
	var working sync.WaitGroup
	var mu sync.Mutex
	for range 32 {
		working.Go(func() {
			for {
				delivery, err := member.Next(ctx)
				if err != nil {
					if ctx.Err() == nil {
						e.Errorf("next: %v", err)
					}
					return
				}
				if err := settle(delivery); err != nil {
					e.Errorf("settle %d: %v", delivery.Event.Sequence, err)
				}
				mu.Lock()
				if events--; events <= 0 {
					cancel()
				}
				mu.Unlock()
			}
		})
	}
	working.Wait()
}

// durableManyWait: many events of many actors are given back for an hour, and what
// is saved of another comes.
func durableManyWait(e *env, store eventstore.DurableStore) {
	const waiting = 1200
	var events []eventstore.Event
	for actor := range waiting {
		events = append(events, newEvent(fmt.Sprintf("slow-%d", actor), 1))
	}
	e.saveMany(store, events)
	member := e.join(store, eventstore.DurableOptions{MaxInHand: 256})
	e.drain(member, waiting, func(d eventstore.Delivery) error { return member.Nak(e.ctx, d.Event.Sequence, time.Hour, "later") })
	quick := e.saved(store, newEvents("quick-1", 1, 2)...)
	for _, event := range quick {
		e.wantDelivery(member, event, 1)
		e.ack(member, event.Sequence)
	}
}

// durableManySettled: many events are settled above one that waits, with more of its
// own actor among them, and it goes on with those in order.
func durableManySettled(e *env, store eventstore.DurableStore) {
	const others, own = 3000, 30
	member := e.join(store, eventstore.DurableOptions{MaxInHand: 256, MaxDeliveries: 5})
	e.save(store, newEvent("slow-1", 1))
	first := e.next(member)
	e.nak(member, first.Event.Sequence, 4*waitShort, "later")
	var events []eventstore.Event
	for n := range others {
		events = append(events, newEvent(fmt.Sprintf("quick-%d", n), 1))
		if n%(others/own) == 0 {
			events = append(events, newEvent("slow-1", int64(n/(others/own))+2))
		}
	}
	e.saveMany(store, events)
	version := int64(0)
	var mu sync.Mutex
	e.drain(member, others+own+1, func(d eventstore.Delivery) error {
		if d.Event.ActorID == "slow-1" {
			mu.Lock()
			if version++; d.Event.Version != version {
				e.Errorf("version %d of the actor that waited came, want %d", d.Event.Version, version)
			}
			mu.Unlock()
		}
		return member.Ack(e.ctx, d.Event.Sequence)
	})
	e.wantNothing(member)
}

// durableManyParked: more are parked than fit into one message, and the members go on.
func durableManyParked(e *env, store eventstore.DurableStore) {
	const poison = 1500
	reason := fmt.Sprintf("%0500d", 7)
	var events []eventstore.Event
	for n := range poison {
		events = append(events, newEvent(fmt.Sprintf("poison-%0150d", n), 1))
	}
	e.saveMany(store, events)
	member := e.join(store, eventstore.DurableOptions{MaxInHand: 256, MaxDeliveries: 1})
	e.drain(member, poison, func(d eventstore.Delivery) error { return member.Nak(e.ctx, d.Event.Sequence, 0, reason) })
	parked := e.parked(member)
	if len(parked) != poison || len(parked[0].Reason) != 256 {
		e.Fatalf("%d are parked, want %d", len(parked), poison)
	}
	e.wantDelivery(member, e.saved(store, newEvent("quick-1", 1))[0], 1)
	if n, err := member.Replay(e.ctx); n != poison || err != nil {
		e.Errorf("replay: %d, %v", n, err)
	}
	e.drain(member, poison, func(d eventstore.Delivery) error { return member.Ack(e.ctx, d.Event.Sequence) })
	if parked := e.parked(member); len(parked) != 0 {
		e.Errorf("%d are parked after they were acknowledged", len(parked))
	}
}

// durableAtMost: an event that ends each member is handed out MaxDeliveries times.
func durableAtMost(e *env, store eventstore.DurableStore) {
	const most = 3
	opts := eventstore.DurableOptions{MaxDeliveries: most}
	event := e.saved(store, newEvent("order-1", 1))[0]
	for attempt := 1; attempt <= most; attempt++ {
		member := e.join(store, opts)
		e.wantDelivery(member, event, attempt)
		if err := member.Close(); err != nil {
			e.Fatal(err)
		}
	}
	member := e.join(store, opts)
	e.wantDelivery(member, e.saved(store, newEvent("order-1", 2))[0], 1)
	if parked := e.parked(member); len(parked) != 1 || parked[0].Sequence != event.Sequence || parked[0].Attempts != most {
		e.Errorf("parked are %+v", parked)
	}
}
