package stream

import (
	"cmp"

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

// DefaultsFor are the defaults of a class for a store whose stream of events is
// live, nil for one that does not exist yet: what counts when a stream is made does
// not change one that exists.
func DefaultsFor(class *v1alpha1.EventStoreClass, live *jetstream.StreamInfo) v1alpha1.Defaults {
	defaults := class.Spec.Defaults
	if live == nil {
		return defaults
	}
	defaults.Storage = v1alpha1.StorageFile
	if live.Config.Storage == jetstream.MemoryStorage {
		defaults.Storage = v1alpha1.StorageMemory
	}
	defaults.Protection = v1alpha1.ProtectionErasable
	if live.Config.DenyDelete && live.Config.DenyPurge {
		defaults.Protection = v1alpha1.ProtectionImmutable
	}
	return defaults
}
