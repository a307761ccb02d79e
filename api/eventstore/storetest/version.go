package storetest

import (
	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
)

var versionTests = []test{
	{"gaps are allowed", gapsAreAllowed},
	{"not greater is refused with both versions", notGreaterIsRefused},
	{"left out is the next", leftOutIsNext},
	{"expected none", expectedNone},
	{"expected exists", expectedExists},
	{"expected number", expectedNumber},
	{"expected any", expectedAny},
	{"expected beside a version", expectedBesideVersion},
	{"the greatest there is", greatestVersion},
}

func gapsAreAllowed(e *env) {
	store := e.newStore()
	for _, version := range []int64{3, 4, 100, 1<<53 - 2, 1<<53 - 1} {
		if saved := e.save(store, newEvent("order-1", version)); saved.Version != version {
			e.Errorf("version %d is saved as %d", version, saved.Version)
		}
	}
	e.wantVersions(store, "order-1", 3, 4, 100, 1<<53-2, 1<<53-1)
}

func notGreaterIsRefused(e *env) {
	store := e.newStore()
	e.save(store, newEvent("order-1", 3))
	e.save(store, newEvent("order-1", 5))
	for _, version := range []int64{5, 4, 3, 1} {
		event := newEvent("order-1", version)
		_, err := store.SaveEvent(e.ctx, event)
		e.wantConflict(err, eventstore.VersionConflictError{ActorID: "order-1", EventID: event.ID, AttemptedVersion: version, ExpectedVersion: eventstore.ExpectAny, CurrentVersion: 5})
	}
	e.wantVersions(store, "order-1", 3, 5)
	e.save(store, newEvent("order-1", 6))
}

func leftOutIsNext(e *env) {
	store := e.newStore()
	for want := int64(1); want <= 3; want++ {
		if saved := e.save(store, newEvent("order-1", 0)); saved.Version != want {
			e.Errorf("saved as version %d, want %d", saved.Version, want)
		}
	}
	e.save(store, newEvent("order-1", 10))
	if saved := e.save(store, newEvent("order-1", 0)); saved.Version != 11 {
		e.Errorf("saved as version %d, want 11", saved.Version)
	}
	e.wantVersions(store, "order-1", 1, 2, 3, 10, 11)
}

func expectedNone(e *env) {
	store := e.newStore()
	expect := eventstore.Expect("order-1", eventstore.ExpectNone)
	e.save(store, newEvent("order-1", 0), expect)
	again := newEvent("order-1", 0)
	_, err := store.SaveEvent(e.ctx, again, expect)
	e.wantConflict(err, eventstore.VersionConflictError{ActorID: "order-1", EventID: again.ID, ExpectedVersion: eventstore.ExpectNone, CurrentVersion: 1})
	e.wantVersions(store, "order-1", 1)
}

func expectedExists(e *env) {
	store := e.newStore()
	expect := eventstore.Expect("order-1", eventstore.ExpectExists)
	first := newEvent("order-1", 0)
	_, err := store.SaveEvent(e.ctx, first, expect)
	e.wantConflict(err, eventstore.VersionConflictError{ActorID: "order-1", EventID: first.ID, ExpectedVersion: eventstore.ExpectExists, CurrentVersion: 0})
	e.save(store, first)
	e.save(store, newEvent("order-1", 0), expect)
	e.wantVersions(store, "order-1", 1, 2)
}

func expectedNumber(e *env) {
	store := e.newStore()
	e.save(store, newEvent("order-1", 4))
	behind := newEvent("order-1", 0)
	_, err := store.SaveEvent(e.ctx, behind, eventstore.Expect("order-1", 3))
	e.wantConflict(err, eventstore.VersionConflictError{ActorID: "order-1", EventID: behind.ID, ExpectedVersion: 3, CurrentVersion: 4})
	ahead := newEvent("order-1", 0)
	_, err = store.SaveEvent(e.ctx, ahead, eventstore.Expect("order-1", 7))
	e.wantConflict(err, eventstore.VersionConflictError{ActorID: "order-1", EventID: ahead.ID, ExpectedVersion: 7, CurrentVersion: 4})
	e.save(store, newEvent("order-1", 0), eventstore.Expect("order-1", 4))
	// What this Store has just saved it knows.
	for version := eventstore.ExpectedVersion(5); version < 30; version++ {
		e.save(store, newEvent("order-1", 0), eventstore.Expect("order-1", version))
	}
}

func expectedAny(e *env) {
	store := e.newStore()
	for range 2 {
		e.save(store, newEvent("order-1", 0), eventstore.Expect("order-1", eventstore.ExpectAny))
	}
	e.wantVersions(store, "order-1", 1, 2)
}

func expectedBesideVersion(e *env) {
	store := e.newStore()
	e.save(store, newEvent("order-1", 2))
	event := newEvent("order-1", 9)
	_, err := store.SaveEvent(e.ctx, event, eventstore.Expect("order-1", 1))
	e.wantConflict(err, eventstore.VersionConflictError{ActorID: "order-1", EventID: event.ID, AttemptedVersion: 9, ExpectedVersion: 1, CurrentVersion: 2})
	e.save(store, event, eventstore.Expect("order-1", 2))
	e.wantVersions(store, "order-1", 2, 9)
}

func greatestVersion(e *env) {
	store := e.newStore()
	e.save(store, newEvent("order-1", eventstore.MaxVersion))
	if _, err := store.SaveEvent(e.ctx, newEvent("order-1", 0)); err == nil {
		e.Error("a version after the greatest there is was given")
	}
	e.wantVersions(store, "order-1", eventstore.MaxVersion)
}
