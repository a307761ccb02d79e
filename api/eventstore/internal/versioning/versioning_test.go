package versioning_test

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/internal/versioning"
)

func event(version int64) eventstore.Event {
	return eventstore.Event{ID: "e", EventType: "Tested", ActorID: "order-1", Version: version}
}

func TestAssign(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		version  int64
		expected eventstore.ExpectedVersion
		latest   int64
		// want is the version given, or 0 and the version attempted.
		want, attempted int64
	}{
		{version: 1, expected: eventstore.ExpectAny, latest: 0, want: 1},
		{version: 9, expected: eventstore.ExpectAny, latest: 3, want: 9},
		{version: 3, expected: eventstore.ExpectAny, latest: 3, attempted: 3},
		{version: 2, expected: eventstore.ExpectAny, latest: 3, attempted: 2},
		{version: 0, expected: eventstore.ExpectAny, latest: 0, want: 1},
		{version: 0, expected: eventstore.ExpectAny, latest: 7, want: 8},
		{version: 0, expected: eventstore.ExpectNone, latest: 0, want: 1},
		{version: 0, expected: eventstore.ExpectNone, latest: 7},
		{version: 0, expected: eventstore.ExpectExists, latest: 7, want: 8},
		{version: 0, expected: eventstore.ExpectExists, latest: 0},
		{version: 0, expected: 7, latest: 7, want: 8},
		{version: 0, expected: 6, latest: 7},
		{version: 0, expected: 9, latest: 7},
		{version: 9, expected: 7, latest: 7, want: 9},
		{version: 9, expected: 8, latest: 7, attempted: 9},
		{version: eventstore.MaxVersion, expected: eventstore.ExpectAny, latest: eventstore.MaxVersion - 1, want: eventstore.MaxVersion},
		{version: 0, expected: eventstore.ExpectAny, latest: eventstore.MaxVersion},
		{version: 0, expected: math.MaxInt64, latest: 7},
	} {
		e := event(c.version)
		got, err := versioning.Assign(&e, c.expected, c.latest)
		if c.want != 0 {
			if err != nil || got != c.want {
				t.Errorf("version %d, expected %d, latest %d: %d (%v), want %d", c.version, c.expected, c.latest, got, err, c.want)
			}
			continue
		}
		var conflict *eventstore.VersionConflictError
		want := eventstore.VersionConflictError{ActorID: "order-1", EventID: "e", AttemptedVersion: c.attempted, ExpectedVersion: c.expected, CurrentVersion: c.latest}
		if !errors.As(err, &conflict) || *conflict != want {
			t.Errorf("version %d, expected %d, latest %d: %d (%v), want %v", c.version, c.expected, c.latest, got, err, &want)
		}
	}
}

// FuzzAssign: whatever is given is greater than what was there.
func FuzzAssign(f *testing.F) {
	f.Add(int64(0), int64(-1), int64(math.MaxInt64))
	f.Fuzz(func(t *testing.T, version, expected, latest int64) {
		if version < 0 || latest < 0 {
			return
		}
		e := event(version)
		got, err := versioning.Assign(&e, eventstore.ExpectedVersion(expected), latest)
		if err == nil && (got <= latest || version != 0 && got != version || !eventstore.ExpectedVersion(expected).Holds(latest)) {
			t.Errorf("version %d, expected %d, latest %d: %d is given", version, expected, latest, got)
		}
	})
}

func TestSame(t *testing.T) {
	t.Parallel()
	stored := eventstore.Event{
		ID: "e", EventType: "Tested", ActorID: "order-1", CommandID: "c", Version: 3, Data: []byte(`{"a":[1,2]}`),
		ContentType: "application/json", Metadata: map[string]string{"k": "v"}, Timestamp: time.Unix(1, 0), Sequence: 9,
	}
	for name, c := range map[string]struct {
		change func(*eventstore.Event)
		want   bool
	}{
		"itself":             {func(*eventstore.Event) {}, true},
		"no version":         {func(e *eventstore.Event) { e.Version = 0 }, true},
		"no content type":    {func(e *eventstore.Event) { e.ContentType = "" }, true},
		"other time":         {func(e *eventstore.Event) { e.Timestamp = time.Time{} }, true},
		"other sequence":     {func(e *eventstore.Event) { e.Sequence = 0 }, true},
		"white space":        {func(e *eventstore.Event) { e.Data = []byte("{ \"a\": [1,\n2] }") }, true},
		"other id":           {func(e *eventstore.Event) { e.ID = "f" }, false},
		"other actor":        {func(e *eventstore.Event) { e.ActorID = "order-2" }, false},
		"other version":      {func(e *eventstore.Event) { e.Version = 4 }, false},
		"other type":         {func(e *eventstore.Event) { e.EventType = "Other" }, false},
		"other command":      {func(e *eventstore.Event) { e.CommandID = "" }, false},
		"other data":         {func(e *eventstore.Event) { e.Data = []byte(`{"a":[1,3]}`) }, false},
		"other digits":       {func(e *eventstore.Event) { e.Data = []byte(`{"a":[1.0,2]}`) }, false},
		"no data":            {func(e *eventstore.Event) { e.Data = nil }, false},
		"other content type": {func(e *eventstore.Event) { e.ContentType = "text/plain" }, false},
		"other metadata":     {func(e *eventstore.Event) { e.Metadata = map[string]string{"k": "w"} }, false},
		"no metadata":        {func(e *eventstore.Event) { e.Metadata = nil }, false},
	} {
		again := stored
		c.change(&again)
		if got := versioning.Same(&stored, &again); got != c.want {
			t.Errorf("%s: same is %t, want %t", name, got, c.want)
		}
	}
	text, spaced := stored, stored
	text.ContentType, text.Data = "text/plain", []byte("1 2")
	spaced.ContentType, spaced.Data = "text/plain", []byte("1  2")
	if versioning.Same(&text, &spaced) {
		t.Error("white space of what is not JSON does not count")
	}
}

func TestValidateBatch(t *testing.T) {
	t.Parallel()
	many := func(n int) []eventstore.Event {
		events := make([]eventstore.Event, n)
		for i := range events {
			events[i] = event(0)
			events[i].ID = fmt.Sprint(i)
		}
		return events
	}
	twice := many(3)
	twice[2].ID = "0"
	invalid := many(2)
	invalid[1].ActorID = ""
	large := many(2)
	large[1].Data = make([]byte, eventstore.MaxDataBytes+1)
	expecting := func(actorID string, version eventstore.ExpectedVersion) eventstore.SaveOptions {
		return eventstore.NewSaveOptions(eventstore.Expect(actorID, version))
	}
	for name, c := range map[string]struct {
		events []eventstore.Event
		opts   eventstore.SaveOptions
		is     error
		field  string
	}{
		"one":            {events: many(1)},
		"most":           {events: many(eventstore.MaxBatchEvents), opts: expecting("order-1", 3)},
		"none":           {is: eventstore.ErrInvalidEvent, field: "events"},
		"too many":       {events: many(eventstore.MaxBatchEvents + 1), is: eventstore.ErrTooLarge},
		"id twice":       {events: twice, is: eventstore.ErrInvalidEvent, field: "[2].id"},
		"one invalid":    {events: invalid, is: eventstore.ErrInvalidEvent, field: "[1].actorId"},
		"alone invalid":  {events: invalid[1:], is: eventstore.ErrInvalidEvent, field: "actorId"},
		"too large":      {events: large, is: eventstore.ErrTooLarge},
		"other actor":    {events: many(2), opts: expecting("order-2", 1), is: eventstore.ErrInvalidEvent, field: "expectedVersion"},
		"no expectation": {events: many(2), opts: expecting("order-1", -3), is: eventstore.ErrInvalidEvent, field: "expectedVersion"},
	} {
		err := versioning.ValidateBatch(c.events, c.opts)
		var field *eventstore.InvalidEventError
		if !errors.Is(err, c.is) || c.field != "" && (!errors.As(err, &field) || field.Field != c.field) {
			t.Errorf("%s: %v, want %v of %q", name, err, c.is, c.field)
		}
	}
	if err := versioning.ValidateBatch(large, eventstore.SaveOptions{}); !strings.Contains(err.Error(), "[1]") {
		t.Errorf("which event is too large is not said: %v", err)
	}
}

func TestAcceptSnapshot(t *testing.T) {
	t.Parallel()
	snapshot := eventstore.Snapshot{ActorID: "order-1", Version: 5}
	for newest, refused := range map[int64]bool{0: false, 4: false, 5: false, 6: true} {
		wantSnapshotConflict(t, versioning.AcceptSnapshot(&snapshot, newest, 7), newest, refused)
	}
	for latest, refused := range map[int64]bool{0: true, 4: true, 5: false, 6: false} {
		if err := versioning.AcceptSnapshot(&snapshot, 0, latest); errors.Is(err, eventstore.ErrNoSuchVersion) != refused {
			t.Errorf("version 5 of an actor at %d: %v", latest, err)
		}
	}
}

func TestAcceptDeletion(t *testing.T) {
	t.Parallel()
	for newest, refused := range map[int64]bool{1: true, 5: false, 6: true} {
		wantSnapshotConflict(t, versioning.AcceptDeletion("order-1", 5, newest), newest, refused)
		wantSnapshotConflict(t, versioning.AcceptDeletion("order-1", 0, newest), newest, false)
	}
}

func wantSnapshotConflict(t *testing.T, err error, newest int64, refused bool) {
	t.Helper()
	var conflict *eventstore.VersionConflictError
	if errors.As(err, &conflict) != refused || refused && (conflict.CurrentVersion != newest || conflict.AttemptedVersion != 5 || !strings.Contains(err.Error(), "snapshot")) {
		t.Errorf("version 5 beside %d: %v", newest, err)
	}
}
