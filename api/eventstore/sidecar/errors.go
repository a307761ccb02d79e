package sidecar

import (
	"context"
	"errors"
	"fmt"

	"connectrpc.com/connect"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
	eventstorev1 "git.flowmade.one/flowmade-one/aether-operator/api/eventstore/v1"
)

// remoteError has the sidecar's words, and is the errors of this process.
type remoteError struct {
	message string
	is      []error
}

func (e *remoteError) Error() string { return e.message }

func (e *remoteError) Unwrap() []error { return e.is }

// sentinels are the errors of the stable codes.
var sentinels = map[string]error{
	eventstorev1.CodeInvalidEvent:     eventstore.ErrInvalidEvent,
	eventstorev1.CodeNoSnapshot:       eventstore.ErrNoSnapshot,
	eventstorev1.CodeNoSuchVersion:    eventstore.ErrNoSuchVersion,
	eventstorev1.CodePlaceExpired:     eventstore.ErrPlaceExpired,
	eventstorev1.CodePlaceAhead:       eventstore.ErrPlaceAhead,
	eventstorev1.CodeTooLarge:         eventstore.ErrTooLarge,
	eventstorev1.CodeStoreFull:        eventstore.ErrStoreFull,
	eventstorev1.CodePermissionDenied: eventstore.ErrPermissionDenied,
	eventstorev1.CodeUnavailable:      eventstore.ErrUnavailable,
	eventstorev1.CodeUnknownOutcome:   eventstore.ErrUnknownOutcome,
	eventstorev1.CodeTooManyRequests:  eventstore.ErrUnavailable,
	eventstorev1.CodeNotInHand:        eventstore.ErrNotInHand,
	eventstorev1.CodeNoDurable:        eventstore.ErrNoDurable,
	eventstorev1.CodeTooManyParked:    eventstore.ErrTooManyParked,
	eventstorev1.CodeDurableAhead:     eventstore.ErrDurableAhead,
	eventstorev1.CodeDurableTorn:      eventstore.ErrDurableTorn,
	eventstorev1.CodeUnknownStore:     ErrUnknownStore,
	eventstorev1.CodeNoSession:        errNoSession,
}

// errNoSession: the stream of a durable subscription has ended.
var errNoSession = errors.New("no such session")

// saveError is the error of a save that was sent. Only the sidecar knows that
// nothing was stored, or a dial that did not get through.
func saveError(ctx context.Context, err error) error {
	if answered, ok := answer(err); ok {
		return withContext(ctx, answered)
	}
	if notDialed(err) {
		return withContext(ctx, fmt.Errorf("%w: %w", eventstore.ErrUnavailable, err))
	}
	return withContext(ctx, fmt.Errorf("%w: %w: save again, with the same ids, to find out", eventstore.ErrUnknownOutcome, err))
}

// readError is the error of a call that changes nothing.
func readError(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); errors.Is(cause, errSilent) {
		return cause
	}
	if answered, ok := answer(err); ok {
		return withContext(ctx, answered)
	}
	return withContext(ctx, fmt.Errorf("%w: %w", eventstore.ErrUnavailable, err))
}

// withContext makes err the context's error too, where that has ended.
func withContext(ctx context.Context, err error) error {
	if ctx.Err() == nil || errors.Is(err, ctx.Err()) {
		return err
	}
	return &remoteError{message: err.Error(), is: []error{err, ctx.Err()}}
}

// answer is the error that the sidecar answered with; not ok when the call
// failed on the way.
func answer(err error) (_ error, ok bool) {
	var remote *connect.Error
	if !errors.As(err, &remote) {
		return nil, false
	}
	for _, detail := range remote.Details() {
		if value, err := detail.Value(); err == nil {
			if answered := fromDetail(remote.Message(), value); answered != nil {
				return answered, true
			}
		}
	}
	switch {
	case remote.Code() == connect.CodeResourceExhausted:
		// Connect's own limit on the size of a message has no detail.
		return &remoteError{message: remote.Message(), is: []error{eventstore.ErrTooLarge}}, true
	case connect.IsWireError(err) && remote.Code() != connect.CodeDeadlineExceeded && remote.Code() != connect.CodeCanceled && remote.Code() != connect.CodeUnavailable:
		return &remoteError{message: fmt.Sprintf("the sidecar answered %s: %s", remote.Code(), remote.Message())}, true
	}
	return nil, false
}

// fromDetail is the error that a detail stands for, and nil for one that is not
// known here.
func fromDetail(message string, detail any) error {
	switch d := detail.(type) {
	case *eventstorev1.VersionConflict:
		return d.ToConflict()
	case *eventstorev1.DuplicateEvent:
		return &eventstore.DuplicateEventError{EventID: d.GetEventId(), ActorID: d.GetActorId(), Version: d.GetVersion(), Sequence: d.GetSequence()}
	case *eventstorev1.FieldViolation:
		return &eventstore.InvalidEventError{Field: d.GetField(), Reason: d.GetDescription()}
	case *eventstorev1.Reason:
		if sentinel, known := sentinels[d.GetCode()]; known {
			return &remoteError{message: message, is: []error{sentinel}}
		}
		return &remoteError{message: message}
	}
	return nil
}
