package jetstream

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/internal/versioning"
)

// Headers of a stored message: CloudEvents 1.0 in binary mode. The values of
// ce- headers are percent-encoded as the CloudEvents binding for HTTP says,
// which that for NATS takes over; the others are plain.
const (
	headerSpecVersion  = "ce-specversion"
	headerID           = "ce-id"
	headerType         = "ce-type"
	headerSource       = "ce-source"
	headerSubject      = "ce-subject"
	headerTime         = "ce-time"
	headerActorVersion = "ce-actorversion"
	headerCommandID    = "ce-commandid"
	headerContentType  = "content-type"
	headerTraceParent  = "traceparent"
	headerMetadata     = "aether-meta-"

	specVersion = "1.0"
	// snapshotType and snapshotContentType mark a message as a snapshot, whose data
	// has no content type of its own.
	snapshotType = "aether.snapshot"
	// deletedSnapshotType marks a message that stands in the place of a snapshot which
	// was deleted. It has no data, and the version is the actor's latest.
	deletedSnapshotType = "aether.snapshot.deleted"
	snapshotContentType = "application/octet-stream"
)

// message is a stored message as it was read.
type message struct {
	Subject  string
	Sequence uint64
	Header   nats.Header
	Data     []byte
	// tooLarge: more data was there than an event may have, and was dropped.
	tooLarge bool
	// Time is when it was stored, where that is known.
	Time time.Time
}

// malformed is the error of a message that is no event, with as much of its payload
// as an answer has room for: another writer may have stored more.
func (m *message) malformed(err error) *eventstore.ReplayError {
	raw := m.Data
	if len(raw) > eventstore.MaxDataBytes {
		err = fmt.Errorf("%w (of its %d bytes these are the first)", err, len(raw))
		raw = raw[:eventstore.MaxDataBytes]
	}
	return &eventstore.ReplayError{Sequence: m.Sequence, RawData: raw, Err: err}
}

// eventHeader is the header of an event that is complete.
func eventHeader(source string, e *eventstore.Event) nats.Header {
	header := cloudEvent(source, versioning.ContentType(e), e.ID, e.EventType, e.ActorID, e.Version, e.Timestamp)
	header[nats.MsgIdHdr] = []string{e.ID}
	if e.CommandID != "" {
		header[headerCommandID] = []string{encodeValue(e.CommandID)}
	}
	if e.TraceParent != "" {
		header[headerTraceParent] = []string{e.TraceParent}
	}
	addMetadata(header, e.Metadata)
	return header
}

func addMetadata(header nats.Header, metadata map[string]string) {
	for key, value := range metadata {
		header[headerMetadata+key] = []string{value}
	}
}

func metadataOf(header nats.Header) map[string]string {
	var metadata map[string]string
	for name, values := range header {
		if key, is := strings.CutPrefix(name, headerMetadata); is && len(values) > 0 {
			if metadata == nil {
				metadata = map[string]string{}
			}
			metadata[key] = values[0]
		}
	}
	return metadata
}

// snapshotHeader is the header of a snapshot that is complete. The id is new
// each time: a snapshot that replaces another of its version is another message.
func snapshotHeader(source, id string, s *eventstore.Snapshot) nats.Header {
	header := cloudEvent(source, snapshotContentType, id, snapshotType, s.ActorID, s.Version, s.Timestamp)
	addMetadata(header, s.Metadata)
	return header
}

// deletedSnapshotHeader is the header of what remembers the version of an actor
// whose snapshot was deleted.
func deletedSnapshotHeader(source, id, actorID string, version int64, at time.Time) nats.Header {
	return cloudEvent(source, snapshotContentType, id, deletedSnapshotType, actorID, version, at)
}

// isDeletedSnapshot says whether a message stands for a snapshot that was deleted.
func isDeletedSnapshot(m *message) bool { return m.Header.Get(headerType) == deletedSnapshotType }

func cloudEvent(source, contentType, id, kind, actorID string, version int64, at time.Time) nats.Header {
	// One piece of memory for all values, and room for what is added later: this is
	// most of what a save allocates.
	values := [...]string{
		specVersion, contentType, encodeValue(id), encodeValue(kind), encodeValue(source), encodeValue(actorID),
		at.UTC().Format(time.RFC3339Nano), strconv.FormatInt(version, 10),
	}
	header := make(nats.Header, 16)
	for i, name := range [...]string{
		headerSpecVersion, headerContentType, headerID, headerType, headerSource, headerSubject, headerTime, headerActorVersion,
	} {
		header[name] = values[i : i+1 : i+1]
	}
	return header
}

// decodeEvent is the event that a message holds. The actor is that of the
// subject, which is what JetStream has checked.
func decodeEvent(m *message) (eventstore.Event, error) {
	actorID, version, at, err := decodeCloudEvent(m)
	if err != nil {
		return eventstore.Event{}, err
	}
	if m.tooLarge || len(m.Data) > eventstore.MaxDataBytes {
		return eventstore.Event{}, fmt.Errorf("data has more than the %d bytes of an event", eventstore.MaxDataBytes)
	}
	e := eventstore.Event{ActorID: actorID, Version: version, Timestamp: at, Data: m.Data, Sequence: m.Sequence}
	for _, field := range []struct {
		header string
		value  *string
		must   bool
	}{{headerID, &e.ID, true}, {headerType, &e.EventType, true}, {headerCommandID, &e.CommandID, false}} {
		if *field.value, err = decodeValue(m.Header, field.header); err != nil {
			return eventstore.Event{}, err
		}
		if field.must && *field.value == "" {
			return eventstore.Event{}, fmt.Errorf("header %s is missing", field.header)
		}
	}
	e.ContentType = m.Header.Get(headerContentType)
	if e.ContentType == "" {
		e.ContentType = eventstore.ContentTypeJSON
	}
	// What another writer has left there may be none, and the event is one still.
	if trace := m.Header.Get(headerTraceParent); eventstore.IsTraceParent(trace) {
		e.TraceParent = trace
	}
	e.Metadata = metadataOf(m.Header)
	return e, nil
}

func decodeSnapshot(m *message) (eventstore.Snapshot, error) {
	actorID, version, at, err := decodeCloudEvent(m)
	if err != nil {
		return eventstore.Snapshot{}, err
	}
	return eventstore.Snapshot{ActorID: actorID, Version: version, Timestamp: at, Data: m.Data, Metadata: metadataOf(m.Header)}, nil
}

// decodeCloudEvent reads what events and snapshots share.
func decodeCloudEvent(m *message) (actorID string, version int64, at time.Time, err error) {
	if got := m.Header.Get(headerSpecVersion); got != specVersion {
		return "", 0, at, fmt.Errorf("header %s is %.100q, not %s", headerSpecVersion, got, specVersion)
	}
	if actorID, err = decodeActor(m.Subject); err != nil {
		return "", 0, at, err
	}
	subject, err := decodeValue(m.Header, headerSubject)
	if err != nil {
		return "", 0, at, err
	}
	if subject != actorID {
		return "", 0, at, fmt.Errorf("header %s is %.100q, and the message is of actor %.100q", headerSubject, subject, actorID)
	}
	if version, err = strconv.ParseInt(m.Header.Get(headerActorVersion), 10, 64); err != nil || version < 1 {
		return "", 0, at, fmt.Errorf("header %s is %.100q, not a version from 1", headerActorVersion, m.Header.Get(headerActorVersion))
	}
	if at, err = time.Parse(time.RFC3339Nano, m.Header.Get(headerTime)); err != nil {
		return "", 0, at, fmt.Errorf("header %s is %.100q, not a time: %w", headerTime, m.Header.Get(headerTime), err)
	}
	return actorID, version, at.UTC(), nil
}

// decodeActor is the actor of a subject {stream}.{kind}.{actorType}.{actorId}.
func decodeActor(subject string) (string, error) {
	tokens := strings.Split(subject, ".")
	if len(tokens) != 4 {
		return "", fmt.Errorf("subject %.100q has not the form {stream}.events.{actorType}.{actorId}", subject)
	}
	actorID, err := DecodeToken(tokens[3])
	if err != nil {
		return "", err
	}
	if actorTokens(actorID) != tokens[2]+"."+tokens[3] {
		return "", fmt.Errorf("subject %.100q has another actor type than actor %.100q", subject, actorID)
	}
	return actorID, eventstore.ValidateActorID(actorID)
}

// encodeValue percent-encodes what may not stand in a header of CloudEvents:
// space, '"', '%', and everything that is not printable ASCII.
func encodeValue(text string) string {
	plain := true
	for i := range len(text) {
		plain = plain && !mustEncodeValue(text[i])
	}
	if plain {
		return text
	}
	var value strings.Builder
	for _, b := range []byte(text) {
		if mustEncodeValue(b) {
			value.WriteByte('%')
			value.WriteByte(upperHex[b>>4])
			value.WriteByte(upperHex[b&0xf])
		} else {
			value.WriteByte(b)
		}
	}
	return value.String()
}

func mustEncodeValue(b byte) bool { return b <= ' ' || b >= 0x7f || b == '"' || b == '%' }

var errPercent = errors.New("has a % without two hexadecimal digits after it")

// decodeValue is the value of a header; what another writer has left plain stays
// as it is.
func decodeValue(header nats.Header, name string) (string, error) {
	encoded := header.Get(name)
	if !strings.Contains(encoded, "%") {
		return encoded, nil
	}
	var text strings.Builder
	for i := 0; i < len(encoded); i++ {
		if encoded[i] != '%' {
			text.WriteByte(encoded[i])
			continue
		}
		if i+2 >= len(encoded) {
			return "", fmt.Errorf("header %s %w", name, errPercent)
		}
		b, err := strconv.ParseUint(encoded[i+1:i+3], 16, 8)
		if err != nil {
			return "", fmt.Errorf("header %s %w", name, errPercent)
		}
		text.WriteByte(byte(b))
		i += 2
	}
	return text.String(), nil
}
