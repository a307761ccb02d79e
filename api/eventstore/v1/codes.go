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
	// CodeUnavailable: the store could not be reached; nothing was changed.
	CodeUnavailable = "unavailable"
	// CodeUnknownOutcome: the save may have been stored; save again to find out.
	CodeUnknownOutcome = "unknown_outcome"
	// CodeInternal: a mistake in the sidecar.
	CodeInternal = "internal"
)
