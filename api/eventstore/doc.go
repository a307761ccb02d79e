// Package eventstore is the Go contract of an event store: append-only,
// versioned for each actor, with snapshots, subscriptions and notifications.
//
// A [Store] keeps [Event] values. Every event belongs to one actor and has a
// version that is greater than all earlier versions of that actor; a save that
// would break this is refused with a [*VersionConflictError]. That is the whole
// of optimistic concurrency here: read an actor, decide, save with the version
// that follows, and on a conflict read again.
//
// Four packages beside this one go with it:
//
//   - memory keeps events in the process, for tests and laptops;
//   - jetstream keeps them in NATS JetStream and is the engine of the product;
//   - sidecar reaches them through the sidecar in the same pod;
//   - storetest is the conformance suite that all three pass, and that any
//     other Store should.
//
// This package imports the standard library alone.
package eventstore
