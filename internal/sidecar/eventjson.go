package sidecar

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
)

// eventJSON is an event as it is answered.
type eventJSON struct {
	ID          string            `json:"id"`
	EventType   string            `json:"eventType"`
	ActorID     string            `json:"actorId"`
	CommandID   string            `json:"commandId,omitempty"`
	Version     int64             `json:"version"`
	Data        json.RawMessage   `json:"data,omitempty"`
	ContentType string            `json:"contentType"`
	DataBase64  []byte            `json:"dataBase64,omitempty"`
	Metadata    map[string]string `json:"metadata,omitempty"`
	TraceParent string            `json:"traceparent,omitempty"`
	Timestamp   time.Time         `json:"timestamp"`
	Sequence    uint64            `json:"sequence"`
}

// eventFields are the fields that an event may be sent with.
var eventFields = []string{
	"id", "eventType", "actorId", "commandId", "version", "data", "contentType", "dataBase64", "metadata", "traceparent", "timestamp", "sequence", "expectedVersion",
}

// replayErrorJSON is a stored message that is no event.
type replayErrorJSON struct {
	Sequence uint64 `json:"sequence"`
	RawData  []byte `json:"rawData"`
	Error    string `json:"error"`
}

// truncatedJSON says that events are gone that came before a version, 0 for all.
type truncatedJSON struct {
	FirstVersion int64 `json:"firstVersion"`
}

// savedJSON is the answer for one stored event.
type savedJSON struct {
	ID        string `json:"id"`
	ActorID   string `json:"actorId"`
	Version   int64  `json:"version"`
	Sequence  uint64 `json:"sequence"`
	Duplicate bool   `json:"duplicate"`
}

// snapshotJSON is a snapshot as it is answered.
type snapshotJSON struct {
	ActorID    string            `json:"actorId"`
	Version    int64             `json:"version"`
	Data       json.RawMessage   `json:"data,omitempty"`
	DataBase64 []byte            `json:"dataBase64,omitempty"`
	Metadata   map[string]string `json:"metadata,omitempty"`
	Timestamp  time.Time         `json:"timestamp"`
}

var snapshotFields = []string{"actorId", "version", "data", "dataBase64", "metadata", "timestamp"}

func encodeEvent(e *eventstore.Event) eventJSON {
	out := eventJSON{
		ID: e.ID, EventType: e.EventType, ActorID: e.ActorID, CommandID: e.CommandID, Version: e.Version,
		ContentType: e.ContentType, Metadata: e.Metadata, TraceParent: e.TraceParent, Timestamp: e.Timestamp.UTC(), Sequence: e.Sequence,
	}
	if out.ContentType == "" {
		out.ContentType = eventstore.ContentTypeJSON
	}
	// Another writer may have called JSON what is none.
	if eventstore.IsJSON(e.ContentType) && json.Valid(e.Data) {
		out.Data = e.Data
	} else {
		out.DataBase64 = e.Data
	}
	return out
}

func encodeReplayError(e *eventstore.ReplayError) replayErrorJSON {
	raw := e.RawData
	if raw == nil {
		// An empty string, as bytes that there are not; null would be no base64.
		raw = []byte{}
	}
	return replayErrorJSON{Sequence: e.Sequence, RawData: raw, Error: e.Err.Error()}
}

func encodeSaved(saved []eventstore.Saved) []savedJSON {
	out := make([]savedJSON, len(saved))
	for i, s := range saved {
		out[i] = savedJSON{ID: s.ID, ActorID: s.ActorID, Version: s.Version, Sequence: s.Sequence, Duplicate: s.Duplicate}
	}
	return out
}

func encodeSnapshot(s *eventstore.Snapshot) snapshotJSON {
	out := snapshotJSON{ActorID: s.ActorID, Version: s.Version, Metadata: s.Metadata, Timestamp: s.Timestamp.UTC()}
	if json.Valid(s.Data) {
		out.Data = s.Data
	} else {
		out.DataBase64 = s.Data
	}
	return out
}

// decodeEvents reads one event or an array of them, with what is expected of
// their actors. For all that it takes apart it takes memory of parts.
func decodeEvents(body []byte, parts *parts) ([]eventstore.Event, map[string]eventstore.ExpectedVersion, error) {
	if err := validateBody(body); err != nil {
		return nil, nil, err
	}
	documents, err := decodeArray(body, parts)
	if err != nil {
		return nil, nil, err
	}
	events := make([]eventstore.Event, len(documents))
	expected := map[string]eventstore.ExpectedVersion{}
	seen := map[string]bool{}
	for i, document := range documents {
		event, given, err := decodeEvent(document, parts)
		if err == nil && given != nil && seen[event.ActorID] {
			err = invalid("expectedVersion", "is given after an earlier event of actor %.100q: only the first of them may carry it", event.ActorID)
		}
		if err != nil {
			return nil, nil, atIndex(err, i, len(documents))
		}
		if given != nil {
			expected[event.ActorID] = *given
		}
		seen[event.ActorID] = true
		events[i] = event
	}
	return events, expected, nil
}

// atIndex names the element that an error is about; one alone needs no index.
func atIndex(err error, index, count int) error {
	var invalid *eventstore.InvalidEventError
	if count == 1 || !errors.As(err, &invalid) {
		return err
	}
	field := fmt.Sprintf("[%d]", index)
	if invalid.Field != bodyField {
		field += "." + invalid.Field
	}
	return &eventstore.InvalidEventError{Field: field, Reason: invalid.Reason}
}

func decodeEvent(document json.RawMessage, parts *parts) (event eventstore.Event, expected *eventstore.ExpectedVersion, err error) {
	members, err := decodeObject(document, "", eventFields, parts)
	if err != nil {
		return event, nil, err
	}
	var payload payload
	for _, m := range members {
		switch {
		case m.name == "data" || m.name == "dataBase64":
			err = payload.decode(m)
		case isNull(m.value):
		case m.name == "expectedVersion":
			expected = new(eventstore.ExpectedVersion)
			*expected, err = decodeExpected(m.value)
		default:
			err = decodeEventField(&event, m, parts)
		}
		if err != nil {
			return event, nil, err
		}
	}
	if payload.isJSON && !eventstore.IsJSON(event.ContentType) {
		return event, nil, invalid("data", "is JSON, and contentType is %.100q: give dataBase64 instead", event.ContentType)
	}
	event.Data = payload.data
	return event, expected, nil
}

func decodeEventField(event *eventstore.Event, m member, parts *parts) (err error) {
	switch m.name {
	case "id":
		event.ID, err = decodeString(m.name, m.value)
	case "eventType":
		event.EventType, err = decodeString(m.name, m.value)
	case "actorId":
		event.ActorID, err = decodeString(m.name, m.value)
	case "commandId":
		event.CommandID, err = decodeString(m.name, m.value)
	case "contentType":
		event.ContentType, err = decodeString(m.name, m.value)
	case "traceparent":
		event.TraceParent, err = decodeString(m.name, m.value)
	case "metadata":
		event.Metadata, err = decodeMetadata(m.value, parts)
	case "timestamp":
		event.Timestamp, err = decodeTime(m.name, m.value)
	case "sequence":
		// The store sets it. It may be sent, so that what was read can be saved.
		_, err = decodeInt(m.name, m.value)
	case "version":
		event.Version, err = decodeVersion(m.name, m.value)
	}
	return err
}

// decodeVersion refuses 0: who leaves the choice to the store leaves the field
// out.
func decodeVersion(field string, value json.RawMessage) (int64, error) {
	version, err := decodeInt(field, value)
	if err == nil && version < 1 {
		err = invalid(field, "is %d: give a number from 1, or leave it out", version)
	}
	return version, err
}

// payload is the data of an event or a snapshot, in one of its two forms.
type payload struct {
	data   []byte
	isJSON bool
	given  bool
}

func (p *payload) decode(m member) (err error) {
	if m.name == "dataBase64" && isNull(m.value) {
		return nil
	}
	if p.given {
		return invalid("dataBase64", "cannot go with data: give one of them")
	}
	p.given = true
	if m.name == "data" {
		p.data, p.isJSON = m.value, true
		return nil
	}
	p.data, err = decodeBase64(m.name, m.value)
	return err
}

// decodeSnapshot reads a snapshot of the actor that the path names.
func decodeSnapshot(body []byte, actorID string, parts *parts) (eventstore.Snapshot, error) {
	snapshot := eventstore.Snapshot{ActorID: actorID}
	if err := validateBody(body); err != nil {
		return snapshot, err
	}
	members, err := decodeObject(body, "", snapshotFields, parts)
	if err != nil {
		return snapshot, err
	}
	var payload payload
	given := false
	for _, m := range members {
		switch {
		case m.name == "data" || m.name == "dataBase64":
			err = payload.decode(m)
		case isNull(m.value):
		case m.name == "version":
			given = true
			snapshot.Version, err = decodeInt(m.name, m.value)
		case m.name == "timestamp":
			snapshot.Timestamp, err = decodeTime(m.name, m.value)
		case m.name == "metadata":
			snapshot.Metadata, err = decodeMetadata(m.value, parts)
		case m.name == "actorId":
			var named string
			if named, err = decodeString(m.name, m.value); err == nil && named != actorID {
				err = invalid(m.name, "is %.100q, and the path names %.100q: give the same, or leave it out", named, actorID)
			}
		}
		if err != nil {
			return snapshot, err
		}
	}
	if !given {
		return snapshot, invalid("version", "is missing")
	}
	snapshot.Data = payload.data
	return snapshot, nil
}
