package storetest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
)

var subscribeTests = []test{
	{"from the start", subscribeFromStart},
	{"from a sequence", subscribeFromSequence},
	{"from a sequence to come", subscribeFromFuture},
	{"from now", subscribeFromNow},
	{"from a time", subscribeFromTime},
	{"with filters", subscribeWithFilters},
	{"while writers write", subscribeWhileWriting},
	{"close ends a waiting next", closeEndsNext},
	{"a next whose context ends skips nothing", nextContextEnds},
	{"lives longer than the context of the call", subscriptionOutlivesCall},
}

func (e *env) subscribe(store eventstore.Store, opts eventstore.SubscribeOptions) eventstore.Subscription {
	e.Helper()
	subscription, err := store.Subscribe(e.ctx, opts)
	if err != nil {
		e.Fatalf("subscribe: %v", err)
	}
	e.Cleanup(func() {
		if err := subscription.Close(); err != nil {
			e.Errorf("close subscription: %v", err)
		}
	})
	return subscription
}

// wantNext wants these events to come next, each as it was saved.
func (e *env) wantNext(subscription eventstore.Subscription, want ...eventstore.Event) {
	e.Helper()
	for i := range want {
		got, err := subscription.Next(e.ctx)
		if err != nil {
			e.Fatalf("event %d of a subscription: %v", i, err)
		}
		e.wantEvent(got, want[i])
	}
}

// saved answers the events with the versions and sequences that they got.
func (e *env) saved(store eventstore.Store, events ...eventstore.Event) []eventstore.Event {
	e.Helper()
	for i, saved := range e.saveAll(store, events) {
		events[i].Version, events[i].Sequence = saved.Version, saved.Sequence
	}
	return events
}

func subscribeFromStart(e *env) {
	store := e.newStore()
	before := e.saved(store, newEvent("order-1", 1), newEvent("a.b *>%/ü\n", 0), newEvent("order-1", 2))
	subscription := e.subscribe(store, eventstore.SubscribeOptions{})
	e.wantNext(subscription, before...)
	e.wantNext(subscription, e.saved(store, newEvent("order-2", 1), newEvent("order-1", 3))...)
	e.wantNext(e.subscribe(store, eventstore.SubscribeOptions{FromSequence: 1}), before...)
}

func subscribeFromSequence(e *env) {
	store := e.newStore()
	events := e.saved(store, newEvents("order-1", 1, 2, 3, 4)...)
	subscription := e.subscribe(store, eventstore.SubscribeOptions{FromSequence: events[1].Sequence})
	e.wantNext(subscription, events[1:]...)
	after := e.subscribe(store, eventstore.SubscribeOptions{FromSequence: events[3].Sequence + 1})
	more := e.saved(store, newEvent("order-1", 5))
	e.wantNext(subscription, more...)
	e.wantNext(after, more...)
}

// subscribeFromFuture: nothing below the sequence comes, not even what is saved
// later.
func subscribeFromFuture(e *env) {
	store := e.newStore()
	first := e.saved(store, newEvent("order-1", 1))[0].Sequence
	subscription := e.subscribe(store, eventstore.SubscribeOptions{FromSequence: first + 3})
	events := e.saved(store, newEvents("order-1", 2, 3, 4, 5, 6)...)
	for len(events) > 0 && events[0].Sequence < first+3 {
		events = events[1:]
	}
	e.wantNext(subscription, events...)
}

func subscribeFromNow(e *env) {
	store := e.newStore()
	empty := e.subscribe(store, eventstore.SubscribeOptions{FromNow: true})
	first := e.saved(store, newEvents("order-1", 1, 2)...)
	later := e.subscribe(store, eventstore.SubscribeOptions{FromNow: true})
	second := e.saved(store, newEvents("order-1", 3, 4)...)
	e.wantNext(empty, first...)
	e.wantNext(empty, second...)
	e.wantNext(later, second...)
}

func subscribeWithFilters(e *env) {
	store := e.newStore()
	actors := []string{"order-1", "item-1", "order-2", "lonely", "order-1.x", "a.b-1", "order"}
	var events []eventstore.Event
	for round := range 3 {
		for i, actorID := range actors {
			event := newEvent(actorID, 0)
			event.EventType = []string{"Placed", "Paid"}[(round+i)%2]
			events = append(events, event)
		}
	}
	half := len(events) / 2
	events = append(e.saved(store, events[:half]...), events[half:]...)
	filters := []eventstore.SubscribeOptions{
		{ActorType: "order"}, {ActorType: "item"}, {ActorType: "unknown"}, {ActorType: "a.b"},
		{ActorID: "order-1"}, {ActorID: "order-1.x"}, {ActorID: "lonely"}, {ActorID: "order"},
		{EventType: "Paid"}, {ActorType: "order", EventType: "Paid"}, {ActorType: "order", ActorID: "order-2", EventType: "Placed"},
	}
	subscriptions := make([]eventstore.Subscription, len(filters))
	for i, filter := range filters {
		subscriptions[i] = e.subscribe(store, filter)
	}
	copy(events[half:], e.saved(store, events[half:]...))
	for i, filter := range filters {
		var want []eventstore.Event
		for _, event := range events {
			if filter.Matches(&event) {
				want = append(want, event)
			}
		}
		if len(want) < 2 {
			e.Fatalf("filter %+v matches %d events: the test has lost its sense", filter, len(want))
		}
		e.wantNext(subscriptions[i], want...)
	}
}

// subscribeWhileWriting: each subscription sees every event once and in order,
// wherever in the writing it began.
func subscribeWhileWriting(e *env) {
	store := e.newStore()
	e.saveAll(store, newEvents("order-0", 0, 0, 0, 0, 0))
	var subscribers sync.WaitGroup
	const total = 5 + writers*rounds
	for range 3 {
		subscribers.Go(func() {
			if err := follow(e, store, total); err != nil {
				e.Error(err)
			}
		})
	}
	together(func(writer int) {
		for range rounds {
			if _, err := store.SaveEvent(e.ctx, newEvent(fmt.Sprintf("order-%d", writer%2), 0)); err != nil {
				e.Errorf("save: %v", err)
			}
		}
	})
	subscribers.Wait()
}

func follow(e *env, store eventstore.Store, total int) error {
	subscription, err := store.Subscribe(e.ctx, eventstore.SubscribeOptions{})
	if err != nil {
		return fmt.Errorf("subscribe: %w", err)
	}
	defer func() { _ = subscription.Close() }()
	var last uint64
	versions := map[string]int64{}
	for range total {
		event, err := subscription.Next(e.ctx)
		if err != nil {
			return fmt.Errorf("next after sequence %d: %w", last, err)
		}
		if event.Sequence <= last || event.Version != versions[event.ActorID]+1 {
			return fmt.Errorf("sequence %d, version %d of %q came after sequence %d, version %d", event.Sequence, event.Version, event.ActorID, last, versions[event.ActorID])
		}
		last, versions[event.ActorID] = event.Sequence, event.Version
	}
	return nil
}

func closeEndsNext(e *env) {
	store := e.newStore()
	subscription := e.subscribe(store, eventstore.SubscribeOptions{})
	event := e.saved(store, newEvent("order-1", 1))
	e.wantNext(subscription, event...)
	ended := make(chan error)
	go func() {
		_, err := subscription.Next(e.ctx)
		ended <- err
	}()
	for range 2 {
		if err := subscription.Close(); err != nil {
			e.Errorf("close: %v", err)
		}
	}
	e.wantErrorIs(<-ended, eventstore.ErrSubscriptionClosed)
	_, err := subscription.Next(e.ctx)
	e.wantErrorIs(err, eventstore.ErrSubscriptionClosed)
}

func nextContextEnds(e *env) {
	store := e.newStore()
	subscription := e.subscribe(store, eventstore.SubscribeOptions{})
	for version := int64(1); version <= rounds; version++ {
		ctx, cancel := context.WithCancel(e.ctx)
		ended := make(chan error)
		go func() {
			_, err := subscription.Next(ctx)
			ended <- err
		}()
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			e.Fatalf("next whose context has ended: %v, want the context's error", err)
		}
		e.wantNext(subscription, e.saved(store, newEvent("order-1", version))...)
	}
}

func subscriptionOutlivesCall(e *env) {
	store := e.newStore()
	ctx, cancel := context.WithCancel(e.ctx)
	subscription, err := store.Subscribe(ctx, eventstore.SubscribeOptions{})
	cancel()
	if err != nil {
		e.Fatal(err)
	}
	defer func() { _ = subscription.Close() }()
	for version := int64(1); version <= 3; version++ {
		e.wantNext(subscription, e.saved(store, newEvent("order-1", version))...)
	}
}

// subscribeFromTime: the clock of the store is that of this machine.
func subscribeFromTime(e *env) {
	store := e.newStore()
	events := newEvents("order-1", 1, 2, 3)
	e.save(store, events[0])
	between := time.Now()
	e.save(store, events[1])
	from := func(at time.Time) eventstore.Subscription {
		return e.subscribe(store, eventstore.SubscribeOptions{FromTime: at})
	}
	e.wantNext(from(between.Add(-time.Hour)), events[:2]...)
	e.wantNext(from(between), events[1])
	later := from(time.Now().Add(time.Hour))
	e.save(store, events[2])
	// None was stored then, so the next that is stored comes.
	e.wantNext(later, events[2])
}
