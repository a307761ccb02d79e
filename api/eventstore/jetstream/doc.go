// Package jetstream is the engine: an [eventstore.Store] that keeps events in
// one JetStream stream and snapshots in another.
//
// JetStream decides every conflict, by the expected last sequence of the
// actor's one literal subject; there is neither a lock nor a cache here that two
// processes could see differently. The streams are made by the operator; see
// [EventsSubjects], [SnapshotsSubjects] and [StoredSubjects] for what they hold.
package jetstream
