package eventstore

import "sync/atomic"

// Metrics counts what a Store does. The zero value is ready; one Metrics may
// serve several Stores.
type Metrics struct {
	// EventsSaved counts events stored, without duplicates.
	EventsSaved atomic.Int64
	// DuplicatesSaved counts events that an earlier save had stored already.
	DuplicatesSaved atomic.Int64
	// VersionConflicts counts saves refused with *VersionConflictError.
	VersionConflicts atomic.Int64
	// SaveErrors counts saves that failed for any other reason.
	SaveErrors atomic.Int64
	// EventsRead counts events that reads and subscriptions delivered.
	EventsRead atomic.Int64
	// ReplayErrors counts stored messages met that are no events.
	ReplayErrors atomic.Int64
	// SnapshotsSaved counts snapshots stored.
	SnapshotsSaved atomic.Int64
	// NotificationsSent counts EventStored notifications given to a Bus.
	NotificationsSent atomic.Int64
	// HeadHits counts saves that knew where their actor stood, and HeadMisses those
	// that had to ask. A Store that keeps no heads counts neither.
	HeadHits, HeadMisses atomic.Int64
	// HeadsCached is how many actors' heads are kept now; it is the one that also
	// falls.
	HeadsCached atomic.Int64
}
