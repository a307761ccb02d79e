package jetstream_test

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/jetstream"
)

func storedMessage(t *testing.T, nc *nats.Conn, stream string, sequence uint64) *natsjs.RawStreamMsg {
	t.Helper()
	js := jetStreamOf(t, nc)
	ctx := deadline(t)
	s, err := js.Stream(ctx, stream)
	if err != nil {
		t.Fatal(err)
	}
	msg, err := s.GetMsg(ctx, sequence)
	if err != nil {
		t.Fatalf("get message %d of %s: %v", sequence, stream, err)
	}
	// The server's, and not stored.
	for _, key := range []string{"Nats-Stream", "Nats-Subject", "Nats-Sequence", "Nats-Time-Stamp"} {
		msg.Header.Del(key)
	}
	return msg
}

// What is stored is a contract with every other reader.
func TestStoredFormat(t *testing.T) {
	t.Parallel()
	store, c, nc := newStore(t)
	notified, err := nc.SubscribeSync(jetstream.StoredSubjects(c.EventsStream))
	if err != nil {
		t.Fatal(err)
	}
	ctx := deadline(t)
	saved, err := store.SaveEvent(ctx, eventstore.Event{
		ID: "e-1 ü", EventType: "Order Placed", ActorID: "order-1.é\n", CommandID: "c%1", Version: 3, Data: []byte(`{ "n": 1.10 }`),
		Metadata: map[string]string{"tenant": "a b ü"}, Timestamp: time.Date(2026, 1, 2, 3, 4, 5, 60, time.FixedZone("", 3600)),
	})
	if err != nil {
		t.Fatal(err)
	}
	msg := storedMessage(t, nc, c.EventsStream, saved.Sequence)
	if want := c.EventsStream + ".events.order.order-1%2E%C3%A9%0A"; msg.Subject != want {
		t.Errorf("subject is %s, want %s", msg.Subject, want)
	}
	if string(msg.Data) != `{ "n": 1.10 }` {
		t.Errorf("payload is %s", msg.Data)
	}
	wantHeader(t, msg.Header, map[string]string{
		"ce-specversion": "1.0", "ce-id": "e-1%20%C3%BC", "ce-type": "Order%20Placed", "ce-source": "/shop/orders", "ce-subject": "order-1.%C3%A9%0A",
		"ce-time": "2026-01-02T02:04:05.00000006Z", "ce-actorversion": "3", "ce-commandid": "c%251", "content-type": "application/json",
		"aether-meta-tenant": "a b ü", "Nats-Msg-Id": "e-1 ü", "Nats-Expected-Stream": c.EventsStream, "Nats-Expected-Last-Subject-Sequence": "0",
	})
	notification, err := notified.NextMsgWithContext(ctx)
	if err != nil {
		t.Fatalf("notification: %v", err)
	}
	if want := jetstream.StoredSubject(c.EventsStream, "order-1.é\n"); notification.Subject != want || len(notification.Data) != 0 || notification.Header.Get("ce-actorversion") != "3" {
		t.Errorf("notification is %+v, want the headers on %s", notification, want)
	}

	save(t, store, event("e-2", "order-1", 3))
	if err := store.SaveSnapshot(ctx, eventstore.Snapshot{ActorID: "order-1", Version: 3, Data: []byte{0, 1}, Timestamp: time.Unix(1, 2)}); err != nil {
		t.Fatal(err)
	}
	snapshot := storedMessage(t, nc, c.SnapshotsStream, 1)
	if want := c.EventsStream + ".snapshots.order.order-1"; snapshot.Subject != want {
		t.Errorf("subject of a snapshot is %s, want %s", snapshot.Subject, want)
	}
	snapshot.Header.Del("ce-id")
	wantHeader(t, snapshot.Header, map[string]string{
		"ce-specversion": "1.0", "ce-type": "aether.snapshot", "ce-source": "/shop/orders", "ce-subject": "order-1", "ce-time": "1970-01-01T00:00:01.000000002Z",
		"ce-actorversion": "3", "content-type": "application/octet-stream", "Nats-Expected-Stream": c.SnapshotsStream, "Nats-Expected-Last-Subject-Sequence": "0",
	})
}

func wantHeader(t *testing.T, header nats.Header, want map[string]string) {
	t.Helper()
	got := map[string]string{}
	for key, values := range header {
		got[key] = strings.Join(values, ", ")
	}
	if !maps.Equal(got, want) {
		t.Errorf("header is\n%v, want\n%v", got, want)
	}
}

// eventHeader is a header as the store writes it, for messages of another
// writer.
func eventHeader(actorID, id, version string) nats.Header {
	return nats.Header{
		"ce-specversion": {"1.0"}, "ce-id": {id}, "ce-type": {"Tested"}, "ce-source": {"/elsewhere"}, "ce-subject": {actorID},
		"ce-time": {"2026-01-02T03:04:05Z"}, "ce-actorversion": {version},
	}
}

func publish(t *testing.T, nc *nats.Conn, subject string, header nats.Header, data string) {
	t.Helper()
	js := jetStreamOf(t, nc)
	if _, err := js.PublishMsg(deadline(t), &nats.Msg{Subject: subject, Header: header, Data: []byte(data)}); err != nil {
		t.Fatalf("publish to %s: %v", subject, err)
	}
}

// malformed are messages that are no events of actor order-1.
func malformed() map[string]nats.Header {
	headers := map[string]nats.Header{"no header": nil}
	for name, change := range map[string]func(nats.Header){
		"no specversion": func(h nats.Header) { h.Del("ce-specversion") },
		"no id":          func(h nats.Header) { h.Del("ce-id") },
		"no type":        func(h nats.Header) { h.Del("ce-type") },
		"broken type":    func(h nats.Header) { h.Set("ce-type", "a%2") },
		"no version":     func(h nats.Header) { h.Del("ce-actorversion") },
		"version 0":      func(h nats.Header) { h.Set("ce-actorversion", "0") },
		"low version":    func(h nats.Header) { h.Set("ce-actorversion", "2") },
		"broken time":    func(h nats.Header) { h.Set("ce-time", "yesterday") },
		"other actor":    func(h nats.Header) { h.Set("ce-subject", "order-2") },
		"no actor":       func(h nats.Header) { h.Del("ce-subject") },
		// As the server answers, so that a reader may take it for the server.
		"a status": func(h nats.Header) { h.Del("ce-id"); h.Set("Status", "404"); h.Set("Nats-Last-Sequence", "1") },
	} {
		headers[name] = eventHeader("order-1", "m-"+name, "7")
		change(headers[name])
	}
	return headers
}

// A message that is no event hides no other, wherever it is.
func TestMalformedMessages(t *testing.T) {
	t.Parallel()
	for name, header := range malformed() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			metrics := &eventstore.Metrics{}
			store, c, nc := newStore(t, eventstore.WithMetrics(metrics))
			ctx := deadline(t)
			subject := jetstream.EventsSubject(c.EventsStream, "order-1")
			save := func(version int64, id string) {
				t.Helper()
				if _, err := store.SaveEvent(ctx, eventstore.Event{ID: id, EventType: "Tested", ActorID: "order-1", Version: version}); err != nil {
					t.Fatalf("save version %d: %v", version, err)
				}
			}
			publish(t, nc, subject, eventHeader("order-1", "first", "2"), "{}")
			publish(t, nc, subject, header, "")
			if name != "low version" {
				if version, err := store.GetLatestVersion(ctx, "order-1"); err != nil || version != 2 {
					t.Errorf("latest version is %d (%v), want 2: that of the last event", version, err)
				}
			}
			save(3, "second")
			publish(t, nc, subject, header, "raw")
			save(5, "third")

			for from, want := range map[int64]struct {
				versions []int64
				errors   []uint64
			}{0: {[]int64{2, 3, 5}, []uint64{2, 4}}, 1: {[]int64{2, 3, 5}, []uint64{2, 4}}, 2: {[]int64{3, 5}, []uint64{2, 4}}, 3: {[]int64{5}, []uint64{4}}, 4: {[]int64{5}, []uint64{4}}, 5: {}} {
				result, err := store.GetEventsWithErrors(ctx, "order-1", from)
				if err != nil {
					t.Fatal(err)
				}
				if got := versions(result.Events); !slices.Equal(got, want.versions) || !slices.Equal(sequences(result.Errors), want.errors) {
					t.Errorf("above %d: versions %v, errors at %v; want %v, %v", from, got, sequences(result.Errors), want.versions, want.errors)
				}
			}
			before := metrics.ReplayErrors.Load()
			events, err := store.GetEvents(ctx, "order-1", 0)
			if err != nil || len(events) != 3 || metrics.ReplayErrors.Load() != before+2 {
				t.Errorf("get events: %d events (%v), %d errors counted", len(events), err, metrics.ReplayErrors.Load()-before)
			}
			follow(t, store, name)
		})
	}
}

func versions(events []eventstore.Event) []int64 {
	var versions []int64
	for _, event := range events {
		versions = append(versions, event.Version)
	}
	return versions
}

func sequences(errs []*eventstore.ReplayError) []uint64 {
	var sequences []uint64
	for _, err := range errs {
		sequences = append(sequences, err.Sequence)
	}
	return sequences
}

// follow wants a subscription to report message 2 and 4, and to deliver the
// others. One message alone does not tell whether its version is low.
func follow(t *testing.T, store *jetstream.Store, name string) {
	t.Helper()
	subscription, err := store.Subscribe(deadline(t), eventstore.SubscribeOptions{ActorType: "order"})
	if err != nil {
		t.Fatal(err)
	}
	for sequence := uint64(1); sequence <= 5; sequence++ {
		event, err := subscription.Next(deadline(t))
		var replay *eventstore.ReplayError
		switch {
		case errors.As(err, &replay):
			if replay.Sequence != sequence || sequence%2 != 0 || name == "low version" || sequence == 4 && string(replay.RawData) != "raw" {
				t.Errorf("message %d is reported as %v with data %q", sequence, replay, replay.RawData)
			}
		case err != nil:
			t.Fatal(err)
		case event.Sequence != sequence || sequence%2 == 0 && name != "low version":
			t.Errorf("message %d is delivered as %+v", sequence, event)
		}
	}
}
