package eventstore_test

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
)

func TestActorType(t *testing.T) {
	t.Parallel()
	for id, want := range map[string]string{
		"order-123": "order", "a-b-c": "a", "lonely": "unknown", "-x": "unknown", "-": "unknown", "x-": "x", "a.b-1": "a.b", "ü-1": "ü",
	} {
		if got := eventstore.ActorType(id); got != want {
			t.Errorf("type of %q is %q, want %q", id, got, want)
		}
	}
}

func TestBusNamespaces(t *testing.T) {
	t.Parallel()
	bus := &eventstore.Bus{}
	one, other, all := bus.Subscribe("one", 8), bus.Subscribe("other", 8), bus.Subscribe(eventstore.AllNamespaces, 8)
	bus.Publish("one", eventstore.EventStored{EventID: "1"})
	bus.Publish("other", eventstore.EventStored{EventID: "2"})
	for name, c := range map[string]struct {
		subscription *eventstore.BusSubscription
		want         string
	}{"one": {one, "1"}, "other": {other, "2"}, "all": {all, "1 2"}} {
		c.subscription.Close()
		c.subscription.Close()
		var got []string
		for notification := range c.subscription.C() {
			got = append(got, notification.EventID)
		}
		if strings.Join(got, " ") != c.want || c.subscription.Missed() != 0 {
			t.Errorf("%s received %v and missed %d, want %s", name, got, c.subscription.Missed(), c.want)
		}
	}
	// To nobody, and without a panic.
	bus.Publish("one", eventstore.EventStored{})
}

func TestBusSubscriberBehind(t *testing.T) {
	t.Parallel()
	bus := &eventstore.Bus{}
	slow := bus.Subscribe("n", 2)
	for i := range 5 {
		bus.Publish("n", eventstore.EventStored{EventID: fmt.Sprint(i)})
	}
	if first := <-slow.C(); first.EventID != "0" || slow.Missed() != 3 {
		t.Errorf("received %s first and missed %d, want 0 and 3", first.EventID, slow.Missed())
	}
}

// Subscribers come and go while others publish; the race detector and a send on
// a closed channel would tell.
func TestBusConcurrently(t *testing.T) {
	t.Parallel()
	bus := &eventstore.Bus{}
	keeper := bus.Subscribe(eventstore.AllNamespaces, 1000)
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			for range 100 {
				bus.Publish("n", eventstore.EventStored{})
			}
		})
		group.Go(func() {
			for range 100 {
				bus.Subscribe("n", 1).Close()
			}
		})
	}
	group.Wait()
	if got := len(keeper.C()); got != 400 {
		t.Errorf("%d notifications, want 400", got)
	}
}

func TestMetadataLimit(t *testing.T) {
	t.Parallel()
	event := eventstore.Event{ID: "e", EventType: "Tested", ActorID: "order-1", Metadata: map[string]string{}}
	// Each counts 4 bytes and 16 for its header.
	for i := range eventstore.MaxMetadataBytes / 20 {
		event.Metadata[fmt.Sprintf("%04d", i)] = ""
	}
	if err := event.Validate(); err != nil {
		t.Errorf("as many keys as fit: %v", err)
	}
	event.Metadata["more"] = ""
	var invalid *eventstore.InvalidEventError
	if err := event.Validate(); !errors.As(err, &invalid) || invalid.Field != "metadata" {
		t.Errorf("one key more: %v", err)
	}
}

func TestIsJSON(t *testing.T) {
	t.Parallel()
	for contentType, want := range map[string]bool{
		"": true, "application/json": true, "application/json; charset=utf-8": true, "Application/JSON": true, "application/ld+json": true,
		"text/json": false, "application/jsonl": false, "application/octet-stream": false, "broken/": false,
	} {
		if got := eventstore.IsJSON(contentType); got != want {
			t.Errorf("%q is JSON: %t, want %t", contentType, got, want)
		}
	}
}

func TestExpectedVersionHolds(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		expected eventstore.ExpectedVersion
		latest   int64
		want     bool
	}{
		{eventstore.ExpectAny, 0, true}, {eventstore.ExpectAny, 5, true},
		{eventstore.ExpectNone, 0, true}, {eventstore.ExpectNone, 5, false},
		{eventstore.ExpectExists, 0, false}, {eventstore.ExpectExists, 5, true},
		{5, 5, true}, {5, 6, false}, {5, 4, false},
	} {
		if got := c.expected.Holds(c.latest); got != c.want {
			t.Errorf("expected %d holds at %d: %t, want %t", c.expected, c.latest, got, c.want)
		}
	}
}

// What an error says is all that whoever meets it has.
func TestErrorTexts(t *testing.T) {
	t.Parallel()
	cause := errors.New("has no id")
	replay := &eventstore.ReplayError{Sequence: 7, Err: cause}
	if !errors.Is(replay, cause) {
		t.Error("a replay error hides its cause")
	}
	for _, c := range []struct {
		err   error
		parts []string
	}{
		{&eventstore.VersionConflictError{ActorID: "order-1", EventID: "e", AttemptedVersion: 3, ExpectedVersion: eventstore.ExpectAny, CurrentVersion: 5}, []string{`"order-1" is at version 5, and version 3 was attempted`, "read the actor again"}},
		{&eventstore.VersionConflictError{ActorID: "order-1", EventID: "e", ExpectedVersion: 7, CurrentVersion: 1}, []string{"is at version 1, and the save expects version 7:"}},
		{&eventstore.VersionConflictError{ActorID: "order-1", EventID: "e", AttemptedVersion: 9, ExpectedVersion: 7, CurrentVersion: 1}, []string{"is at version 1, and the save of version 9 expects version 7:"}},
		{&eventstore.VersionConflictError{ActorID: "order-1", EventID: "e", ExpectedVersion: eventstore.ExpectExists}, []string{"has no version, and the save expects that it has one:"}},
		{&eventstore.VersionConflictError{ActorID: "order-1", EventID: "e", ExpectedVersion: eventstore.ExpectNone, CurrentVersion: 1}, []string{"is at version 1, and the save expects none:"}},
		{&eventstore.VersionConflictError{ActorID: "order-1", EventID: "e", ExpectedVersion: eventstore.ExpectAny, CurrentVersion: eventstore.MaxVersion}, []string{"no version comes after that"}},
		{&eventstore.VersionConflictError{ActorID: "order-1", AttemptedVersion: 3, ExpectedVersion: eventstore.ExpectAny, CurrentVersion: 5}, []string{`"order-1"`, "version 3", "version 5", "read the snapshot again"}},
		{&eventstore.DuplicateEventError{EventID: "e", ActorID: "order-1", Version: 4}, []string{`"e"`, `"order-1"`, "version 4", "an id of its own"}},
		{&eventstore.InvalidEventError{Field: "[3].actorId", Reason: "is missing"}, []string{"[3].actorId is missing"}},
		{replay, []string{"message 7", "has no id"}},
	} {
		for _, part := range c.parts {
			if !strings.Contains(c.err.Error(), part) {
				t.Errorf("%q does not say %q", c.err, part)
			}
		}
	}
}
