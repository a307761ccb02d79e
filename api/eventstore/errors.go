package eventstore

import (
	"errors"
	"fmt"
)

// Errors that a Store answers with, for errors.Is. The text of what is returned
// says more.
var (
	// ErrNoSnapshot: the actor has no snapshot. A missing snapshot is not an
	// empty one.
	ErrNoSnapshot = errors.New("no snapshot")
	// ErrNoSuchVersion: the snapshot is of a version that its actor does not have.
	// Nothing was stored.
	ErrNoSuchVersion = errors.New("no such version")
	// ErrInvalidEvent: the event, snapshot or actor id breaks a rule that
	// [Event.Validate] checks. Every such error is an [*InvalidEventError].
	ErrInvalidEvent = errors.New("invalid event")
	// ErrTooLarge: the data, the message or the batch is larger than allowed.
	ErrTooLarge = errors.New("too large")
	// ErrStoreFull: the store has reached its limit and keeps what it has. Nothing
	// was stored.
	ErrStoreFull = errors.New("store full")
	// ErrUnavailable: the store could not be reached, or did not answer in time,
	// and nothing was changed. Trying again later is safe.
	ErrUnavailable = errors.New("store unavailable")
	// ErrPermissionDenied: the credentials in use do not allow the call.
	ErrPermissionDenied = errors.New("permission denied")
	// ErrUnknownOutcome: the save was sent, no answer came, and looking was not
	// possible either. It may have been stored. Saving the same event again, with
	// the same id, finds out and does no harm.
	ErrUnknownOutcome = errors.New("outcome unknown")
	// ErrSubscriptionClosed: Next was called on, or waited in, a Subscription that
	// its Close has ended.
	ErrSubscriptionClosed = errors.New("subscription closed")
	// ErrPlaceExpired: the subscription is to begin, or to go on, with a sequence whose
	// events have expired. From there it would leave them out.
	ErrPlaceExpired = errors.New("place expired")
	// ErrPlaceAhead: the subscription is to begin, or to go on, with a sequence that
	// the store is far from: the place is that of another store, or of one that has
	// lost events. Where such a one has come beyond it since, nothing tells.
	ErrPlaceAhead = errors.New("place ahead")
	// ErrNotInHand: Ack, Nak or Extend was called for an event that the member does
	// not have: it was never delivered to it, or is settled already.
	ErrNotInHand = errors.New("event not in hand")
	// ErrTooManyParked: an event cannot be put aside or given back, since too many
	// are already. Look at what is parked, and Replay or delete the durable
	// subscription.
	ErrTooManyParked = errors.New("too many parked events")
	// ErrDurableAhead: the durable subscription has come further than its store,
	// which was made again or has gone back. Delete it, and say where to begin.
	ErrDurableAhead = errors.New("the durable subscription is ahead of its store")
	// ErrDurableTorn: a part of the records of the durable subscription was removed, and with
	// it what waited and was parked there. Delete it, and say where to begin.
	ErrDurableTorn = errors.New("the durable subscription lacks a part of its records")
	// ErrNoDurable: the durable subscription was deleted.
	ErrNoDurable = errors.New("no such durable subscription")
)

// VersionConflictError refuses a save whose version is not greater than the
// actor's latest, or whose expected version is not the actor's. For a snapshot it
// refuses a save of one that is older than the newest, and a deletion of another
// than the newest. Nothing was changed.
type VersionConflictError struct {
	// ActorID is the actor whose version it is about.
	ActorID string
	// EventID is the event that lost; empty for a snapshot.
	EventID string
	// AttemptedVersion is the version that the event gives, 0 for none, or the version
	// of the snapshot that was to be saved or deleted.
	AttemptedVersion int64
	// ExpectedVersion is what the save expects of the actor, ExpectAny for nothing.
	ExpectedVersion ExpectedVersion
	// CurrentVersion is the actor's latest version, 0 for none; for a snapshot it is
	// the version of the newest.
	CurrentVersion int64
}

// Error says which actor, what the save gave and expected, and what to do.
func (e *VersionConflictError) Error() string {
	if e.EventID == "" {
		return fmt.Sprintf("version conflict: the newest snapshot of actor %.100q is of version %d, and the call is about version %d: read the snapshot again",
			e.ActorID, e.CurrentVersion, e.AttemptedVersion)
	}
	at := "has no version"
	if e.CurrentVersion > 0 {
		at = fmt.Sprintf("is at version %d", e.CurrentVersion)
	}
	return fmt.Sprintf("version conflict: actor %.100q %s, and %s: read the actor again and decide anew", e.ActorID, at, e.wanted())
}

// wanted is what the save gave, or expected where that does not hold.
func (e *VersionConflictError) wanted() string {
	save := "the save"
	if e.AttemptedVersion != 0 {
		save = fmt.Sprintf("the save of version %d", e.AttemptedVersion)
	}
	switch {
	case !e.ExpectedVersion.Holds(e.CurrentVersion):
		return save + " expects " + e.ExpectedVersion.words()
	case e.AttemptedVersion == 0:
		return "no version comes after that"
	}
	return fmt.Sprintf("version %d was attempted", e.AttemptedVersion)
}

// DuplicateEventError refuses a save whose event id belongs to another event
// already: one of another actor, version or content. Nothing was stored.
type DuplicateEventError struct {
	// EventID is the id that is taken.
	EventID string
	// ActorID, Version and Sequence tell the event that has it. Where that can be read no
	// more, or is no event, only the sequence is known, and Version is 0.
	ActorID  string
	Version  int64
	Sequence uint64
}

// Error says which event holds the id.
func (e *DuplicateEventError) Error() string {
	if e.Version == 0 {
		return fmt.Sprintf("duplicate event: id %.100q belongs to the message at sequence %d already, which cannot be compared: give every event an id of its own",
			e.EventID, e.Sequence)
	}
	return fmt.Sprintf("duplicate event: id %.100q belongs to version %d of actor %.100q already, with other content: give every event an id of its own",
		e.EventID, e.Version, e.ActorID)
}

// InvalidEventError names the field that breaks a rule. It is ErrInvalidEvent.
type InvalidEventError struct {
	// Field is the name in JSON, for example "actorId" or "metadata.tenant". In a
	// batch it starts with the event's index: "[3].actorId".
	Field string
	// Reason completes the sentence that starts with the field.
	Reason string
}

// Error says what is wrong with the field.
func (e *InvalidEventError) Error() string {
	return e.Field + " " + e.Reason
}

// Is makes every InvalidEventError an ErrInvalidEvent.
func (e *InvalidEventError) Is(target error) bool { return target == ErrInvalidEvent }

// ReplayError is a stored message that is not an event: written by something
// else, or damaged. It never hides the events around it.
type ReplayError struct {
	// Sequence is where the message is in its store.
	Sequence uint64
	// RawData is its payload as stored, at most the first MaxDataBytes.
	RawData []byte
	// Err is what is wrong with it.
	Err error
}

// Error says where the message is and what is wrong with it.
func (e *ReplayError) Error() string {
	return fmt.Sprintf("message %d is not an event: %v", e.Sequence, e.Err)
}

// Unwrap returns the cause.
func (e *ReplayError) Unwrap() error { return e.Err }

// TruncatedError says that events with which a read should begin are no longer
// stored: they have expired, or were erased. Those that are left follow it.
type TruncatedError struct {
	// ActorID is whose events they are.
	ActorID string
	// FirstVersion is the version of the first event that is left, 0 for none.
	FirstVersion int64
}

// Error says what is left, and what to do.
func (e *TruncatedError) Error() string {
	left := "none is left"
	if e.FirstVersion > 0 {
		left = fmt.Sprintf("the first that is left is version %d", e.FirstVersion)
	}
	return fmt.Sprintf("events of actor %.100q have expired or were erased, and %s: begin with a snapshot, or take what is left for what it is", e.ActorID, left)
}
