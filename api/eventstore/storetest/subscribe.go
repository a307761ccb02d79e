package storetest

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"time"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
)

var subscribeTests = []test{
	{"from the start", subscribeFromStart},
	{"from a sequence", subscribeFromSequence},
	{"from a sequence ahead", subscribeFromAhead},
	{"from a time to come", subscribeFromTimeToCome},
	{"has a place from its first moment", subscriptionHasPlace},
	{"has a place beyond what its filter leaves out", placeMovesOn},
	{"has a place while next waits", placeWhileNextWaits},
	{"from now", subscribeFromNow},
	{"from a time", subscribeFromTime},
	{"from a time of long ago or far away", subscribeFromFarTimes},
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

// subscribeFromAhead: a place that the store has not come to is that of another.
func subscribeFromAhead(e *env) {
	store := e.newStore()
	next := uint64(1)
	for range 2 {
		for _, ahead := range []uint64{1, 2, 1000} {
			for _, opts := range []eventstore.SubscribeOptions{{}, {ActorID: "order-1"}, {ActorType: "other"}} {
				opts.FromSequence = next + ahead
				_, err := store.Subscribe(e.ctx, opts)
				e.wantErrorIs(err, eventstore.ErrPlaceAhead)
			}
		}
		e.subscribe(store, eventstore.SubscribeOptions{FromSequence: next})
		next = e.saved(store, newEvent("order-1", 0))[0].Sequence + 1
	}
}

// subscribeFromTimeToCome: what is stored before the time is not for it.
func subscribeFromTimeToCome(e *env) {
	store := e.newStore()
	e.save(store, newEvent("order-1", 1))
	at := time.Now().Add(3 * time.Second)
	subscription := e.subscribe(store, eventstore.SubscribeOptions{FromTime: at})
	if position, known := subscription.Position(); known {
		e.Fatalf("position %d before the time has come", position)
	}
	e.save(store, newEvent("order-1", 2))
	ctx, cancel := context.WithDeadline(e.ctx, at.Add(100*time.Millisecond))
	defer cancel()
	if event, err := subscription.Next(ctx); !errors.Is(err, context.DeadlineExceeded) {
		e.Fatalf("version %d of before the time: %v", event.Version, err)
	}
	e.wantNext(subscription, e.saved(store, newEvent("order-1", 3))...)
}

func (e *env) position(subscription eventstore.Subscription) uint64 {
	e.Helper()
	position, known := subscription.Position()
	if !known {
		e.Fatal("the position of a subscription is not known")
	}
	return position
}

// subscriptionHasPlace: who is cut off before the first event goes on without loss.
func subscriptionHasPlace(e *env) {
	store := e.newStore()
	var last uint64
	for range 2 {
		subscription := e.subscribe(store, eventstore.SubscribeOptions{FromNow: true})
		if got := e.position(subscription); got != last {
			e.Errorf("position %d from now on, want %d", got, last)
		}
		events := e.saved(store, newEvents("order-1", 0, 0)...)
		e.wantNext(e.subscribe(store, eventstore.SubscribeOptions{FromSequence: last + 1}), events...)
		e.wantNext(subscription, events[0])
		if got := e.position(subscription); got != events[0].Sequence {
			e.Errorf("position %d after the event at %d", got, events[0].Sequence)
		}
		last = events[1].Sequence
	}
	if got := e.position(e.subscribe(store, eventstore.SubscribeOptions{})); got != 0 {
		e.Errorf("position %d at the start, want 0", got)
	}
}

func placeMovesOn(e *env) {
	store := e.newStore()
	filters := []eventstore.SubscribeOptions{{ActorID: "rare"}, {ActorType: "rare"}, {EventType: "Rare"}}
	subscriptions := make([]eventstore.Subscription, len(filters))
	for i, filter := range filters {
		subscriptions[i] = e.subscribe(store, filter)
	}
	events := e.saved(store, newEvents("order-1", 1, 2, 3, 4, 5)...)
	last := events[len(events)-1].Sequence
	var waiting sync.WaitGroup
	for i, subscription := range subscriptions {
		waiting.Go(func() {
			for position := uint64(0); position < last; position, _ = subscription.Position() {
				ctx, cancel := context.WithTimeout(e.ctx, 200*time.Millisecond)
				event, err := subscription.Next(ctx)
				cancel()
				if !errors.Is(err, context.DeadlineExceeded) || e.ctx.Err() != nil {
					e.Errorf("filter %+v at %d: %q, %v", filters[i], position, event.ID, err)
					return
				}
			}
		})
	}
	waiting.Wait()
	for _, subscription := range subscriptions {
		if got := e.position(subscription); got != last {
			e.Errorf("position %d, want %d", got, last)
		}
	}
}

// placeWhileNextWaits: whoever follows tells from time to time how far it is, and waits for
// the next event meanwhile.
func placeWhileNextWaits(e *env) {
	store := e.newStore()
	subscription := e.subscribe(store, eventstore.SubscribeOptions{ActorType: "order"})
	ended := make(chan error, 1)
	go func() {
		for {
			if _, err := subscription.Next(e.ctx); err != nil {
				ended <- err
				return
			}
		}
	}()
	for range 2 {
		last := e.saved(store, newEvent("item-1", 0), newEvent("order-1", 0))[1].Sequence
		for position := uint64(0); position < last; position = e.position(subscription) {
			if e.ctx.Err() != nil {
				e.Fatalf("position %d while Next waits, want %d", position, last)
			}
			runtime.Gosched()
		}
	}
	if err := subscription.Close(); err != nil {
		e.Error(err)
	}
	e.wantErrorIs(<-ended, eventstore.ErrSubscriptionClosed)
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
	events := newEvents("order-1", 1, 2)
	e.save(store, events[0])
	between := time.Now()
	e.save(store, events[1])
	from := func(at time.Time) eventstore.Subscription {
		return e.subscribe(store, eventstore.SubscribeOptions{FromTime: at})
	}
	e.wantNext(from(between.Add(-time.Hour)), events[:2]...)
	e.wantNext(from(between), events[1])
}

// subscribeFromFarTimes: a server counts nanoseconds in 64 bits, from 1677 to 2262.
func subscribeFromFarTimes(e *env) {
	store := e.newStore()
	events := e.saved(store, newEvent("order-1", 1))
	for _, text := range []string{"0001-01-01T00:00:01Z", "1582-10-15T00:00:00Z", "1677-09-21T00:00:00Z", "1970-01-01T00:00:00Z"} {
		at, err := time.Parse(time.RFC3339, text)
		if err != nil {
			e.Fatal(err)
		}
		e.wantNext(e.subscribe(store, eventstore.SubscribeOptions{FromTime: at}), events...)
	}
	for _, text := range []string{"2262-04-11T23:47:16Z", "2262-05-01T00:00:00Z", "9999-12-31T23:59:59Z"} {
		at, err := time.Parse(time.RFC3339, text)
		if err != nil {
			e.Fatal(err)
		}
		subscription := e.subscribe(store, eventstore.SubscribeOptions{FromTime: at})
		ctx, cancel := context.WithTimeout(e.ctx, 100*time.Millisecond)
		if event, err := subscription.Next(ctx); !errors.Is(err, context.DeadlineExceeded) {
			e.Errorf("version %d of before %s: %v", event.Version, text, err)
		}
		cancel()
	}
}
