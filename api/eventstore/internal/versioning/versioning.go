// Package versioning holds the decisions that every Store makes alike: which
// version an event takes, whether two events are the same, and what a batch may
// hold. It is pure.
package versioning

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
)

// Assign decides the version of an event whose actor is at latest: the one it
// names, or the next where it names none. It refuses with a
// *eventstore.VersionConflictError a version that is not greater than latest,
// and a latest that is not what the save expects.
func Assign(event *eventstore.Event, expected eventstore.ExpectedVersion, latest int64) (int64, error) {
	version := event.Version
	if version == 0 {
		version = next(latest)
	}
	if version > latest && expected.Holds(latest) {
		return version, nil
	}
	return 0, &eventstore.VersionConflictError{
		ActorID: event.ActorID, EventID: event.ID, AttemptedVersion: event.Version, ExpectedVersion: expected, CurrentVersion: latest,
	}
}

// next is the version after one; the largest has none, and stays.
func next(version int64) int64 { return min(max(version, version+1), eventstore.MaxVersion) }

// Span is between which versions, the first and the last, the events of one save
// that are of the same actor as the one at an index were stored if they were saved
// before; 0 for the first where that cannot be told: the one at the index gives no
// version, and no number is expected.
func Span(events []eventstore.Event, index int, expected eventstore.ExpectedVersion) (first, last int64) {
	first = events[index].Version
	if first == 0 && expected >= 0 {
		first = next(int64(expected))
	}
	var unversioned int64
	last = first
	for i := range events {
		if events[i].ActorID != events[index].ActorID {
			continue
		}
		last = max(last, events[i].Version)
		if events[i].Version == 0 {
			unversioned++
		}
	}
	// Those without a version have the next ones, at most.
	return first, last + unversioned
}

// RecentEvents is among how many of an actor's newest events the id of one that is
// saved is looked for, when the duplicate window has forgotten it.
const RecentEvents = 64

// Same says whether a stored event is the one that a save tries again: same
// actor, same version where the save names one, same content. The timestamp is
// no part of it, since a Store sets it where the save does not.
func Same(stored, again *eventstore.Event) bool {
	return stored.ID == again.ID &&
		stored.ActorID == again.ActorID &&
		(again.Version == 0 || stored.Version == again.Version) &&
		stored.EventType == again.EventType &&
		stored.CommandID == again.CommandID &&
		ContentType(stored) == ContentType(again) &&
		maps.Equal(stored.Metadata, again.Metadata) &&
		sameData(stored, again)
}

// sameData compares byte by byte first, and JSON without its white space next:
// a client that writes the same document anew may indent it otherwise.
func sameData(stored, again *eventstore.Event) bool {
	if bytes.Equal(stored.Data, again.Data) {
		return true
	}
	if !eventstore.IsJSON(again.ContentType) {
		return false
	}
	var a, b bytes.Buffer
	if json.Compact(&a, stored.Data) != nil || json.Compact(&b, again.Data) != nil {
		return false
	}
	return bytes.Equal(a.Bytes(), b.Bytes())
}

// ContentType is the content type of an event, the default where it names none.
func ContentType(event *eventstore.Event) string {
	if event.ContentType == "" {
		return eventstore.ContentTypeJSON
	}
	return event.ContentType
}

// Duplicate is the refusal of an event whose id the stored one has.
func Duplicate(stored *eventstore.Event) error {
	return &eventstore.DuplicateEventError{
		EventID: stored.ID, ActorID: stored.ActorID, Version: stored.Version, Sequence: stored.Sequence,
	}
}

// ValidateBatch says what is wrong with the events of one SaveEvents, or with
// what is expected of their actors.
func ValidateBatch(events []eventstore.Event, opts eventstore.SaveOptions) error {
	if len(events) == 0 {
		return &eventstore.InvalidEventError{Field: "events", Reason: "is empty: give at least one"}
	}
	if len(events) > eventstore.MaxBatchEvents {
		return fmt.Errorf("the batch has %d events, at most %d are saved at once: %w", len(events), eventstore.MaxBatchEvents, eventstore.ErrTooLarge)
	}
	if len(events) == 1 && len(opts.Expected) == 0 {
		return events[0].Validate()
	}
	indexOf := make(map[string]int, len(events))
	greatest := make(map[string]int, len(events))
	for i := range events {
		if err := events[i].Validate(); err != nil {
			return atIndex(err, i, len(events))
		}
		if first, taken := indexOf[events[i].ID]; taken {
			return atIndex(&eventstore.InvalidEventError{
				Field: "id", Reason: fmt.Sprintf("is %.100q, as that of event [%d]: give every event an id of its own", events[i].ID, first),
			}, i, len(events))
		}
		indexOf[events[i].ID] = i
		if before, present := greatest[events[i].ActorID]; !present || above(&events[i], &events[before]) {
			greatest[events[i].ActorID] = i
		}
	}
	for actorID, expected := range opts.Expected {
		i, present := greatest[actorID]
		if !present {
			return invalidExpected("is given for actor %.100q, of whom no event is saved", actorID)
		}
		if expected < eventstore.ExpectExists {
			return invalidExpected("is %d: give a number from 0, none, exists or any", expected)
		}
		if expected >= eventstore.MaxVersion {
			return invalidExpected("is %d, and versions end at %d: no event can follow", expected, int64(eventstore.MaxVersion))
		}
		if err := canFollow(&events[i], expected); err != nil {
			return atIndex(err, i, len(events))
		}
	}
	return nil
}

// above says whether an event may get a greater version than another of its actor.
func above(event, other *eventstore.Event) bool {
	return other.Version != 0 && (event.Version == 0 || event.Version > other.Version)
}

// canFollow says why an event, whose version is the greatest of its actor in a save, does
// not come after what is expected, wherever the actor is.
func canFollow(event *eventstore.Event, expected eventstore.ExpectedVersion) error {
	least := int64(expected)
	if expected == eventstore.ExpectExists {
		least = 1
	}
	if event.Version == 0 || event.Version > least {
		return nil
	}
	return &eventstore.InvalidEventError{
		Field: "version", Reason: fmt.Sprintf("is %d, and the save expects version %d or more before it: give a greater one, or leave it out", event.Version, least),
	}
}

func invalidExpected(format string, args ...any) error {
	return &eventstore.InvalidEventError{Field: "expectedVersion", Reason: fmt.Sprintf(format, args...)}
}

// atIndex names the event of a batch that err is about; one alone needs no
// index.
func atIndex(err error, index, count int) error {
	if count == 1 {
		return err
	}
	var invalid *eventstore.InvalidEventError
	if errors.As(err, &invalid) {
		return &eventstore.InvalidEventError{Field: fmt.Sprintf("[%d].%s", index, invalid.Field), Reason: invalid.Reason}
	}
	return fmt.Errorf("event [%d]: %w", index, err)
}

// AcceptSnapshot refuses a snapshot that is older than the newest stored one, with a
// *eventstore.VersionConflictError, and one of a version above the actor's latest.
func AcceptSnapshot(snapshot *eventstore.Snapshot, newest, latest int64) error {
	if snapshot.Version > latest {
		return fmt.Errorf("%w: actor %.100q is at version %d, and the snapshot is of version %d: save one of a version that the actor has",
			eventstore.ErrNoSuchVersion, snapshot.ActorID, latest, snapshot.Version)
	}
	return sameSnapshot(snapshot.ActorID, snapshot.Version, newest, snapshot.Version >= newest)
}

// AcceptDeletion refuses, with a *eventstore.VersionConflictError, to delete a
// snapshot of a version while the newest is of another. Version 0 is any.
func AcceptDeletion(actorID string, version, newest int64) error {
	return sameSnapshot(actorID, version, newest, version == 0 || version == newest)
}

func sameSnapshot(actorID string, attempted, newest int64, accepted bool) error {
	if accepted {
		return nil
	}
	return &eventstore.VersionConflictError{ActorID: actorID, AttemptedVersion: attempted, ExpectedVersion: eventstore.ExpectAny, CurrentVersion: newest}
}
