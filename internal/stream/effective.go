package stream

import (
	"cmp"
	"slices"

	"github.com/nats-io/nats.go/jetstream"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
)

// Defaults of what neither an EventStore nor its class says.
const (
	defaultMaxAge = "365d"
	// defaultDuplicateWindow is how long JetStream remembers the id of an event.
	// Longer costs the servers memory for each event; what comes again later is
	// found through the actor's own events.
	defaultDuplicateWindow = "2m"
)

// Effective is what an EventStore asks for, with the defaults of its class and then
// those of the fields filled in.
func Effective(store *v1alpha1.EventStore, class v1alpha1.Defaults) v1alpha1.EffectiveSpec {
	spec := &store.Spec
	effective := v1alpha1.EffectiveSpec{
		Retention: v1alpha1.Retention{
			MaxAge:   cmp.Or(spec.Retention.MaxAge, class.Retention.MaxAge, defaultMaxAge),
			MaxBytes: cmp.Or(spec.Retention.MaxBytes, class.Retention.MaxBytes),
		},
		Replicas:        cmp.Or(spec.Replicas, class.Replicas, 1),
		Storage:         cmp.Or(spec.Storage, class.Storage, v1alpha1.StorageFile),
		Compression:     cmp.Or(spec.Compression, class.Compression, v1alpha1.CompressionS2),
		DuplicateWindow: cmp.Or(spec.DuplicateWindow, class.DuplicateWindow, defaultDuplicateWindow),
		Snapshots: v1alpha1.Snapshots{
			History:  cmp.Or(spec.Snapshots.History, class.Snapshots.History, 1),
			MaxBytes: cmp.Or(spec.Snapshots.MaxBytes, class.Snapshots.MaxBytes),
		},
		Protection:       cmp.Or(spec.Protection, class.Protection, v1alpha1.ProtectionErasable),
		DeletionPolicy:   DeletionPolicyOf(store, class),
		ManagementPolicy: cmp.Or(spec.ManagementPolicy, v1alpha1.ManagementFull),
		AdoptionPolicy:   cmp.Or(spec.AdoptionPolicy, v1alpha1.AdoptionRefuse),
	}
	if p := cmp.Or(spec.Placement, class.Placement); p != nil && (p.Cluster != "" || len(p.Tags) > 0) {
		effective.Placement = p
	}
	return effective
}

// DeletionPolicyOf is what becomes of the streams of a store with its resource. The
// default of a class counts for stores that are new: one whose streams are retained
// does not begin to delete them because somebody else changed the class.
func DeletionPolicyOf(store *v1alpha1.EventStore, class v1alpha1.Defaults) v1alpha1.DeletionPolicy {
	if store.Spec.DeletionPolicy != "" {
		return store.Spec.DeletionPolicy
	}
	if recorded := store.Status.Effective; recorded != nil && recorded.DeletionPolicy == v1alpha1.DeletionPolicyRetain {
		return v1alpha1.DeletionPolicyRetain
	}
	return cmp.Or(class.DeletionPolicy, v1alpha1.DeletionPolicyRetain)
}

// DefaultsFor are the defaults of a class for a store whose streams are live, of
// events and of snapshots, nil for one that does not exist: what counts when a stream
// is made does not change one that exists, nor one that was lost and is made again.
func DefaultsFor(class *v1alpha1.EventStoreClass, store *v1alpha1.EventStore, live []*jetstream.StreamInfo) v1alpha1.Defaults {
	defaults := class.Spec.Defaults
	events, snapshots := live[0], live[1]
	recorded := store.Status.Effective
	if Retained(store, events) || Retained(store, snapshots) {
		defaults.DeletionPolicy = v1alpha1.DeletionPolicyRetain
	}
	switch {
	case events != nil:
		defaults.Storage, defaults.Protection = storageOf(events), v1alpha1.ProtectionErasable
		if events.Config.DenyDelete && events.Config.DenyPurge {
			defaults.Protection = v1alpha1.ProtectionImmutable
		}
	case recorded != nil && WasMade(store):
		defaults.Storage, defaults.Protection = recorded.Storage, recorded.Protection
	case snapshots != nil:
		defaults.Storage = storageOf(snapshots)
	}
	return defaults
}

// WasMade says whether a store has had streams: some are on record, or a loss of them was
// accepted. Those that are lost are off the record from then on until they are begun anew,
// which may take the servers a while.
func WasMade(store *v1alpha1.EventStore) bool {
	return len(store.Status.Streams) > 0 || slices.ContainsFunc(store.Status.Acceptances, func(accepted v1alpha1.Acceptance) bool {
		switch accepted.Reason {
		case v1alpha1.ReasonStreamMissing, v1alpha1.ReasonStreamRecreated, v1alpha1.ReasonStreamPurged, v1alpha1.ReasonStreamRolledBack:
			return true
		}
		return false
	})
}

// Retained says whether a stream is kept by whatever the class says now: this resource has
// not made it, so whoever did has left it, or it is marked so. The mark is written with the
// owner, so that it stands where the status that says the same was taken away, or could not
// be written.
func Retained(store *v1alpha1.EventStore, live *jetstream.StreamInfo) bool {
	if live == nil {
		return false
	}
	owner, named := RecordedOwner(live.Config.Metadata)
	if owner.UID != store.UID || !named {
		return true
	}
	switch v1alpha1.DeletionPolicy(live.Config.Metadata[v1alpha1.MetadataDeletionPolicy]) {
	case v1alpha1.DeletionPolicyDelete:
		return false
	case v1alpha1.DeletionPolicyRetain:
		return true
	}
	// Somebody took the mark away: the status tells, and where there is none nobody does.
	return store.Status.Effective == nil
}

func storageOf(live *jetstream.StreamInfo) v1alpha1.Storage {
	if live.Config.Storage == jetstream.MemoryStorage {
		return v1alpha1.StorageMemory
	}
	return v1alpha1.StorageFile
}
