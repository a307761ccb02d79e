package storetest

import (
	"errors"
	"fmt"
	"math"
	"slices"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
)

var readTests = []test{
	{"from a version", readFromVersion},
	{"an unknown actor", readUnknownActor},
	{"actors are apart", actorsAreApart},
	{"an iterator that stops early", iteratorStops},
	{"an iterator used twice", iteratorTwice},
	{"many events", readMany},
	{"large events", readLarge},
	{"your own writes", readYourWrites},
}

func readFromVersion(e *env) {
	store := e.newStore()
	events := newEvents("order-1", 2, 3, 7, 9)
	e.saveAll(store, events)
	for from, want := range map[int64][]eventstore.Event{
		-1: events, 0: events, 1: events, 2: events[1:], 3: events[2:], 5: events[2:], 6: events[2:], 7: events[3:], 9: nil, 10: nil, math.MaxInt64: nil,
	} {
		e.wantEvents(e.get(store, "order-1", from), want)
		result, err := store.GetEventsWithErrors(e.ctx, "order-1", from)
		if err != nil || len(result.Errors) != 0 {
			e.Errorf("get events with errors: %v, %v", result.Errors, err)
		}
		e.wantEvents(result.Events, want)
	}
}

func readUnknownActor(e *env) {
	store := e.newStore()
	e.save(store, newEvent("order-1", 1))
	for _, actorID := range []string{"order-2", "order-11", "order-", "order"} {
		e.wantVersions(store, actorID)
	}
}

func actorsAreApart(e *env) {
	store := e.newStore()
	var events []eventstore.Event
	for i, actorID := range nastyActorIDs {
		events = append(events, newEvent(actorID, int64(i+1)), newEvent(actorID, int64(i+100)))
	}
	e.saveAll(store, events)
	for i, actorID := range nastyActorIDs {
		e.wantEvents(e.get(store, actorID, 0), events[2*i:2*i+2])
		if version := e.latest(store, actorID); version != int64(i+100) {
			e.Errorf("latest version of %q is %d, want %d", actorID, version, i+100)
		}
	}
}

func iteratorStops(e *env) {
	store := e.newStore()
	events := newEvents("order-1", 1, 2, 3, 4, 5)
	e.saveAll(store, events)
	for count := 1; count <= len(events); count++ {
		var got []eventstore.Event
		for event, err := range store.Events(e.ctx, "order-1", 0) {
			if err != nil {
				e.Fatal(err)
			}
			got = append(got, event)
			// The Store can be used from inside.
			if version := e.latest(store, "order-1"); version != 5 {
				e.Errorf("latest version is %d, want 5", version)
			}
			if len(got) == count {
				break
			}
		}
		e.wantEvents(got, events[:count])
	}
}

func iteratorTwice(e *env) {
	store := e.newStore()
	events := newEvents("order-1", 1, 2)
	sequence := store.Events(e.ctx, "order-1", 0)
	e.saveAll(store, events)
	for range 2 {
		var got []eventstore.Event
		for event, err := range sequence {
			if err != nil {
				e.Fatal(err)
			}
			got = append(got, event)
		}
		e.wantEvents(got, events)
	}
}

func readMany(e *env) {
	store := e.newStore()
	const batches, size = 3, 700
	var want []eventstore.Event
	for batch := range batches {
		events := make([]eventstore.Event, size)
		for i := range events {
			events[i] = newEvent([]string{"order-1", "order-2"}[i%2], int64(batch*size+i+1))
		}
		e.saveAll(store, events)
		want = append(want, events...)
	}
	first := slices.DeleteFunc(slices.Clone(want), func(event eventstore.Event) bool { return event.ActorID != "order-1" })
	e.wantEvents(e.get(store, "order-1", 0), first)
	e.wantEvents(e.get(store, "order-1", first[499].Version), first[500:])
}

func readLarge(e *env) {
	store := e.newStore()
	var events []eventstore.Event
	for version := range int64(12) {
		event := newEvent("order-1", version+1)
		event.ContentType, event.Data = "application/octet-stream", make([]byte, 900<<10)
		event.Data[version] = 1
		e.save(store, event)
		events = append(events, event)
	}
	e.wantEvents(e.get(store, "order-1", 0), events)
}

// readYourWrites: whatever a save has answered, by whichever goroutine, is in
// every read that begins later.
func readYourWrites(e *env) {
	store := e.newStore()
	together(func(writer int) {
		actorID := fmt.Sprintf("order-%d", writer)
		for version := int64(1); version <= 3*rounds; version++ {
			event := newEvent(actorID, 0)
			if _, err := store.SaveEvent(e.ctx, event); err != nil {
				e.Errorf("save: %v", err)
				return
			}
			if err := sees(e, store, event, version); err != nil {
				e.Error(err)
				return
			}
		}
	})
}

func sees(e *env, store eventstore.Store, event eventstore.Event, version int64) error {
	events, err := store.GetEvents(e.ctx, event.ActorID, version-1)
	if err != nil {
		return fmt.Errorf("get events: %w", err)
	}
	if len(events) != 1 || events[0].ID != event.ID {
		return fmt.Errorf("version %d of %q was acknowledged, a read after it sees %d events above %d", version, event.ActorID, len(events), version-1)
	}
	all, err := store.GetEvents(e.ctx, event.ActorID, 0)
	if err != nil {
		return fmt.Errorf("get events: %w", err)
	}
	if int64(len(all)) != version {
		return fmt.Errorf("%d events of %q were acknowledged, a read after them sees %d", version, event.ActorID, len(all))
	}
	latest, err := store.GetLatestVersion(e.ctx, event.ActorID)
	if err != nil {
		return fmt.Errorf("get latest version: %w", err)
	}
	if latest != version {
		return fmt.Errorf("version %d of %q was acknowledged, the latest is %d", version, event.ActorID, latest)
	}
	if _, err := store.GetLatestSnapshot(e.ctx, event.ActorID); !errors.Is(err, eventstore.ErrNoSnapshot) {
		return fmt.Errorf("get latest snapshot: %v, want none", err)
	}
	return nil
}
