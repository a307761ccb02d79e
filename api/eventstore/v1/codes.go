package eventstorev1

// Stable codes of errors: the code of a problem document over HTTP, and the
// code of a Reason over RPC where the error has no detail of its own.
const (
	// CodeVersionConflict: the version is not greater than the actor's latest, or
	// that is not what was expected.
	CodeVersionConflict = "version_conflict"
	// CodeDuplicateEvent: the id belongs to another event already.
	CodeDuplicateEvent = "duplicate_event"
	// CodeInvalidEvent: a field of an event or snapshot breaks a rule.
	CodeInvalidEvent = "invalid_event"
	// CodeInvalidRequest: a parameter of the request breaks a rule.
	CodeInvalidRequest = "invalid_request"
	// CodeUnknownStore: the sidecar serves no store of that name.
	CodeUnknownStore = "unknown_store"
	// CodeNoSnapshot: the actor has no snapshot.
	CodeNoSnapshot = "no_snapshot"
	// CodeNoSuchVersion: the snapshot is of a version that its actor does not have.
	CodeNoSuchVersion = "no_such_version"
	// CodePlaceExpired: what a subscription is to go on with has expired.
	CodePlaceExpired = "place_expired"
	// CodePlaceAhead: a subscription is to go on where the store is not yet.
	CodePlaceAhead = "place_ahead"
	// CodeNoDurable: the durable subscription was deleted.
	CodeNoDurable = "no_durable"
	// CodeNoSession: no stream of a durable subscription has that session, or it
	// has ended.
	CodeNoSession = "no_session"
	// CodeNotInHand: the session does not have the event, or no longer.
	CodeNotInHand = "not_in_hand"
	// CodeTooManyParked: the durable subscription has no room for another event
	// that waits or is parked.
	CodeTooManyParked = "too_many_parked"
	// CodeDurableAhead: the durable subscription has come further than its store.
	CodeDurableAhead = "durable_ahead"
	// CodeDurableTorn: a part of the records of the durable subscription was removed.
	CodeDurableTorn = "durable_torn"
	// CodeNoDurables: the store has no durable subscriptions.
	CodeNoDurables = "no_durable_subscriptions"
	// CodeNotFound: there is no such path.
	CodeNotFound = "not_found"
	// CodeMethodNotAllowed: the path has no such method.
	CodeMethodNotAllowed = "method_not_allowed"
	// CodeTooLarge: the data, the body or the batch is larger than allowed.
	CodeTooLarge = "too_large"
	// CodeStoreFull: the store keeps what it has and takes no more.
	CodeStoreFull = "store_full"
	// CodePermissionDenied: the store's credentials do not allow the call.
	CodePermissionDenied = "permission_denied"
	// CodeTooManyRequests: the sidecar has as much under way as it has memory for;
	// nothing was done, and trying again is safe.
	CodeTooManyRequests = "too_many_requests"
	// CodeForeignOrigin: the request comes from a web page that is not of this
	// sidecar.
	CodeForeignOrigin = "foreign_origin"
	// CodeUnavailable: the store could not be reached; nothing was changed.
	CodeUnavailable = "unavailable"
	// CodeUnknownOutcome: the save may have been stored; save again to find out.
	CodeUnknownOutcome = "unknown_outcome"
	// CodeInternal: a mistake in the sidecar.
	CodeInternal = "internal"
)
