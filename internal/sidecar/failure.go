package sidecar

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
	eventstorev1 "git.flowmade.one/flowmade-one/aether-operator/api/eventstore/v1"
)

// failure is what an error means to a client, over either protocol. All of
// them are made by failureOf.
type failure struct {
	// status and rpc are the status of each protocol.
	status int
	rpc    connect.Code
	// code is stable; title is the same for each code.
	code  string
	title string
	// detail tells this error from others of its code.
	detail string
	// members are what a problem document has beside: in JSON under these names.
	members members
	// typed is the detail of a Connect error.
	typed proto.Message
}

// members are the members of a problem document that belong to its code.
type members struct {
	Field            string `json:"field,omitempty"`
	ActorID          string `json:"actorId,omitempty"`
	EventID          string `json:"eventId,omitempty"`
	Version          *int64 `json:"version,omitempty"`
	Sequence         uint64 `json:"sequence,omitempty"`
	AttemptedVersion int64  `json:"attemptedVersion,omitempty"`
	ExpectedVersion  any    `json:"expectedVersion,omitempty"`
	CurrentVersion   *int64 `json:"currentVersion,omitempty"`
}

// unknownStoreError: no store of that name is served.
type unknownStoreError struct {
	name   string
	served []string
}

func (e *unknownStoreError) Error() string {
	return fmt.Sprintf("store %.100q is not served here: the stores are %s", e.name, strings.Join(e.served, ", "))
}

// requestError: a parameter of the request breaks a rule.
type requestError struct {
	field, reason string
	// status is 400 unless it says otherwise.
	status int
}

func (e *requestError) Error() string {
	return e.field + " " + e.reason
}

// asRequest makes an error about a field one about a parameter: a call that saves nothing
// has no event that could be invalid.
func asRequest(err error) error {
	var invalid *eventstore.InvalidEventError
	if !errors.As(err, &invalid) {
		return err
	}
	return &requestError{field: invalid.Field, reason: invalid.Reason}
}

// routeError: there is no such path, or no such method for it.
type routeError struct {
	method, path string
	// allowed are the methods of the path; none where there is no such path.
	allowed []string
}

func (e *routeError) Error() string {
	if len(e.allowed) > 0 {
		return fmt.Sprintf("%.100s takes %s, not %.100s", e.path, strings.Join(e.allowed, ", "), e.method)
	}
	return fmt.Sprintf("there is nothing at %.100s: /openapi.yaml lists what there is", e.path)
}

// sentinels are the errors without members, in the order in which they decide:
// an outcome that is not known stays so, whatever else the error is. Clients of gRPC
// try again on UNAVAILABLE and RESOURCE_EXHAUSTED, so only what may pass has those.
var sentinels = []struct {
	err    error
	status int
	rpc    connect.Code
	code   string
	title  string
}{
	{eventstore.ErrUnknownOutcome, http.StatusGatewayTimeout, connect.CodeDeadlineExceeded, eventstorev1.CodeUnknownOutcome, "Outcome unknown"},
	{eventstore.ErrNoSnapshot, http.StatusNotFound, connect.CodeNotFound, eventstorev1.CodeNoSnapshot, "No snapshot"},
	{eventstore.ErrNoSuchVersion, http.StatusConflict, connect.CodeFailedPrecondition, eventstorev1.CodeNoSuchVersion, "No such version"},
	{eventstore.ErrPlaceExpired, http.StatusGone, connect.CodeOutOfRange, eventstorev1.CodePlaceExpired, "Place expired"},
	{eventstore.ErrPlaceAhead, http.StatusConflict, connect.CodeOutOfRange, eventstorev1.CodePlaceAhead, "Place ahead"},
	{eventstore.ErrNoDurable, http.StatusNotFound, connect.CodeNotFound, eventstorev1.CodeNoDurable, "No durable subscription"},
	{errNoSession, http.StatusNotFound, connect.CodeNotFound, eventstorev1.CodeNoSession, "No session"},
	{errNoDurables, http.StatusNotImplemented, connect.CodeUnimplemented, eventstorev1.CodeNoDurables, "No durable subscriptions"},
	{eventstore.ErrNotInHand, http.StatusConflict, connect.CodeFailedPrecondition, eventstorev1.CodeNotInHand, "Not in hand"},
	{eventstore.ErrTooManyParked, http.StatusInsufficientStorage, connect.CodeFailedPrecondition, eventstorev1.CodeTooManyParked, "Too many parked"},
	{eventstore.ErrDurableAhead, http.StatusConflict, connect.CodeFailedPrecondition, eventstorev1.CodeDurableAhead, "Durable subscription ahead"},
	{eventstore.ErrDurableTorn, http.StatusConflict, connect.CodeFailedPrecondition, eventstorev1.CodeDurableTorn, "Durable subscription torn"},
	{eventstore.ErrTooLarge, http.StatusRequestEntityTooLarge, connect.CodeInvalidArgument, eventstorev1.CodeTooLarge, "Too large"},
	{eventstore.ErrStoreFull, http.StatusInsufficientStorage, connect.CodeFailedPrecondition, eventstorev1.CodeStoreFull, "Store full"},
	{eventstore.ErrPermissionDenied, http.StatusForbidden, connect.CodePermissionDenied, eventstorev1.CodePermissionDenied, "Permission denied"},
	// The store was opened on another connection, and whoever follows it comes again.
	{eventstore.ErrSubscriptionClosed, http.StatusServiceUnavailable, connect.CodeUnavailable, eventstorev1.CodeUnavailable, "Store unavailable"},
	{eventstore.ErrUnavailable, http.StatusServiceUnavailable, connect.CodeUnavailable, eventstorev1.CodeUnavailable, "Store unavailable"},
	{errTooManyRequests, http.StatusTooManyRequests, connect.CodeResourceExhausted, eventstorev1.CodeTooManyRequests, "Too many requests"},
	// A read that ran into its deadline; saves say what became of them.
	{context.DeadlineExceeded, http.StatusServiceUnavailable, connect.CodeUnavailable, eventstorev1.CodeUnavailable, "Store unavailable"},
	// Nobody waits for this answer any more.
	{context.Canceled, http.StatusServiceUnavailable, connect.CodeCanceled, eventstorev1.CodeUnavailable, "Request canceled"},
}

// failureOf is the one place that decides what an error means to a client.
func failureOf(err error) failure {
	if f, ok := typedFailure(err); ok {
		f.detail = err.Error()
		return f
	}
	for _, s := range sentinels {
		if errors.Is(err, s.err) {
			return failure{status: s.status, rpc: s.rpc, code: s.code, title: s.title, detail: err.Error(), typed: &eventstorev1.Reason{Code: s.code}}
		}
	}
	return failure{
		status: http.StatusInternalServerError, rpc: connect.CodeInternal, code: eventstorev1.CodeInternal, title: "Internal error",
		detail: err.Error(), typed: &eventstorev1.Reason{Code: eventstorev1.CodeInternal},
	}
}

// typedFailure is the failure of an error that carries more than its text.
func typedFailure(err error) (failure, bool) {
	var (
		conflict  *eventstore.VersionConflictError
		duplicate *eventstore.DuplicateEventError
	)
	switch {
	case errors.As(err, &conflict):
		return failure{
			status: http.StatusConflict, rpc: connect.CodeAborted, code: eventstorev1.CodeVersionConflict, title: "Version conflict",
			members: members{
				ActorID: conflict.ActorID, EventID: conflict.EventID,
				AttemptedVersion: conflict.AttemptedVersion, ExpectedVersion: encodeExpected(conflict.ExpectedVersion), CurrentVersion: &conflict.CurrentVersion,
			},
			typed: eventstorev1.FromConflict(conflict),
		}, true
	case errors.As(err, &duplicate):
		return failure{
			status: http.StatusConflict, rpc: connect.CodeAlreadyExists, code: eventstorev1.CodeDuplicateEvent, title: "Duplicate event",
			members: members{EventID: duplicate.EventID, ActorID: duplicate.ActorID, Version: &duplicate.Version, Sequence: duplicate.Sequence},
			typed: &eventstorev1.DuplicateEvent{
				EventId: duplicate.EventID, ActorId: duplicate.ActorID, Version: duplicate.Version, Sequence: duplicate.Sequence,
			},
		}, true
	}
	return requestFailure(err)
}

// requestFailure is the failure of a request that breaks a rule.
func requestFailure(err error) (failure, bool) {
	var (
		invalid *eventstore.InvalidEventError
		request *requestError
		unknown *unknownStoreError
		route   *routeError
		origin  *originError
	)
	switch {
	case errors.As(err, &origin):
		return failure{
			status: http.StatusForbidden, rpc: connect.CodePermissionDenied, code: eventstorev1.CodeForeignOrigin, title: "Foreign origin",
			members: members{Field: origin.header}, typed: &eventstorev1.Reason{Code: eventstorev1.CodeForeignOrigin},
		}, true
	case errors.As(err, &invalid):
		f := badRequest(eventstorev1.CodeInvalidEvent, "Invalid event or snapshot", invalid.Field, invalid.Reason)
		return f, true
	case errors.As(err, &request):
		f := badRequest(eventstorev1.CodeInvalidRequest, "Invalid request", request.field, request.reason)
		if request.status != 0 {
			f.status = request.status
		}
		return f, true
	case errors.As(err, &unknown):
		return failure{
			status: http.StatusNotFound, rpc: connect.CodeNotFound, code: eventstorev1.CodeUnknownStore, title: "Unknown store",
			typed: &eventstorev1.Reason{Code: eventstorev1.CodeUnknownStore},
		}, true
	case errors.As(err, &route) && len(route.allowed) > 0:
		return failure{status: http.StatusMethodNotAllowed, rpc: connect.CodeUnimplemented, code: eventstorev1.CodeMethodNotAllowed, title: "Method not allowed"}, true
	case errors.As(err, &route):
		return failure{status: http.StatusNotFound, rpc: connect.CodeUnimplemented, code: eventstorev1.CodeNotFound, title: "Not found"}, true
	}
	return failure{}, false
}

func badRequest(code, title, field, reason string) failure {
	return failure{
		status: http.StatusBadRequest, rpc: connect.CodeInvalidArgument, code: code, title: title,
		members: members{Field: field}, typed: &eventstorev1.FieldViolation{Field: field, Description: reason},
	}
}

// failed is what went wrong inside the sidecar or its stores; empty where the
// client can change it.
func (f failure) failed() string {
	switch f.code {
	case eventstorev1.CodeInternal, eventstorev1.CodeUnavailable, eventstorev1.CodeUnknownOutcome, eventstorev1.CodePermissionDenied, eventstorev1.CodeStoreFull:
		return f.detail
	}
	return ""
}

// connectError is a failure as an RPC answers it.
func (f failure) connectError() *connect.Error {
	err := connect.NewError(f.rpc, errors.New(f.detail))
	if f.code == eventstorev1.CodeTooManyRequests {
		err.Meta().Set("Retry-After", retryAfter)
	}
	if f.typed == nil {
		return err
	}
	if detail, detailErr := connect.NewErrorDetail(f.typed); detailErr == nil {
		err.AddDetail(detail)
	}
	return err
}

// saveFailure is a failure as SaveBatches answers it for one of its saves.
func (f failure) saveFailure() *eventstorev1.SaveFailure {
	answer := &eventstorev1.SaveFailure{Code: int32(f.rpc), Message: f.detail}
	answer.SetDetail(f.typed)
	return answer
}
