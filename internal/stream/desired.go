package stream

import (
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	layout "git.flowmade.one/flowmade-one/aether-operator/api/eventstore/jetstream"
	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
)

const (
	// schema is the version of what is stored and how; see MetadataSchema.
	schema = "1"
	// duplicateWindow is how long JetStream remembers the id of an event. Longer
	// costs the servers memory for each event; what comes again later is found
	// through the actor's own events.
	duplicateWindow = 2 * time.Minute
	// snapshotHistory is how many snapshots of an actor are kept.
	snapshotHistory = 1
	unlimited       = -1
)

// Wanted is one stream as an EventStore asks for it.
type Wanted struct {
	Role   v1alpha1.StreamRole
	Config jetstream.StreamConfig
}

// Desired gives the streams that an EventStore asks for, events first. Every
// field that is ours is set, none is left to a default of server or client. An
// error is a Fault: the spec asks for something that cannot be.
func Desired(store *v1alpha1.EventStore) ([]Wanted, error) {
	maxAge, err := ParseMaxAge(store.Spec.Retention.MaxAge)
	if err != nil {
		return nil, &Fault{Handling: Stall, Reason: v1alpha1.ReasonInvalidSpec, Err: err}
	}
	return []Wanted{
		{Role: v1alpha1.StreamRoleEvents, Config: eventsConfig(store, maxAge)},
		{Role: v1alpha1.StreamRoleSnapshots, Config: snapshotsConfig(store)},
	}, nil
}

func eventsConfig(store *v1alpha1.EventStore, maxAge time.Duration) jetstream.StreamConfig {
	name := store.EventsStreamName()
	config := commonConfig(store)
	config.Name = name
	config.Description = fmt.Sprintf("Events of EventStore %s in namespace %s", store.Name, store.Namespace)
	config.Subjects = []string{layout.EventsSubjects(name)}
	config.MaxAge = maxAge
	if maxAge != 0 {
		// JetStream allows no window longer than the events themselves are kept.
		config.Duplicates = min(duplicateWindow, maxAge)
	}
	config.MaxMsgsPerSubject = unlimited
	// A full store refuses new events and never drops old ones.
	config.Discard = jetstream.DiscardNew
	config.AllowAtomicPublish = true
	config.RePublish = &jetstream.RePublish{
		Source:      layout.EventsSubjects(name),
		Destination: layout.StoredSubjects(name),
		HeadersOnly: true,
	}
	return config
}

func snapshotsConfig(store *v1alpha1.EventStore) jetstream.StreamConfig {
	config := commonConfig(store)
	config.Name = store.SnapshotsStreamName()
	config.Description = fmt.Sprintf("Snapshots of EventStore %s in namespace %s", store.Name, store.Namespace)
	config.Subjects = []string{layout.SnapshotsSubjects(store.EventsStreamName())}
	config.MaxMsgsPerSubject = snapshotHistory
	config.Discard = jetstream.DiscardOld
	return config
}

// commonConfig is what both streams share. Roll-ups, schedules and message TTLs
// stay off: each lets a client that may publish to one subject reach others or
// remove what is stored.
func commonConfig(store *v1alpha1.EventStore) jetstream.StreamConfig {
	config := jetstream.StreamConfig{
		Retention:    jetstream.LimitsPolicy,
		MaxConsumers: unlimited,
		MaxMsgs:      unlimited,
		MaxBytes:     unlimited,
		MaxMsgSize:   unlimited,
		Duplicates:   duplicateWindow,
		Replicas:     int(store.Spec.Replicas),
		Storage:      jetstream.FileStorage,
		Compression:  jetstream.S2Compression,
		AllowDirect:  true,
		Metadata:     OwnerOf(store).metadata(),
	}
	if store.Spec.Storage == v1alpha1.StorageMemory {
		config.Storage = jetstream.MemoryStorage
		// Only files are compressed.
		config.Compression = jetstream.NoCompression
	}
	return config
}
