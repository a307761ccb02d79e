package storetest

import (
	"math"
	"strings"
	"time"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
)

var invalidTests = []test{
	{"each field of an event", invalidFields},
	{"too large", tooLarge},
	{"snapshots", invalidSnapshots},
	{"actor ids of reads", invalidReads},
	{"subscriptions", invalidSubscriptions},
	{"expected versions", invalidExpectations},
	{"newest", invalidNewest},
}

// outOfYears are times that only look as if they were of the years 1 to 9999.
var outOfYears = [...]time.Time{
	time.Date(9999, 12, 31, 23, 59, 59, 0, time.FixedZone("far west", -3600)),
	time.Date(1, 1, 1, 0, 0, 0, 0, time.FixedZone("far east", 14*3600)),
}

func invalidFields(e *env) {
	store := e.newStore()
	invalid := "\xff"
	for _, c := range []struct {
		field  string
		change func(*eventstore.Event)
	}{
		{"id", func(v *eventstore.Event) { v.ID = "" }},
		{"id", func(v *eventstore.Event) { v.ID = strings.Repeat("x", eventstore.MaxIDBytes+1) }},
		{"id", func(v *eventstore.Event) { v.ID = "a\nb" }},
		{"id", func(v *eventstore.Event) { v.ID = " a" }},
		{"id", func(v *eventstore.Event) { v.ID = invalid }},
		{"eventType", func(v *eventstore.Event) { v.EventType = "" }},
		{"eventType", func(v *eventstore.Event) { v.EventType = "a\x00" }},
		{"eventType", func(v *eventstore.Event) { v.EventType = strings.Repeat("x", eventstore.MaxEventTypeBytes+1) }},
		{"actorId", func(v *eventstore.Event) { v.ActorID = "" }},
		{"actorId", func(v *eventstore.Event) { v.ActorID = strings.Repeat("x", eventstore.MaxActorIDBytes+1) }},
		{"actorId", func(v *eventstore.Event) { v.ActorID = invalid }},
		{"commandId", func(v *eventstore.Event) { v.CommandID = "a\r\nb: c" }},
		{"commandId", func(v *eventstore.Event) { v.CommandID = strings.Repeat("x", eventstore.MaxIDBytes+1) }},
		{"traceparent", func(v *eventstore.Event) { v.TraceParent = "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01" }},
		{"traceparent", func(v *eventstore.Event) { v.TraceParent = "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01" }},
		{"version", func(v *eventstore.Event) { v.Version = -1 }},
		{"version", func(v *eventstore.Event) { v.Version = eventstore.MaxVersion + 1 }},
		{"timestamp", func(v *eventstore.Event) { v.Timestamp = outOfYears[0] }},
		{"timestamp", func(v *eventstore.Event) { v.Timestamp = outOfYears[1] }},
		{"contentType", func(v *eventstore.Event) { v.ContentType = "no media type" }},
		{"contentType", func(v *eventstore.Event) { v.ContentType = "text/plain\n" }},
		{"data", func(v *eventstore.Event) { v.Data = []byte("{") }},
		{"data", func(v *eventstore.Event) { v.ContentType, v.Data = "a/b+json", []byte("{}{}") }},
		{"metadata.", func(v *eventstore.Event) { v.Metadata = map[string]string{"": "v"} }},
		{"metadata.Upper", func(v *eventstore.Event) { v.Metadata = map[string]string{"Upper": "v"} }},
		{"metadata.a", func(v *eventstore.Event) { v.Metadata = map[string]string{"a": "x\ny"} }},
		{"metadata.a", func(v *eventstore.Event) { v.Metadata = map[string]string{"a": "x "} }},
		{"metadata", func(v *eventstore.Event) {
			v.Metadata = map[string]string{"a": strings.Repeat("x", 20<<10), "b": strings.Repeat("x", 20<<10)}
		}},
	} {
		event := newEvent("order-1", 1)
		c.change(&event)
		_, err := store.SaveEvent(e.ctx, event)
		e.wantInvalid(err, c.field)
		_, err = store.SaveEvents(e.ctx, []eventstore.Event{newEvent("order-1", 1), event})
		e.wantInvalid(err, "[1]."+c.field)
	}
	e.wantVersions(store, "order-1")
}

func tooLarge(e *env) {
	store := e.newStore()
	event := newEvent("order-1", 1)
	event.ContentType, event.Data = "application/octet-stream", make([]byte, eventstore.MaxDataBytes+1)
	_, err := store.SaveEvent(e.ctx, event)
	e.wantErrorIs(err, eventstore.ErrTooLarge)
	_, err = store.SaveEvents(e.ctx, []eventstore.Event{newEvent("order-1", 1), event})
	e.wantErrorIs(err, eventstore.ErrTooLarge)
	e.wantErrorIs(store.SaveSnapshot(e.ctx, eventstore.Snapshot{ActorID: "order-1", Version: 1, Data: event.Data}), eventstore.ErrTooLarge)
	e.wantVersions(store, "order-1")
}

func invalidSnapshots(e *env) {
	store := e.newStore()
	e.wantInvalid(store.SaveSnapshot(e.ctx, eventstore.Snapshot{Version: 1}), "actorId")
	e.wantInvalid(store.SaveSnapshot(e.ctx, eventstore.Snapshot{ActorID: "\xff", Version: 1}), "actorId")
	e.wantInvalid(store.SaveSnapshot(e.ctx, eventstore.Snapshot{ActorID: "order-1"}), "version")
	e.wantInvalid(store.SaveSnapshot(e.ctx, eventstore.Snapshot{ActorID: "order-1", Version: -1}), "version")
	e.wantInvalid(store.SaveSnapshot(e.ctx, eventstore.Snapshot{ActorID: "order-1", Version: eventstore.MaxVersion + 1}), "version")
	for _, at := range outOfYears {
		e.wantInvalid(store.SaveSnapshot(e.ctx, eventstore.Snapshot{ActorID: "order-1", Version: 1, Timestamp: at}), "timestamp")
	}
	_, err := store.GetLatestSnapshot(e.ctx, "order-1")
	e.wantErrorIs(err, eventstore.ErrNoSnapshot)
}

func invalidReads(e *env) {
	store := e.newStore()
	for _, actorID := range []string{"", "\xff", strings.Repeat("x", eventstore.MaxActorIDBytes+1)} {
		_, err := store.GetEvents(e.ctx, actorID, 0)
		e.wantInvalid(err, "actorId")
		_, err = store.GetEventsWithErrors(e.ctx, actorID, 0)
		e.wantInvalid(err, "actorId")
		_, err = store.GetLatestVersion(e.ctx, actorID)
		e.wantInvalid(err, "actorId")
		_, err = store.GetLatestSnapshot(e.ctx, actorID)
		e.wantInvalid(err, "actorId")
	}
}

func invalidSubscriptions(e *env) {
	store := e.newStore()
	_, err := store.Subscribe(e.ctx, eventstore.SubscribeOptions{FromNow: true, FromSequence: 1})
	e.wantInvalid(err, "fromSequence")
	for _, other := range []eventstore.SubscribeOptions{{FromNow: true}, {FromSequence: 1}} {
		other.FromTime = time.Now()
		_, err = store.Subscribe(e.ctx, other)
		e.wantInvalid(err, "fromTime")
	}
	for _, at := range outOfYears {
		_, err = store.Subscribe(e.ctx, eventstore.SubscribeOptions{FromTime: at})
		e.wantInvalid(err, "fromTime")
	}
	_, err = store.Subscribe(e.ctx, eventstore.SubscribeOptions{ActorType: "item", ActorID: "order-1"})
	e.wantInvalid(err, "actorType")
	_, err = store.Subscribe(e.ctx, eventstore.SubscribeOptions{ActorID: "\xff"})
	e.wantInvalid(err, "actorId")
	for _, kind := range []string{"a-b", "\xff", strings.Repeat("x", eventstore.MaxActorIDBytes), strings.Repeat("x", 5000)} {
		_, err = store.Subscribe(e.ctx, eventstore.SubscribeOptions{ActorType: kind})
		e.wantInvalid(err, "actorType")
	}
	for _, kind := range []string{"a\nb", "\xff", strings.Repeat("x", eventstore.MaxEventTypeBytes+1)} {
		_, err = store.Subscribe(e.ctx, eventstore.SubscribeOptions{EventType: kind})
		e.wantInvalid(err, "eventType")
	}
	// Nothing of that has ended the connection of the others.
	e.save(store, newEvent("order-1", 1))
}

func invalidNewest(e *env) {
	store := e.newStore()
	e.save(store, newEvent("order-1", 1))
	_, err := store.GetEvents(e.ctx, "order-1", 0, eventstore.Newest(eventstore.MaxNewest+1))
	e.wantInvalid(err, "newest")
	if events, err := store.GetEvents(e.ctx, "order-1", 0, eventstore.Newest(eventstore.MaxNewest)); err != nil || len(events) != 1 {
		e.Errorf("%d events (%v), want 1", len(events), err)
	}
}

func invalidExpectations(e *env) {
	store := e.newStore()
	_, err := store.SaveEvent(e.ctx, newEvent("order-1", 1), eventstore.Expect("order-2", eventstore.ExpectNone))
	e.wantInvalid(err, "expectedVersion")
	_, err = store.SaveEvent(e.ctx, newEvent("order-1", 1), eventstore.Expect("order-1", -3))
	e.wantInvalid(err, "expectedVersion")
	// What cannot hold, wherever the actor is, is no conflict: reading anew does not help.
	for _, expected := range []eventstore.ExpectedVersion{eventstore.MaxVersion, math.MaxInt64} {
		_, err = store.SaveEvent(e.ctx, newEvent("order-1", 0), eventstore.Expect("order-1", expected))
		e.wantInvalid(err, "expectedVersion")
	}
	for _, expected := range []eventstore.ExpectedVersion{eventstore.ExpectExists, 1, 5} {
		_, err = store.SaveEvent(e.ctx, newEvent("order-1", 1), eventstore.Expect("order-1", expected))
		e.wantInvalid(err, "version")
	}
	_, err = store.SaveEvents(e.ctx, append(newEvents("order-1", 3, 5), newEvent("order-2", 0)), eventstore.Expect("order-1", 5))
	e.wantInvalid(err, "[1].version")
	e.wantVersions(store, "order-1")
}
