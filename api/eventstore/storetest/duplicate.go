package storetest

import (
	"time"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
)

var duplicateTests = []test{
	{"the newest event again", newestAgain},
	{"an old event again", oldAgain},
	{"without a version", unversionedAgain},
	{"against what was expected", againWithExpectation},
	{"what does not make another event", sameEvent},
	{"another actor", duplicateOfOtherActor},
	{"another version", duplicateOfOtherVersion},
	{"another content", duplicateOfOtherContent},
	{"a version that is taken", takenVersion},
}

func newestAgain(e *env) {
	store := e.newStore()
	event := newEvent("order-1", 3)
	first := e.save(store, event)
	for range 2 {
		e.wantAgain(e.save(store, event), first)
	}
	e.wantVersions(store, "order-1", 3)
}

func oldAgain(e *env) {
	store := e.newStore()
	events := newEvents("order-1", 1, 2, 4, 7, 8)
	saved := e.saveAll(store, events)
	for i := range events {
		e.wantAgain(e.save(store, events[i]), saved[i])
	}
	e.wantVersions(store, "order-1", 1, 2, 4, 7, 8)
}

func unversionedAgain(e *env) {
	store := e.newStore()
	event := newEvent("order-1", 0)
	first := e.save(store, event)
	e.wantAgain(e.save(store, event), first)
	for range 3 {
		e.save(store, newEvent("order-1", 0))
	}
	e.wantAgain(e.save(store, event), first)
	// Knowing its version by now does not make it another event.
	event.Version = 1
	e.wantAgain(e.save(store, event), first)
	e.wantVersions(store, "order-1", 1, 2, 3, 4)
}

// againWithExpectation: the answer is that of the first time, even though what
// was expected then does not hold now.
func againWithExpectation(e *env) {
	store := e.newStore()
	versioned, unversioned := newEvent("order-1", 1), newEvent("order-1", 0)
	expectNone, expectOne := eventstore.Expect("order-1", eventstore.ExpectNone), eventstore.Expect("order-1", 1)
	first := e.save(store, versioned, expectNone)
	second := e.save(store, unversioned, expectOne)
	e.wantAgain(e.save(store, versioned, expectNone), first)
	e.wantAgain(e.save(store, unversioned, expectOne), second)
	e.wantVersions(store, "order-1", 1, 2)
}

func sameEvent(e *env) {
	store := e.newStore()
	event := newEvent("order-1", 1)
	event.Data = []byte(`{"a": [1, 2]}`)
	first := e.save(store, event)
	event.ContentType, event.Data = "application/json", []byte("{\n  \"a\":[1,2]\n}")
	event.Timestamp, event.Sequence, event.Metadata = time.Unix(1, 2), 99, map[string]string{}
	event.TraceParent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	e.wantAgain(e.save(store, event), first)
}

func duplicateOfOtherActor(e *env) {
	store := e.newStore()
	event := newEvent("order-1", 1)
	first := e.save(store, event)
	e.save(store, newEvent("order-2", 1))
	for _, version := range []int64{0, 2} {
		event.ActorID, event.Version = "order-2", version
		_, err := store.SaveEvent(e.ctx, event)
		e.wantDuplicate(err, first)
		event.ActorID = "order-3"
		_, err = store.SaveEvent(e.ctx, event)
		e.wantDuplicate(err, first)
	}
	e.wantVersions(store, "order-2", 1)
	e.wantVersions(store, "order-3")
}

func duplicateOfOtherVersion(e *env) {
	store := e.newStore()
	event := newEvent("order-1", 3)
	first := e.save(store, event)
	for _, version := range []int64{4, 2} {
		event.Version = version
		_, err := store.SaveEvent(e.ctx, event)
		e.wantDuplicate(err, first)
	}
	e.wantVersions(store, "order-1", 3)
}

func duplicateOfOtherContent(e *env) {
	store := e.newStore()
	event := newEvent("order-1", 1)
	event.Data, event.CommandID, event.Metadata = []byte(`{"n":1.0}`), "command", map[string]string{"k": "v"}
	first := e.save(store, event)
	for _, version := range []int64{1, 0} {
		for _, change := range []func(*eventstore.Event){
			func(v *eventstore.Event) { v.Data = []byte(`{"n":1.00}`) },
			func(v *eventstore.Event) { v.Data = nil },
			func(v *eventstore.Event) { v.EventType = "Other" },
			func(v *eventstore.Event) { v.CommandID = "" },
			func(v *eventstore.Event) { v.ContentType = "text/json" },
			func(v *eventstore.Event) { v.Metadata = map[string]string{"k": "w"} },
			func(v *eventstore.Event) { v.Metadata = nil },
		} {
			changed := event
			changed.Version = version
			change(&changed)
			_, err := store.SaveEvent(e.ctx, changed)
			e.wantDuplicate(err, first)
		}
	}
	e.wantEvents(e.get(store, "order-1", 0), []eventstore.Event{event})
}

func takenVersion(e *env) {
	store := e.newStore()
	event := newEvent("order-1", 1)
	e.save(store, event)
	other := event
	other.ID = "other"
	_, err := store.SaveEvent(e.ctx, other)
	e.wantConflict(err, eventstore.VersionConflictError{ActorID: "order-1", EventID: "other", AttemptedVersion: 1, ExpectedVersion: eventstore.ExpectAny, CurrentVersion: 1})
	e.wantEvents(e.get(store, "order-1", 0), []eventstore.Event{event})
}
