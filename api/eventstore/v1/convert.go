package eventstorev1

import (
	"errors"
	"fmt"
	"math"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
)

// FromEvent is an event as a message.
func FromEvent(e *eventstore.Event) *Event {
	return &Event{
		Id: e.ID, EventType: e.EventType, ActorId: e.ActorID, CommandId: e.CommandID, Version: e.Version, Data: e.Data,
		ContentType: e.ContentType, Metadata: e.Metadata, Timestamp: fromTime(e.Timestamp), Sequence: e.Sequence, TraceParent: e.TraceParent,
	}
}

// ToEvent is the event of a message; of none, an event without an id.
func (x *Event) ToEvent() (eventstore.Event, error) {
	timestamp, err := toTime("timestamp", x.GetTimestamp())
	return eventstore.Event{
		ID: x.GetId(), EventType: x.GetEventType(), ActorID: x.GetActorId(), CommandID: x.GetCommandId(), Version: x.GetVersion(), Data: x.GetData(),
		ContentType: x.GetContentType(), Metadata: x.GetMetadata(), Timestamp: timestamp, Sequence: x.GetSequence(), TraceParent: x.GetTraceParent(),
	}, err
}

// SetOptions puts what a read wants into its request.
func (x *StreamEventsRequest) SetOptions(o eventstore.ReadOptions) {
	x.UpToDate, x.Until, x.FromSequence = o.UpToDate, fromTime(o.Until), o.FromSequence
	x.Newest = int32(min(max(o.Newest, 0), math.MaxInt32))
}

// ToOptions is what the read of a request wants.
func (x *StreamEventsRequest) ToOptions() ([]eventstore.ReadOption, error) {
	until, err := toTime("until", x.GetUntil())
	return []eventstore.ReadOption{func(o *eventstore.ReadOptions) {
		*o = eventstore.ReadOptions{UpToDate: x.GetUpToDate(), Newest: int(x.GetNewest()), Until: until, FromSequence: x.GetFromSequence()}
	}}, err
}

// FromSubscribe is what a subscription to a store wants, as a message.
func FromSubscribe(store string, o eventstore.SubscribeOptions) *SubscribeRequest {
	return &SubscribeRequest{
		Store: store, FromSequence: o.FromSequence, FromTime: fromTime(o.FromTime), FromNow: o.FromNow,
		ActorType: o.ActorType, ActorId: o.ActorID, EventType: o.EventType,
	}
}

// ToOptions is what the subscription of a message wants.
func (x *SubscribeRequest) ToOptions() (eventstore.SubscribeOptions, error) {
	at, err := toTime("fromTime", x.GetFromTime())
	return eventstore.SubscribeOptions{
		FromSequence: x.GetFromSequence(), FromTime: at, FromNow: x.GetFromNow(),
		ActorType: x.GetActorType(), ActorID: x.GetActorId(), EventType: x.GetEventType(),
	}, err
}

// FromSnapshot is a snapshot as a message.
func FromSnapshot(s *eventstore.Snapshot) *Snapshot {
	return &Snapshot{ActorId: s.ActorID, Version: s.Version, Data: s.Data, Metadata: s.Metadata, Timestamp: fromTime(s.Timestamp)}
}

// ToSnapshot is the snapshot of a message; of none, one without an actor.
func (x *Snapshot) ToSnapshot() (eventstore.Snapshot, error) {
	timestamp, err := toTime("timestamp", x.GetTimestamp())
	return eventstore.Snapshot{ActorID: x.GetActorId(), Version: x.GetVersion(), Data: x.GetData(), Metadata: x.GetMetadata(), Timestamp: timestamp}, err
}

// FromSaved is the answer for a stored event as a message.
func FromSaved(s eventstore.Saved) *SavedEvent {
	return &SavedEvent{Id: s.ID, ActorId: s.ActorID, Version: s.Version, Sequence: s.Sequence, Duplicate: s.Duplicate}
}

// ToSaved is the answer of a message.
func (x *SavedEvent) ToSaved() eventstore.Saved {
	return eventstore.Saved{ID: x.GetId(), ActorID: x.GetActorId(), Version: x.GetVersion(), Sequence: x.GetSequence(), Duplicate: x.GetDuplicate()}
}

// FromReplayError is a stored message that is no event, as a message.
func FromReplayError(e *eventstore.ReplayError) *ReplayError {
	return &ReplayError{Sequence: e.Sequence, RawData: e.RawData, Error: e.Err.Error()}
}

// ToReplayError is the error of a message; its cause is left as text.
func (x *ReplayError) ToReplayError() *eventstore.ReplayError {
	return &eventstore.ReplayError{Sequence: x.GetSequence(), RawData: x.GetRawData(), Err: errors.New(x.GetError())}
}

// FromExpected is an expected version as a message.
func FromExpected(expected eventstore.ExpectedVersion) *ExpectedVersion {
	switch expected {
	case eventstore.ExpectAny:
		return &ExpectedVersion{Expected: &ExpectedVersion_State_{State: ExpectedVersion_STATE_ANY}}
	case eventstore.ExpectExists:
		return &ExpectedVersion{Expected: &ExpectedVersion_State_{State: ExpectedVersion_STATE_EXISTS}}
	default:
		return &ExpectedVersion{Expected: &ExpectedVersion_Version{Version: int64(expected)}}
	}
}

// ToExpected is the expected version of a message; none expects nothing. A
// number below 0 or a state that is not known is an
// *eventstore.InvalidEventError.
func (x *ExpectedVersion) ToExpected() (eventstore.ExpectedVersion, error) {
	switch expected := x.GetExpected().(type) {
	case nil:
		return eventstore.ExpectAny, nil
	case *ExpectedVersion_Version:
		// The negative ones mean words in Go, and nothing here.
		if expected.Version >= 0 {
			return eventstore.ExpectedVersion(expected.Version), nil
		}
		return 0, invalidExpected(fmt.Sprint(expected.Version))
	case *ExpectedVersion_State_:
		switch expected.State {
		case ExpectedVersion_STATE_ANY, ExpectedVersion_STATE_UNSPECIFIED:
			return eventstore.ExpectAny, nil
		case ExpectedVersion_STATE_NONE:
			return eventstore.ExpectNone, nil
		case ExpectedVersion_STATE_EXISTS:
			return eventstore.ExpectExists, nil
		}
		return 0, invalidExpected(expected.State.String())
	}
	return 0, invalidExpected("of an unknown kind")
}

// FromConflict is a version conflict as a message.
func FromConflict(e *eventstore.VersionConflictError) *VersionConflict {
	message := &VersionConflict{ActorId: e.ActorID, EventId: e.EventID, AttemptedVersion: e.AttemptedVersion, CurrentVersion: e.CurrentVersion}
	if e.ExpectedVersion != eventstore.ExpectAny {
		message.ExpectedVersion = FromExpected(e.ExpectedVersion)
	}
	return message
}

// ToConflict is the version conflict of a message.
func (x *VersionConflict) ToConflict() *eventstore.VersionConflictError {
	expected, err := x.GetExpectedVersion().ToExpected()
	if err != nil {
		// A kind that is not known here is told by the version that the actor has.
		expected = eventstore.ExpectAny
	}
	return &eventstore.VersionConflictError{
		ActorID: x.GetActorId(), EventID: x.GetEventId(), AttemptedVersion: x.GetAttemptedVersion(), ExpectedVersion: expected, CurrentVersion: x.GetCurrentVersion(),
	}
}

func invalidExpected(value string) error {
	return &eventstore.InvalidEventError{Field: "expectedVersion", Reason: fmt.Sprintf("is %s: give a number from 0, none, exists or any", value)}
}

// fromTime leaves a time out that is not set: its zero is another one's year 1.
func fromTime(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

// toTime reads a time that was sent. The first of all times is what programs have
// for none; who means none leaves it out.
func toTime(field string, t *timestamppb.Timestamp) (time.Time, error) {
	if t == nil {
		return time.Time{}, nil
	}
	if err := t.CheckValid(); err != nil {
		return time.Time{}, &eventstore.InvalidEventError{Field: field, Reason: "is outside the years 1 to 9999, or its nanoseconds are"}
	}
	if t.AsTime().IsZero() {
		return time.Time{}, &eventstore.InvalidEventError{Field: field, Reason: "is 0001-01-01T00:00:00Z, the zero of a program: leave it out where there is none"}
	}
	return t.AsTime(), nil
}
