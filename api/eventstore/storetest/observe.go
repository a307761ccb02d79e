package storetest

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
)

var observeTests = []test{
	{"one notification for each saved event", notifications},
	{"counters", counters},
	{"no bus", withoutBus},
}

func notifications(e *env) {
	bus := &eventstore.Bus{}
	internal, other := bus.Subscribe(eventstore.InternalNamespace, 100), bus.Subscribe("default", 100)
	defer internal.Close()
	defer other.Close()
	store := e.newStore(eventstore.WithBus(bus))

	events := newEvents("order-1", 1, 0, 5)
	events = append(events, newEvent("a.b *>%/ü\n", 0))
	events[0].Timestamp = time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	events = append(e.saved(store, events[:1]...), e.saved(store, events[1:]...)...)
	// Neither what was stored before nor what is refused is notified.
	e.save(store, events[0])
	e.saveAll(store, events[1:3])
	if _, err := store.SaveEvents(e.ctx, []eventstore.Event{newEvent("order-9", 1), newEvent("order-1", 1)}); err == nil {
		e.Error("a conflict was saved")
	}
	if _, err := store.SaveEvent(e.ctx, eventstore.Event{}); err == nil {
		e.Error("an invalid event was saved")
	}
	last := e.saved(store, newEvent("order-1", 0))
	for _, event := range append(events, last...) {
		select {
		case stored := <-internal.C():
			if stored.EventID != event.ID || stored.ActorID != event.ActorID || stored.Version != event.Version || stored.Timestamp.IsZero() ||
				!event.Timestamp.IsZero() && !stored.Timestamp.Equal(event.Timestamp) {
				e.Errorf("notification is %+v, want one of %+v", stored, event)
			}
		case <-e.ctx.Done():
			e.Fatalf("no notification of %+v", event)
		}
	}
	if extra, missed := len(internal.C()), internal.Missed(); extra != 0 || missed != 0 || len(other.C()) != 0 {
		e.Errorf("%d notifications too many, %d missed, %d in another namespace", extra, missed, len(other.C()))
	}
}

func counters(e *env) {
	metrics, bus := &eventstore.Metrics{}, &eventstore.Bus{}
	store := e.newStore(eventstore.WithMetrics(metrics), eventstore.WithBus(bus))
	want := func(step string, counter *atomic.Int64, want int64) {
		e.Helper()
		if got := counter.Load(); got != want {
			e.Errorf("%s: counter is %d, want %d", step, got, want)
		}
	}
	event := newEvent("order-1", 1)
	e.save(store, event)
	e.saveAll(store, newEvents("order-1", 2, 3))
	want("three events saved", &metrics.EventsSaved, 3)
	want("three events notified", &metrics.NotificationsSent, 3)
	e.save(store, event)
	want("one saved again", &metrics.DuplicatesSaved, 1)
	if _, err := store.SaveEvent(e.ctx, newEvent("order-1", 3)); err == nil {
		e.Error("a conflict was saved")
	}
	want("one conflict", &metrics.VersionConflicts, 1)
	want("no other error", &metrics.SaveErrors, 0)
	if _, err := store.SaveEvent(e.ctx, eventstore.Event{ActorID: "order-1"}); err == nil {
		e.Error("an invalid event was saved")
	}
	want("one invalid event", &metrics.SaveErrors, 1)
	e.get(store, "order-1", 1)
	want("two events read", &metrics.EventsRead, 2)
	e.saveSnapshot(store, eventstore.Snapshot{ActorID: "order-1", Version: 3})
	want("one snapshot saved", &metrics.SnapshotsSaved, 1)
	subscription := e.subscribe(store, eventstore.SubscribeOptions{})
	for range 3 {
		if _, err := subscription.Next(e.ctx); err != nil {
			e.Fatal(err)
		}
	}
	want("three events followed", &metrics.EventsRead, 5)
	want("nothing else saved", &metrics.EventsSaved, 3)
	want("no message that is no event", &metrics.ReplayErrors, 0)
}

func withoutBus(e *env) {
	metrics := &eventstore.Metrics{}
	store := e.newStore(eventstore.WithMetrics(metrics))
	e.save(store, newEvent("order-1", 1))
	if sent := metrics.NotificationsSent.Load(); sent != 0 {
		e.Errorf("%d notifications sent, and there is nobody to send to", sent)
	}
	// A subscriber that does not receive holds nobody up.
	bus := &eventstore.Bus{}
	slow := bus.Subscribe(eventstore.AllNamespaces, 1)
	defer slow.Close()
	store = e.newStore(eventstore.WithBus(bus))
	ctx, cancel := context.WithTimeout(e.ctx, timeout)
	defer cancel()
	for i := range 5 {
		if _, err := store.SaveEvent(ctx, newEvent(fmt.Sprintf("order-%d", i), 0)); err != nil {
			e.Fatal(err)
		}
	}
	if missed := slow.Missed(); missed != 4 {
		e.Errorf("a subscriber with room for one of five missed %d, want 4", missed)
	}
}
