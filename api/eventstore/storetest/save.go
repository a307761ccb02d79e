package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
)

var saveTests = []test{
	{"every field comes back", everyFieldComesBack},
	{"data comes back byte for byte", dataComesBack},
	{"the largest event", largestEvent},
	{"any actor id", anyActorID},
	{"defaults are filled in", defaultsAreFilledIn},
	{"the caller keeps its memory", callerKeepsMemory},
	{"an ended context", endedContext},
}

func everyFieldComesBack(e *env) {
	store := e.newStore()
	event := eventstore.Event{
		ID:          "ü 100% \"id\"/1;=,",
		EventType:   "Order Plaçed ✓",
		ActorID:     "order-1",
		CommandID:   "place it %41 ü",
		Version:     7,
		Data:        []byte(`{"a":1}`),
		ContentType: `application/vnd.order+json; charset="utf-8"`,
		Metadata: map[string]string{
			"tenant": "Ünïcode ✓ 100%", "empty": "", "a.b_c-1": "x: y, z;\"q\"", "traceparent": "00-1-2-01",
			strings.Repeat("k", 128): strings.Repeat("v", 4096),
		},
		TraceParent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
		Timestamp:   time.Date(2026, 2, 3, 4, 5, 6, 123456789, time.FixedZone("east", 3*3600)),
		Sequence:    4711,
	}
	saved := e.save(store, event)
	if saved.ID != event.ID || saved.ActorID != event.ActorID || saved.Version != 7 || saved.Sequence == 0 || saved.Duplicate {
		e.Errorf("saved as %+v", saved)
	}
	event.Sequence = saved.Sequence
	e.wantEvents(e.get(store, event.ActorID, 0), []eventstore.Event{event})
}

func dataComesBack(e *env) {
	allBytes := make([]byte, 256)
	for i := range allBytes {
		allBytes[i] = byte(i)
	}
	payloads := []struct {
		contentType string
		data        []byte
	}{
		{"", []byte(`{"big":123456789012345678901234567890,"exact":1.10,"huge":1e4000,"minus":-0}`)},
		{"", []byte("  { \"white\" :\n\t[ 1 , 2 ] }\r\n")},
		{"application/json", []byte(`"\u00fc ü < > & \/"`)},
		{"application/json", []byte("null")},
		{"", nil},
		{"", []byte{}},
		{"application/octet-stream", allBytes},
		{"application/octet-stream", nil},
		{"text/plain; charset=utf-8", []byte("no JSON {")},
		{"application/problem+json", []byte(`{"a":1,"a":2}`)},
	}
	store := e.newStore()
	events := make([]eventstore.Event, len(payloads))
	for i, payload := range payloads {
		events[i] = newEvent("data-1", int64(i+1))
		events[i].ContentType, events[i].Data = payload.contentType, payload.data
		e.save(store, events[i])
	}
	e.wantEvents(e.get(store, "data-1", 0), events)
}

func largestEvent(e *env) {
	store := e.newStore()
	event := newEvent("large-"+strings.Repeat("ü", 124), 1)
	event.ID, event.EventType, event.CommandID = strings.Repeat("i", eventstore.MaxIDBytes), strings.Repeat("é", 127), strings.Repeat("%", eventstore.MaxIDBytes)
	event.ContentType, event.Data = "application/octet-stream", bytes.Repeat([]byte{0, 1, '\r', '\n'}, eventstore.MaxDataBytes/4)
	event.Metadata = map[string]string{"m": strings.Repeat("v", eventstore.MaxMetadataBytes-100)}
	e.save(store, event)
	// The same room taken by as many keys as fit.
	many := newEvent(event.ActorID, 2)
	many.Metadata = map[string]string{}
	for i := range eventstore.MaxMetadataBytes / (4 + 16) {
		many.Metadata[fmt.Sprintf("%04d", i)] = ""
	}
	e.save(store, many)
	e.wantEvents(e.get(store, event.ActorID, 0), []eventstore.Event{event, many})
	if snapshot := (eventstore.Snapshot{ActorID: event.ActorID, Version: 1, Data: event.Data}); store.SaveSnapshot(e.ctx, snapshot) != nil {
		e.Error("the largest snapshot is refused")
	} else if got, err := store.GetLatestSnapshot(e.ctx, event.ActorID); err != nil || !bytes.Equal(got.Data, snapshot.Data) {
		e.Errorf("the largest snapshot comes back with %d bytes (%v), want %d", len(got.Data), err, len(snapshot.Data))
	}
}

// nastyActorIDs are hard to put into a subject, a header or a path, and hard to
// tell from each other there.
var nastyActorIDs = []string{
	"a.b *>%/ü\n", "a-1", "a-1.b", "a-1%2Eb", "a-1%2eb", "a-1%252Eb", "a-1/b", "a-1?b", "a-1#b", "a-1 ", " a-1", "A-1",
	"a", "a-", "-", "-a", "--", ".", "..", "*", ">", "%", "$JS.API", "a.>", "a.*", "é", "e\u0301", "\x00", "\r\n", "\x7f", "日本-語", "\U0010ffff",
	"\u2028", "+", "a+b", "a&b=c", "\"quoted\"", `back\slash`, "_INBOX.x",
	strings.Repeat("x", eventstore.MaxActorIDBytes), strings.Repeat(".", eventstore.MaxActorIDBytes), strings.Repeat("ü", 127) + "-",
}

func anyActorID(e *env) {
	store := e.newStore()
	var events []eventstore.Event
	for _, actorID := range nastyActorIDs {
		event := newEvent(actorID, 1)
		e.save(store, event)
		events = append(events, event)
		if err := store.SaveSnapshot(e.ctx, eventstore.Snapshot{ActorID: actorID, Version: 1, Data: []byte(actorID)}); err != nil {
			e.Errorf("save snapshot of %q: %v", actorID, err)
		}
	}
	for i, actorID := range nastyActorIDs {
		e.wantEvents(e.get(store, actorID, 0), events[i:i+1])
		if version := e.latest(store, actorID); version != 1 {
			e.Errorf("latest version of %q is %d, want 1", actorID, version)
		}
		snapshot, err := store.GetLatestSnapshot(e.ctx, actorID)
		if err != nil || snapshot.ActorID != actorID || string(snapshot.Data) != actorID {
			e.Errorf("snapshot of %q is %+v (%v)", actorID, snapshot, err)
		}
	}
}

func defaultsAreFilledIn(e *env) {
	store := e.newStore()
	// A minute each way: the clock may be another machine's.
	before := time.Now().Add(-time.Minute)
	event := newEvent("order-1", 0)
	saved := e.save(store, event)
	if saved.Version != 1 {
		e.Errorf("saved with version %d, want 1", saved.Version)
	}
	got := e.get(store, event.ActorID, 0)
	e.wantEvents(got, []eventstore.Event{event})
	if now := got[0].Timestamp; now.Before(before) || now.After(time.Now().Add(time.Minute)) {
		e.Errorf("timestamp is %v, want now", now)
	}
}

// callerKeepsMemory: what a Store was given or has answered may be changed
// without a change to what is stored.
func callerKeepsMemory(e *env) {
	store := e.newStore()
	event := newEvent("order-1", 1)
	event.Metadata = map[string]string{"k": "v"}
	want := event
	want.Data, want.Metadata = bytes.Clone(event.Data), map[string]string{"k": "v"}
	e.save(store, event)
	event.Data[0], event.Metadata["k"] = '!', "changed"
	got := e.get(store, "order-1", 0)
	e.wantEvents(got, []eventstore.Event{want})
	got[0].Data[0], got[0].Metadata["k"] = '?', "changed too"
	e.wantEvents(e.get(store, "order-1", 0), []eventstore.Event{want})

	snapshot := eventstore.Snapshot{ActorID: "order-1", Version: 1, Data: []byte("state")}
	if err := store.SaveSnapshot(e.ctx, snapshot); err != nil {
		e.Fatal(err)
	}
	snapshot.Data[0] = '!'
	for range 2 {
		kept, err := store.GetLatestSnapshot(e.ctx, "order-1")
		if err != nil || string(kept.Data) != "state" {
			e.Fatalf("snapshot is %q (%v), want what was saved", kept.Data, err)
		}
		kept.Data[0] = '?'
	}
}

func endedContext(e *env) {
	store := e.newStore()
	e.save(store, newEvent("order-1", 1))
	ctx, cancel := context.WithCancel(e.ctx)
	cancel()
	_, saveErr := store.SaveEvent(ctx, newEvent("order-1", 2))
	_, batchErr := store.SaveEvents(ctx, newEvents("order-1", 2, 3))
	_, getErr := store.GetEvents(ctx, "order-1", 0)
	_, versionErr := store.GetLatestVersion(ctx, "order-1")
	_, snapshotErr := store.GetLatestSnapshot(ctx, "order-1")
	_, subscribeErr := store.Subscribe(ctx, eventstore.SubscribeOptions{})
	for call, err := range map[string]error{
		"SaveEvent": saveErr, "SaveEvents": batchErr, "GetEvents": getErr, "GetLatestVersion": versionErr, "GetLatestSnapshot": snapshotErr,
		"DeleteSnapshot": store.DeleteSnapshot(ctx, "order-1", 0),
		"SaveSnapshot":   store.SaveSnapshot(ctx, eventstore.Snapshot{ActorID: "order-1", Version: 1}), "Subscribe": subscribeErr,
	} {
		if !errors.Is(err, context.Canceled) {
			e.Errorf("%s with an ended context: %v, want the context's error", call, err)
		}
	}
	e.wantVersions(store, "order-1", 1)
}
