package eventstore

import (
	"encoding/json"
	"fmt"
	"mime"
	"strings"
	"time"
	"unicode/utf8"
)

// Limits of what a Store accepts. They hold for every implementation, so that
// what one Store takes another takes too.
const (
	// MaxActorIDBytes is the longest actor id. Percent-encoded for a NATS subject
	// it grows at most threefold, with its type twice: below 2 KiB, and a server takes
	// protocol lines of 4 KiB unless it is told otherwise.
	MaxActorIDBytes = 255
	// MaxIDBytes is the longest event id and command id.
	MaxIDBytes = 255
	// MaxEventTypeBytes is the longest event type.
	MaxEventTypeBytes = 255
	// MaxDataBytes is the most data an event or a snapshot may have. nats-server
	// takes messages of 1 MiB with headers by default; what is left, 64 KiB, is
	// the largest header block that it accepts.
	MaxDataBytes = 1<<20 - 64<<10
	// MaxMetadataBytes is the most that all metadata keys and values of an event
	// may take together, each key with 16 bytes more: what a header around it
	// takes, so that many small ones fit too. Half of the header block; the other
	// half is for the event's own attributes.
	MaxMetadataBytes = 32 << 10
	// MaxBatchEvents is the most events of one SaveEvents: the size of an atomic
	// batch in nats-server.
	MaxBatchEvents = 1000
	// MaxVersion is the largest version, 2^53-1: the largest whole number that every
	// reader of JSON keeps exactly (RFC 8259, section 6).
	MaxVersion = 1<<53 - 1
)

// ContentTypeJSON is the content type of an event that names none.
const ContentTypeJSON = "application/json"

// Event is one fact about one actor.
type Event struct {
	// ID is the event's identity, at most MaxIDBytes of UTF-8 without control
	// characters. Required: saving the same event again is recognised by it.
	ID string
	// EventType says what happened, for example "OrderPlaced". Required, at most
	// MaxEventTypeBytes of UTF-8 without control characters.
	EventType string
	// ActorID is whose event it is: 1 to MaxActorIDBytes of UTF-8, any
	// characters. See [ActorType].
	ActorID string
	// CommandID names the command that caused the event. Optional.
	CommandID string
	// Version orders the events of one actor: from 1 to MaxVersion, strictly greater
	// than the actor's latest; gaps are allowed. Zero in a save asks the Store for
	// the next one.
	Version int64
	// Data is the payload as raw bytes, kept byte for byte. With a JSON content
	// type it must be valid JSON, or empty.
	Data []byte
	// ContentType is the media type of Data; empty means ContentTypeJSON.
	ContentType string
	// Metadata is free for the application. Keys are 1 to 128 characters of
	// a-z, 0-9, '-', '_' and '.'; values are UTF-8 without control characters.
	Metadata map[string]string
	// TraceParent is the trace in which the event was saved, as W3C Trace Context has
	// it in the header of that name: 00-{32 hex digits}-{16}-{2}. Optional, and no
	// part of the content: who saves the event again does so in another trace.
	TraceParent string
	// Timestamp is when the event happened, kept to the nanosecond, in UTC; of the
	// years 1 to 9999 there. Zero in a save means now.
	Timestamp time.Time
	// Sequence is the event's place in its store, over all actors, from 1. The
	// Store sets it; what a save says of it is ignored.
	Sequence uint64
}

// Snapshot is the state of one actor at one version. It shortens a replay, and
// it is not an event: the newest few replace the older ones.
type Snapshot struct {
	// ActorID is whose state it is, as in Event.
	ActorID string
	// Version is the version of the last event that the state contains, from 1 to
	// MaxVersion.
	Version int64
	// Data is the state as raw bytes, kept byte for byte; at most MaxDataBytes.
	Data []byte
	// Metadata is as in Event. Keys that begin with "aether-" are those of this package:
	// a Repository keeps in aether-ids which events the state contains.
	Metadata map[string]string
	// Timestamp is when the snapshot was taken, as in Event. Zero in a save means now.
	Timestamp time.Time
}

// Saved is what a Store answers for an event that it has stored.
type Saved struct {
	// ID and ActorID are those of the event.
	ID, ActorID string
	// Version is the version that the event has, given or assigned.
	Version int64
	// Sequence is the event's place in its store.
	Sequence uint64
	// Duplicate says that the event had been stored by an earlier save; the rest
	// is the answer to that one.
	Duplicate bool
}

// ReplayResult is what GetEventsWithErrors answers.
type ReplayResult struct {
	// Events are those that could be read, in order.
	Events []Event
	// Errors are the stored messages that are not events, in order.
	Errors []*ReplayError
	// Truncated says that events with which the read should begin are no longer stored.
	// FirstVersion is then the version of the first event that is left, 0 for none.
	Truncated    bool
	FirstVersion int64
}

// ActorType is the kind of an actor by its id: what comes before the first '-',
// and "unknown" where there is no '-' or nothing before it.
func ActorType(actorID string) string {
	kind, _, found := strings.Cut(actorID, "-")
	if !found || kind == "" {
		return "unknown"
	}
	return kind
}

// Validate says what is wrong with an event that is to be saved, as an
// [*InvalidEventError] that names the field or an error that is ErrTooLarge,
// and nil where nothing is.
func (e *Event) Validate() error {
	if err := validateText("id", e.ID, MaxIDBytes, true); err != nil {
		return err
	}
	if err := validateText("eventType", e.EventType, MaxEventTypeBytes, true); err != nil {
		return err
	}
	if err := ValidateActorID(e.ActorID); err != nil {
		return err
	}
	if err := validateText("commandId", e.CommandID, MaxIDBytes, false); err != nil {
		return err
	}
	if e.TraceParent != "" && !IsTraceParent(e.TraceParent) {
		return &InvalidEventError{Field: "traceparent", Reason: fmt.Sprintf("is %.60q: give one of W3C Trace Context, or leave it out", e.TraceParent)}
	}
	if e.Version < 0 || e.Version > MaxVersion {
		return &InvalidEventError{Field: "version", Reason: fmt.Sprintf("is %d: give a number from 1 to %d, or leave it out", e.Version, MaxVersion)}
	}
	if err := validateTime("timestamp", e.Timestamp); err != nil {
		return err
	}
	if err := validateMetadata(e.Metadata); err != nil {
		return err
	}
	return validateData(e.Data, e.ContentType)
}

// Validate says what is wrong with a snapshot that is to be saved, in the terms
// of [Event.Validate].
func (s *Snapshot) Validate() error {
	if err := ValidateActorID(s.ActorID); err != nil {
		return err
	}
	if s.Version < 1 || s.Version > MaxVersion {
		return &InvalidEventError{Field: "version", Reason: fmt.Sprintf("is %d: a snapshot has the version of an event, from 1 to %d", s.Version, MaxVersion)}
	}
	if err := validateTime("timestamp", s.Timestamp); err != nil {
		return err
	}
	if err := validateMetadata(s.Metadata); err != nil {
		return err
	}
	return validateSize(s.Data)
}

// ValidateSnapshotVersion says what is wrong with the version of a snapshot that is
// to be deleted, as an [*InvalidEventError]; 0 is any.
func ValidateSnapshotVersion(version int64) error {
	if version < 0 || version > MaxVersion {
		return &InvalidEventError{Field: "version", Reason: fmt.Sprintf("is %d: give a number from 1 to %d, or leave it out", version, MaxVersion)}
	}
	return nil
}

// ValidateActorID says what is wrong with an actor id, as an
// [*InvalidEventError].
func ValidateActorID(id string) error {
	switch {
	case id == "":
		return &InvalidEventError{Field: "actorId", Reason: "is missing"}
	case len(id) > MaxActorIDBytes:
		return &InvalidEventError{Field: "actorId", Reason: fmt.Sprintf("has %d bytes: at most %d are allowed", len(id), MaxActorIDBytes)}
	case !utf8.ValidString(id):
		return &InvalidEventError{Field: "actorId", Reason: "is not valid UTF-8"}
	}
	return nil
}

// validateTime refuses a time that some way in cannot carry: RFC 3339 and protobuf
// have the years 1 to 9999 in UTC, and Go has more.
func validateTime(field string, t time.Time) error {
	if year := t.UTC().Year(); year < 1 || year > 9999 {
		return &InvalidEventError{Field: field, Reason: fmt.Sprintf("is in the year %d in UTC: give one of the years 1 to 9999", year)}
	}
	return nil
}

func validateText(field, value string, limit int, required bool) error {
	switch {
	case value == "" && required:
		return &InvalidEventError{Field: field, Reason: "is missing"}
	case len(value) > limit:
		return &InvalidEventError{Field: field, Reason: fmt.Sprintf("has %d bytes: at most %d are allowed", len(value), limit)}
	case !utf8.ValidString(value):
		return &InvalidEventError{Field: field, Reason: "is not valid UTF-8"}
	case strings.ContainsFunc(value, isControl):
		return &InvalidEventError{Field: field, Reason: "holds a control character"}
	case strings.TrimSpace(value) != value:
		// A header field value loses its outer white space on the way.
		return &InvalidEventError{Field: field, Reason: "starts or ends with white space"}
	}
	return nil
}

func isControl(r rune) bool { return r < ' ' || r == 0x7f }

// metadataKeyBytes is what a header adds to a metadata key and its value:
// "aether-meta-", ": " and the end of the line.
const metadataKeyBytes = 16

func validateMetadata(metadata map[string]string) error {
	total := 0
	for key, value := range metadata {
		field := fmt.Sprintf("metadata.%.100s", key)
		if key == "" || len(key) > 128 || strings.Trim(key, "abcdefghijklmnopqrstuvwxyz0123456789-_.") != "" {
			return &InvalidEventError{Field: field, Reason: "is no metadata key: 1 to 128 characters of a-z, 0-9, '-', '_' and '.' are allowed"}
		}
		if err := validateText(field, value, MaxMetadataBytes, false); err != nil {
			return err
		}
		total += len(key) + len(value) + metadataKeyBytes
	}
	if total > MaxMetadataBytes {
		return &InvalidEventError{Field: "metadata", Reason: fmt.Sprintf("has %d bytes: at most %d are allowed", total, MaxMetadataBytes)}
	}
	return nil
}

func validateData(data []byte, contentType string) error {
	if err := validateSize(data); err != nil {
		return err
	}
	if err := validateText("contentType", contentType, 255, false); err != nil {
		return err
	}
	if contentType != "" {
		if _, _, err := mime.ParseMediaType(contentType); err != nil {
			return &InvalidEventError{Field: "contentType", Reason: fmt.Sprintf("is no media type: %v", err)}
		}
	}
	if IsJSON(contentType) && len(data) > 0 && !json.Valid(data) {
		return &InvalidEventError{Field: "data", Reason: "is not valid JSON: correct it, or name another contentType"}
	}
	return nil
}

// IsTraceParent says whether a text is a traceparent of version 00 of W3C Trace
// Context: neither id is all zeros.
func IsTraceParent(text string) bool {
	parts := strings.Split(text, "-")
	return len(parts) == 4 && parts[0] == "00" && isHex(parts[1], 32) && isHex(parts[2], 16) && isHex(parts[3], 2) &&
		strings.Trim(parts[1], "0") != "" && strings.Trim(parts[2], "0") != ""
}

func isHex(text string, digits int) bool {
	return len(text) == digits && strings.Trim(text, "0123456789abcdef") == ""
}

func validateSize(data []byte) error {
	if len(data) > MaxDataBytes {
		return fmt.Errorf("data has %d bytes, at most %d are allowed: %w", len(data), MaxDataBytes, ErrTooLarge)
	}
	return nil
}

// IsJSON says whether a content type is JSON: none at all, application/json, or
// one that ends in +json, each with or without parameters.
func IsJSON(contentType string) bool {
	if contentType == "" || contentType == ContentTypeJSON {
		return true
	}
	kind, _, err := mime.ParseMediaType(contentType)
	return err == nil && (kind == ContentTypeJSON || strings.HasSuffix(kind, "+json"))
}
