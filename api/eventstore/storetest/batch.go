package storetest

import (
	"errors"
	"fmt"
	"slices"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
)

var batchTests = []test{
	{"of several actors", batchOfActors},
	{"gives versions in order", batchGivesVersions},
	{"with a conflict stores nothing", batchConflict},
	{"with a conflict inside itself stores nothing", batchConflictInside},
	{"with what is expected of its actors", batchExpectations},
	{"again", batchAgain},
	{"partly stored already", batchPartlyStored},
	{"with an id that another event has", batchDuplicate},
	{"of the most events", batchOfMost},
	{"of the most actors", batchOfMostActors},
	{"of too many events", batchOfTooMany},
	{"of none", batchOfNone},
	{"with an id twice", batchWithIDTwice},
	{"with large events", batchWithLargeEvents},
}

func batchOfActors(e *env) {
	store := e.newStore()
	events := []eventstore.Event{newEvent("order-1", 1), newEvent("a.b *>%/ü\n", 5), newEvent("order-1", 4), newEvent("order-2", 1)}
	saved := e.saveAll(store, events)
	for i := range saved {
		if saved[i].Duplicate || saved[i].Version != events[i].Version || i > 0 && saved[i].Sequence <= saved[i-1].Sequence {
			e.Errorf("answers are %+v, want the versions given and sequences that grow", saved)
			break
		}
		events[i].Sequence = saved[i].Sequence
	}
	e.wantEvents(e.get(store, "order-1", 0), []eventstore.Event{events[0], events[2]})
	e.wantEvents(e.get(store, "a.b *>%/ü\n", 0), events[1:2])
	e.wantEvents(e.get(store, "order-2", 0), events[3:4])
}

func batchGivesVersions(e *env) {
	store := e.newStore()
	e.save(store, newEvent("order-1", 2))
	events := append(newEvents("order-1", 0, 7, 0), newEvents("order-2", 0, 0)...)
	var versions []int64
	for _, saved := range e.saveAll(store, events) {
		versions = append(versions, saved.Version)
	}
	if want := []int64{3, 7, 8, 1, 2}; !slices.Equal(versions, want) {
		e.Errorf("versions are %v, want %v", versions, want)
	}
	e.wantVersions(store, "order-1", 2, 3, 7, 8)
	e.wantVersions(store, "order-2", 1, 2)
}

func batchConflict(e *env) {
	store := e.newStore()
	e.save(store, newEvent("order-2", 5))
	events := []eventstore.Event{newEvent("order-1", 1), newEvent("order-2", 5), newEvent("order-3", 1)}
	_, err := store.SaveEvents(e.ctx, events)
	e.wantConflict(err, eventstore.VersionConflictError{ActorID: "order-2", EventID: events[1].ID, AttemptedVersion: 5, ExpectedVersion: eventstore.ExpectAny, CurrentVersion: 5})
	e.wantVersions(store, "order-1")
	e.wantVersions(store, "order-2", 5)
	e.wantVersions(store, "order-3")
	// What was refused can be put right.
	events[1].Version = 6
	e.saveAll(store, events)
}

func batchConflictInside(e *env) {
	store := e.newStore()
	events := newEvents("order-1", 1, 3, 3)
	_, err := store.SaveEvents(e.ctx, events)
	e.wantConflict(err, eventstore.VersionConflictError{ActorID: "order-1", EventID: events[2].ID, AttemptedVersion: 3, ExpectedVersion: eventstore.ExpectAny, CurrentVersion: 3})
	e.wantVersions(store, "order-1")
}

func batchExpectations(e *env) {
	store := e.newStore()
	e.save(store, newEvent("order-1", 1))
	events := append(newEvents("order-1", 0, 0), newEvents("order-2", 0, 0)...)
	_, err := store.SaveEvents(e.ctx, events, eventstore.Expect("order-1", 1), eventstore.Expect("order-2", eventstore.ExpectExists))
	e.wantConflict(err, eventstore.VersionConflictError{ActorID: "order-2", EventID: events[2].ID, ExpectedVersion: eventstore.ExpectExists, CurrentVersion: 0})
	e.saveAll(store, events, eventstore.Expect("order-1", 1), eventstore.Expect("order-2", eventstore.ExpectNone))
	e.wantVersions(store, "order-1", 1, 2, 3)
	e.wantVersions(store, "order-2", 1, 2)
}

func batchAgain(e *env) {
	store := e.newStore()
	for _, versions := range [][]int64{{1, 2, 5}, {0, 0, 0}} {
		events := append(newEvents(fmt.Sprintf("order-%d", versions[0]), versions...), newEvents(fmt.Sprintf("item-%d", versions[0]), versions...)...)
		first := e.saveAll(store, events, eventstore.Expect(events[0].ActorID, eventstore.ExpectNone))
		for range 2 {
			for i, again := range e.saveAll(store, events, eventstore.Expect(events[0].ActorID, eventstore.ExpectNone)) {
				e.wantAgain(again, first[i])
			}
		}
		e.wantVersions(store, events[0].ActorID, first[0].Version, first[1].Version, first[2].Version)
		// One of them alone, and in another batch.
		e.wantAgain(e.save(store, events[1]), first[1])
	}
}

func batchPartlyStored(e *env) {
	store := e.newStore()
	stored := append(newEvents("order-1", 1, 2), newEvent("item-1", 0))
	first := e.saveAll(store, stored)
	events := []eventstore.Event{stored[2], newEvent("item-1", 0), stored[0], stored[1], newEvent("order-1", 3)}
	saved := e.saveAll(store, events)
	e.wantAgain(saved[0], first[2])
	e.wantAgain(saved[2], first[0])
	e.wantAgain(saved[3], first[1])
	if saved[1].Duplicate || saved[1].Version != 2 || saved[4].Duplicate || saved[4].Version != 3 {
		e.Errorf("the new events are saved as %+v and %+v", saved[1], saved[4])
	}
	e.wantVersions(store, "order-1", 1, 2, 3)
	e.wantVersions(store, "item-1", 1, 2)
}

func batchDuplicate(e *env) {
	store := e.newStore()
	taken := newEvent("order-1", 2)
	first := e.save(store, taken)
	for _, change := range []func(*eventstore.Event){
		func(v *eventstore.Event) { v.ActorID = "order-2" },
		func(v *eventstore.Event) { v.ActorID, v.Version = "order-3", 0 },
		func(v *eventstore.Event) { v.Version = 3 },
		func(v *eventstore.Event) { v.Version = 1 },
		func(v *eventstore.Event) { v.Data = []byte(`"other"`) },
		func(v *eventstore.Event) { v.Version, v.Data = 0, []byte(`"other"`) },
	} {
		changed := taken
		change(&changed)
		_, err := store.SaveEvents(e.ctx, []eventstore.Event{newEvent("order-9", 1), changed, newEvent("order-8", 0)})
		e.wantDuplicate(err, first)
	}
	e.wantVersions(store, "order-1", 2)
	for _, actorID := range []string{"order-2", "order-3", "order-8", "order-9"} {
		e.wantVersions(store, actorID)
	}
}

func batchOfMost(e *env) {
	store := e.newStore()
	events := make([]eventstore.Event, eventstore.MaxBatchEvents)
	for i := range events {
		events[i] = newEvent(fmt.Sprintf("order-%d", i%7), 0)
	}
	first := e.saveAll(store, events)
	count := 0
	for actor := range 7 {
		got := e.get(store, fmt.Sprintf("order-%d", actor), 0)
		count += len(got)
		for i := range got {
			if got[i].Version != int64(i+1) || got[i].Sequence != first[actor+7*i].Sequence || got[i].ID != events[actor+7*i].ID {
				e.Fatalf("event %d of %q is %+v, saved as %+v", i, got[i].ActorID, got[i], first[actor+7*i])
			}
		}
	}
	if count != len(events) {
		e.Errorf("%d events are stored, want %d", count, len(events))
	}
	for i, again := range e.saveAll(store, events) {
		e.wantAgain(again, first[i])
	}
}

func batchOfMostActors(e *env) {
	store := e.newStore()
	events := make([]eventstore.Event, eventstore.MaxBatchEvents)
	for i := range events {
		events[i] = newEvent(fmt.Sprintf("order-%d", i), 0)
	}
	first := e.saveAll(store, events)
	for _, i := range []int{0, 1, len(events) / 2, len(events) - 1} {
		if got := e.get(store, events[i].ActorID, 0); len(got) != 1 || got[0].Sequence != first[i].Sequence {
			e.Errorf("events of actor %d are %+v, saved as %+v", i, got, first[i])
		}
	}
}

func batchOfTooMany(e *env) {
	store := e.newStore()
	events := make([]eventstore.Event, eventstore.MaxBatchEvents+1)
	for i := range events {
		events[i] = newEvent("order-1", 0)
	}
	_, err := store.SaveEvents(e.ctx, events)
	e.wantErrorIs(err, eventstore.ErrTooLarge)
	e.wantVersions(store, "order-1")
}

func batchOfNone(e *env) {
	_, err := e.newStore().SaveEvents(e.ctx, nil)
	e.wantErrorIs(err, eventstore.ErrInvalidEvent)
}

func batchWithIDTwice(e *env) {
	store := e.newStore()
	events := newEvents("order-1", 1, 2, 3)
	events[2].ID = events[0].ID
	_, err := store.SaveEvents(e.ctx, events)
	e.wantInvalid(err, "[2].id")
	e.wantVersions(store, "order-1")
}

func batchWithLargeEvents(e *env) {
	store := e.newStore()
	events := newEvents("order-1", 1, 2, 3)
	for i := range events {
		events[i].ContentType, events[i].Data = "application/octet-stream", make([]byte, 500<<10)
		events[i].Data[0] = byte(i)
	}
	// A Store may put a limit on what a batch has in all; then it stores nothing.
	if _, err := store.SaveEvents(e.ctx, events); errors.Is(err, eventstore.ErrTooLarge) {
		e.wantVersions(store, "order-1")
	} else if err != nil {
		e.Fatal(err)
	} else {
		e.wantEvents(e.get(store, "order-1", 0), events)
	}
}
