package storetest

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

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
	{"the newest, backwards", readNewest},
	{"until a time", readUntil},
	{"from a sequence", readFromSequence},
	{"what another has saved", readUpToDate},
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

func readNewest(e *env) {
	store := e.newStore()
	events := newEvents("order-1", 1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233, 377, 610, 987, 1597, 2584, 4181, 6765, 10946)
	e.saveAll(store, events)
	for _, c := range []struct {
		from int64
		n    int
	}{{0, 1}, {0, 3}, {0, 19}, {0, 20}, {0, 1000}, {34, 4}, {34, 1000}, {6765, 2}, {10946, 1}} {
		var want []eventstore.Event
		for _, event := range slices.Backward(events) {
			if event.Version > c.from && len(want) < c.n {
				want = append(want, event)
			}
		}
		got, err := store.GetEvents(e.ctx, "order-1", c.from, eventstore.Newest(c.n))
		if err != nil {
			e.Fatalf("newest %d after version %d: %v", c.n, c.from, err)
		}
		e.wantEvents(got, want)
	}
	// None of nobody.
	if got, err := store.GetEvents(e.ctx, "order-2", 0, eventstore.Newest(3)); err != nil || len(got) != 0 {
		e.Errorf("%d events of nobody (%v)", len(got), err)
	}
}

func readUntil(e *env) {
	store := e.newStore()
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	events := newEvents("order-1", 1, 2, 3, 4, 5, 6)
	for i := range events {
		events[i].Timestamp = start.Add(time.Duration(i) * time.Hour)
	}
	e.saveAll(store, events)
	read := func(opts ...eventstore.ReadOption) []eventstore.Event {
		e.Helper()
		got, err := store.GetEvents(e.ctx, "order-1", 1, opts...)
		if err != nil {
			e.Fatal(err)
		}
		return got
	}
	e.wantEvents(read(eventstore.Until(start.Add(3*time.Hour))), events[1:4])
	e.wantEvents(read(eventstore.Until(start.Add(4*time.Hour-1))), events[1:4])
	e.wantEvents(read(eventstore.Until(start)), nil)
	e.wantEvents(read(eventstore.Until(start.AddDate(1, 0, 0))), events[1:])
	e.wantEvents(read(eventstore.Until(start.Add(3*time.Hour)), eventstore.Newest(2)), []eventstore.Event{events[3], events[2]})
}

func readFromSequence(e *env) {
	store := e.newStore()
	var events []eventstore.Event
	for version := int64(1); version <= 300; version += 3 {
		events = append(events, e.saved(store, newEvent("order-1", version), newEvent("order-2", version))[0])
	}
	for i, event := range events {
		if i%17 > 1 && i < len(events)-2 {
			continue
		}
		for from, want := range map[uint64][]eventstore.Event{event.Sequence: events[i:], event.Sequence + 1: events[i+1:]} {
			got, err := store.GetEventsWithErrors(e.ctx, "order-1", 0, eventstore.FromSequence(from))
			if err != nil || got.Truncated || len(got.Errors) > 0 {
				e.Fatalf("from sequence %d: %v, %+v", from, err, got)
			}
			e.wantEvents(got.Events, want)
		}
	}
	got, err := store.GetEvents(e.ctx, "order-1", 280, eventstore.FromSequence(events[10].Sequence), eventstore.Newest(3))
	if err != nil {
		e.Fatal(err)
	}
	e.wantEvents(got, []eventstore.Event{events[99], events[98], events[97]})
}

// readUpToDate: what has been answered is in every later read that wants it.
func readUpToDate(e *env) {
	store := e.newStore()
	together(func(writer int) {
		actorID := fmt.Sprint("order-", writer)
		for version := int64(1); version <= rounds; version++ {
			e.save(store, newEvent(actorID, version))
			got, err := store.GetEvents(e.ctx, actorID, 0, eventstore.UpToDate())
			if err != nil || len(got) != int(version) {
				e.Errorf("%d events after version %d (%v)", len(got), version, err)
			}
		}
	})
}
