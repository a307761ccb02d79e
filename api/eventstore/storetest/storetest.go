// Package storetest is the conformance suite of eventstore.Store: whatever
// passes it can take the place of any other Store.
package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"sync/atomic"
	"testing"
	"time"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
)

// timeout bounds each test: long enough for a slow machine that runs many at
// once, and short enough that a Store that hangs is told from one that is slow.
const timeout = 3 * time.Minute

// Run tests a Store. It calls open for each test, from many goroutines, and
// every call must answer an empty Store that has the options; what open has
// made it removes with t.Cleanup.
func Run(t *testing.T, open func(t *testing.T, opts ...eventstore.Option) eventstore.Store) {
	t.Helper()
	groups := []struct {
		name  string
		tests []test
	}{
		{"Save", saveTests},
		{"Invalid", invalidTests},
		{"Version", versionTests},
		{"Duplicate", duplicateTests},
		{"Batch", batchTests},
		{"Concurrency", concurrencyTests},
		{"Read", readTests},
		{"Snapshot", snapshotTests},
		{"Subscribe", subscribeTests},
		{"Observe", observeTests},
		{"Repository", repositoryTests},
	}
	for _, group := range groups {
		t.Run(group.name, func(t *testing.T) {
			t.Parallel()
			for _, c := range group.tests {
				t.Run(c.name, func(t *testing.T) {
					t.Parallel()
					ctx, cancel := context.WithTimeout(t.Context(), timeout)
					defer cancel()
					c.run(&env{T: t, ctx: ctx, open: open})
				})
			}
		})
	}
}

type test struct {
	name string
	run  func(*env)
}

// env is what one test works with.
type env struct {
	*testing.T
	ctx  context.Context
	open func(t *testing.T, opts ...eventstore.Option) eventstore.Store
}

func (e *env) newStore(opts ...eventstore.Option) eventstore.Store {
	e.Helper()
	return e.open(e.T, opts...)
}

// ids makes event ids that no other event has.
var ids atomic.Int64

func newEvent(actorID string, version int64) eventstore.Event {
	n := ids.Add(1)
	return eventstore.Event{
		ID:        fmt.Sprintf("event-%d", n),
		EventType: "Tested",
		ActorID:   actorID,
		Version:   version,
		Data:      fmt.Appendf(nil, `{"n":%d}`, n),
	}
}

// newEvents are events of one actor with the given versions.
func newEvents(actorID string, versions ...int64) []eventstore.Event {
	events := make([]eventstore.Event, len(versions))
	for i, version := range versions {
		events[i] = newEvent(actorID, version)
	}
	return events
}

func (e *env) save(store eventstore.Store, event eventstore.Event, opts ...eventstore.SaveOption) eventstore.Saved {
	e.Helper()
	saved, err := store.SaveEvent(e.ctx, event, opts...)
	if err != nil {
		e.Fatalf("save %s, version %d of %q: %v", event.ID, event.Version, event.ActorID, err)
	}
	return saved
}

func (e *env) saveAll(store eventstore.Store, events []eventstore.Event, opts ...eventstore.SaveOption) []eventstore.Saved {
	e.Helper()
	saved, err := store.SaveEvents(e.ctx, events, opts...)
	if err != nil {
		e.Fatalf("save %d events: %v", len(events), err)
	}
	if len(saved) != len(events) {
		e.Fatalf("%d answers for %d events", len(saved), len(events))
	}
	for i := range saved {
		if saved[i].ID != events[i].ID || saved[i].ActorID != events[i].ActorID {
			e.Fatalf("answer %d is %+v, of another event than %q of %q", i, saved[i], events[i].ID, events[i].ActorID)
		}
	}
	return saved
}

func (e *env) get(store eventstore.Store, actorID string, fromVersion int64) []eventstore.Event {
	e.Helper()
	events, err := store.GetEvents(e.ctx, actorID, fromVersion)
	if err != nil {
		e.Fatalf("get events of %q: %v", actorID, err)
	}
	return events
}

func (e *env) latest(store eventstore.Store, actorID string) int64 {
	e.Helper()
	version, err := store.GetLatestVersion(e.ctx, actorID)
	if err != nil {
		e.Fatalf("get latest version of %q: %v", actorID, err)
	}
	return version
}

func (e *env) wantVersions(store eventstore.Store, actorID string, want ...int64) {
	e.Helper()
	got := make([]int64, 0, len(want))
	for _, event := range e.get(store, actorID, 0) {
		got = append(got, event.Version)
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		e.Errorf("versions of %q are %v, want %v", actorID, got, want)
	}
	var latest int64
	if len(want) > 0 {
		latest = want[len(want)-1]
	}
	if version := e.latest(store, actorID); version != latest {
		e.Errorf("latest version of %q is %d, want %d", actorID, version, latest)
	}
}

func (e *env) wantConflict(err error, want eventstore.VersionConflictError) {
	e.Helper()
	var conflict *eventstore.VersionConflictError
	if !errors.As(err, &conflict) {
		e.Fatalf("error %v, want a version conflict", err)
	}
	if *conflict != want {
		e.Errorf("conflict %+v, want %+v", *conflict, want)
	}
}

// wantDuplicate wants err to name the stored event that has the id.
func (e *env) wantDuplicate(err error, stored eventstore.Saved) {
	e.Helper()
	var duplicate *eventstore.DuplicateEventError
	if !errors.As(err, &duplicate) {
		e.Fatalf("error %v, want a duplicate event", err)
	}
	want := eventstore.DuplicateEventError{EventID: stored.ID, ActorID: stored.ActorID, Version: stored.Version, Sequence: stored.Sequence}
	if *duplicate != want {
		e.Errorf("duplicate %+v, want %+v", *duplicate, want)
	}
}

// wantAgain wants the answer of an earlier save, marked Duplicate.
func (e *env) wantAgain(got, first eventstore.Saved) {
	e.Helper()
	first.Duplicate = true
	if got != first {
		e.Errorf("saved again: %+v, want %+v", got, first)
	}
}

func (e *env) wantInvalid(err error, field string) {
	e.Helper()
	var invalid *eventstore.InvalidEventError
	if !errors.As(err, &invalid) || !errors.Is(err, eventstore.ErrInvalidEvent) {
		e.Fatalf("error %v, want an invalid event", err)
	}
	if invalid.Field != field {
		e.Errorf("invalid field is %q (%v), want %q", invalid.Field, err, field)
	}
}

func (e *env) wantErrorIs(err, want error) {
	e.Helper()
	if !errors.Is(err, want) {
		e.Fatalf("error %v, want %v", err, want)
	}
}

// wantEvent compares all but what want leaves to the Store.
func (e *env) wantEvent(got, want eventstore.Event) {
	e.Helper()
	if want.ContentType == "" {
		want.ContentType = eventstore.ContentTypeJSON
	}
	for _, field := range []struct {
		name      string
		got, want any
		same      bool
	}{
		{"id", got.ID, want.ID, got.ID == want.ID},
		{"event type", got.EventType, want.EventType, got.EventType == want.EventType},
		{"actor id", got.ActorID, want.ActorID, got.ActorID == want.ActorID},
		{"command id", got.CommandID, want.CommandID, got.CommandID == want.CommandID},
		{"version", got.Version, want.Version, got.Version == want.Version || want.Version == 0 && got.Version > 0},
		{"data", got.Data, want.Data, bytes.Equal(got.Data, want.Data)},
		{"content type", got.ContentType, want.ContentType, got.ContentType == want.ContentType},
		{"metadata", got.Metadata, want.Metadata, maps.Equal(got.Metadata, want.Metadata)},
		{"timestamp", got.Timestamp, want.Timestamp, got.Timestamp.Equal(want.Timestamp) || want.Timestamp.IsZero() && !got.Timestamp.IsZero()},
		{"time zone", got.Timestamp.Location(), time.UTC, got.Timestamp.Location() == time.UTC},
		{"traceparent", got.TraceParent, want.TraceParent, got.TraceParent == want.TraceParent},
		{"sequence", got.Sequence, want.Sequence, got.Sequence == want.Sequence || want.Sequence == 0 && got.Sequence > 0},
	} {
		if !field.same {
			e.Errorf("event %s: %s is %.200q, want %.200q", want.ID, field.name, fmt.Sprint(field.got), fmt.Sprint(field.want))
		}
	}
}

func (e *env) wantEvents(got, want []eventstore.Event) {
	e.Helper()
	if len(got) != len(want) {
		e.Fatalf("%d events, want %d", len(got), len(want))
	}
	for i := range got {
		e.wantEvent(got[i], want[i])
	}
}
