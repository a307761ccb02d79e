package jetstream

import (
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
)

// What is saved is what is read, for whatever an event may hold.
func FuzzEventRoundTrip(f *testing.F) {
	f.Add("e-1", "OrderPlaced", "order-1", "c", "tenant", "acme", "text/plain", int64(7), int64(1), []byte("x"))
	f.Add("ä %41\"", "T", "a.b *>%/\x00\xc3\xa9", "", "k", "%", "", int64(1), int64(0), []byte(nil))
	f.Fuzz(func(t *testing.T, id, eventType, actorID, commandID, key, value, contentType string, version, nanos int64, data []byte) {
		e := eventstore.Event{
			ID: id, EventType: eventType, ActorID: actorID, CommandID: commandID, Version: version, Data: data, ContentType: contentType,
			Metadata: map[string]string{key: value}, Timestamp: time.Unix(0, nanos).UTC(),
		}
		if e.Validate() != nil || version == 0 {
			return
		}
		wire := &nats.Msg{Subject: EventsSubject("shop_orders", actorID), Header: eventHeader("/shop/orders", &e), Data: data}
		got, err := decodeEvent(&message{Subject: wire.Subject, Sequence: 9, Header: overTheWire(t, wire.Header), Data: wire.Data})
		if err != nil {
			t.Fatalf("%+v is read as %v", e, err)
		}
		if contentType == "" {
			e.ContentType = eventstore.ContentTypeJSON
		}
		if got.ID != e.ID || got.EventType != e.EventType || got.ActorID != e.ActorID || got.CommandID != e.CommandID || got.Version != e.Version ||
			got.ContentType != e.ContentType || !got.Timestamp.Equal(e.Timestamp) || !maps.Equal(got.Metadata, e.Metadata) || got.Sequence != 9 {
			t.Fatalf("%+v is read as %+v", e, got)
		}
	})
}

// overTheWire is a header as the server gives it back.
func overTheWire(t *testing.T, header nats.Header) nats.Header {
	t.Helper()
	var text strings.Builder
	text.WriteString("NATS/1.0\r\n")
	for name, values := range header {
		for _, value := range values {
			text.WriteString(name + ": " + value + "\r\n")
		}
	}
	text.WriteString("\r\n")
	got, err := nats.DecodeHeadersMsg([]byte(text.String()))
	if err != nil {
		t.Fatalf("header %q: %v", text.String(), err)
	}
	return got
}

// Whatever is stored is an event that could have been saved, or an error.
func FuzzDecodeEvent(f *testing.F) {
	f.Add("shop_orders.events.order.order-1", "1.0", "e-1", "T", "order-1", "3", "2026-01-01T00:00:00Z", "x", []byte("{}"))
	f.Add("a.b.c.%41", "1.0", "%", "%zz", "A", "-1", "", "", []byte(nil))
	f.Fuzz(func(t *testing.T, subject, specVersion, id, eventType, actorID, version, at, prev string, data []byte) {
		m := &message{Subject: subject, Sequence: 5, Data: data, Header: nats.Header{
			headerSpecVersion: {specVersion}, headerID: {id}, headerType: {eventType}, headerSubject: {actorID},
			headerActorVersion: {version}, headerTime: {at}, headerPrev: {prev},
		}}
		indexOf(m)
		e, err := decodeEvent(m)
		if err != nil {
			return
		}
		if e.Version < 1 || e.ID == "" || e.EventType == "" || eventstore.ValidateActorID(e.ActorID) != nil || e.Timestamp.Location() != time.UTC {
			t.Fatalf("%+v is read as %+v", m, e)
		}
		if !strings.HasSuffix(subject, "."+actorTokens(e.ActorID)) {
			t.Fatalf("subject %q is read as actor %q", subject, e.ActorID)
		}
	})
}

// A message follows on another where the server has said so, and only there.
func TestFollows(t *testing.T) {
	t.Parallel()
	expects := func(values ...string) nats.Header { return nats.Header{nats.ExpectedLastSubjSeqHdr: values} }
	with := func(header nats.Header, name string) nats.Header {
		header[name] = []string{"x"}
		return header
	}
	for name, c := range map[string]struct {
		sequence, before uint64
		header           nats.Header
		want             bool
	}{
		"the server has checked":  {9, 4, expects("4"), true},
		"the first of its actor":  {9, 0, expects("0"), true},
		"neighbours":              {9, 8, nil, true},
		"the first of the stream": {1, 0, nil, true},
		"nothing said":            {9, 4, nil, false},
		"another":                 {9, 4, expects("5"), false},
		"said twice":              {9, 4, expects("4", "4"), false},
		"no number":               {9, 4, expects("four"), false},
		"of another subject":      {9, 4, with(expects("4"), headerExpectedSubject), false},
		"of another stream":       {9, 4, with(expects("4"), headerStreamSource), false},
	} {
		m := &message{Sequence: c.sequence, Header: c.header}
		if got := m.follows(c.before); got != c.want {
			t.Errorf("%s: follows is %t", name, got)
		}
	}
}
