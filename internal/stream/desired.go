package stream

import (
	"cmp"
	"fmt"
	"strconv"

	"github.com/nats-io/nats.go/jetstream"

	layout "git.flowmade.one/flowmade-one/aether-operator/api/eventstore/jetstream"
	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
)

const (
	// Schema is the version of what is stored and how; see MetadataSchema.
	Schema    = "1"
	unlimited = -1
	// MaxConsumers is how many subscriptions a stream takes, each of which is a
	// consumer: 1,000 pods with a hundred each. It must be a number, since servers
	// from 2.15 on take none at all for 1,000.
	MaxConsumers = 100_000
)

// NewerSchema says whether a schema on record is one that this operator does not
// know, since a newer one wrote it. None at all is from before there was one.
func NewerSchema(recorded string) bool {
	ours, _ := strconv.Atoi(Schema)
	theirs, err := strconv.Atoi(cmp.Or(recorded, "0"))
	return err != nil || theirs > ours
}

// Wanted is one stream as an EventStore asks for it.
type Wanted struct {
	Role   v1alpha1.StreamRole
	Config jetstream.StreamConfig
}

// Desired gives the streams that an EventStore at home there, of a class with
// defaults, asks for, events first. Every field that is ours is set, none is left to a default of
// server or client. An error is a Fault: the spec asks for something that cannot
// be.
func Desired(store *v1alpha1.EventStore, home Home, defaults v1alpha1.Defaults) ([]Wanted, error) {
	s, err := settingsOf(Effective(store, defaults))
	if err != nil {
		return nil, &Fault{Handling: Stall, Reason: v1alpha1.ReasonInvalidSpec, Err: err}
	}
	return []Wanted{
		{Role: v1alpha1.StreamRoleEvents, Config: eventsConfig(store, home, s)},
		{Role: v1alpha1.StreamRoleSnapshots, Config: snapshotsConfig(store, home, s)},
	}, nil
}

// Named are the streams of an EventStore of which nothing is known but their names.
func Named(store *v1alpha1.EventStore) []Wanted {
	return []Wanted{
		{Role: v1alpha1.StreamRoleEvents, Config: jetstream.StreamConfig{Name: store.EventsStreamName()}},
		{Role: v1alpha1.StreamRoleSnapshots, Config: jetstream.StreamConfig{Name: store.SnapshotsStreamName()}},
	}
}

func eventsConfig(store *v1alpha1.EventStore, home Home, s settings) jetstream.StreamConfig {
	name := store.EventsStreamName()
	config := commonConfig(store, home, s)
	config.Name = name
	config.Description = fmt.Sprintf("Events of EventStore %s in namespace %s", store.Name, store.Namespace)
	config.Subjects = []string{layout.EventsSubjects(name)}
	config.MaxAge = s.maxAge
	if s.maxAge != 0 {
		// JetStream allows no window longer than the events themselves are kept.
		config.Duplicates = min(s.duplicateWindow, s.maxAge)
	}
	config.MaxBytes = s.maxBytes
	config.DenyDelete, config.DenyPurge = s.immutable, s.immutable
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

// snapshotsConfig: a snapshot can always be made again of events, so that it may
// be erased where they may not.
func snapshotsConfig(store *v1alpha1.EventStore, home Home, s settings) jetstream.StreamConfig {
	config := commonConfig(store, home, s)
	config.Name = store.SnapshotsStreamName()
	config.Description = fmt.Sprintf("Snapshots of EventStore %s in namespace %s", store.Name, store.Namespace)
	config.Subjects = []string{layout.SnapshotsSubjects(store.EventsStreamName())}
	config.MaxMsgsPerSubject = s.history
	config.MaxBytes = s.snapshotsMaxBytes
	// What is full refuses a new snapshot. To drop an old one would take that of another
	// actor, or what members of durable subscriptions know of each other.
	config.Discard = jetstream.DiscardNew
	return config
}

// commonConfig is what both streams share. Roll-ups, schedules and message TTLs
// stay off: each lets a client that may publish to one subject reach others or
// remove what is stored.
func commonConfig(store *v1alpha1.EventStore, home Home, s settings) jetstream.StreamConfig {
	config := jetstream.StreamConfig{
		Retention:    jetstream.LimitsPolicy,
		MaxConsumers: MaxConsumers,
		MaxMsgs:      unlimited,
		MaxBytes:     unlimited,
		MaxMsgSize:   unlimited,
		Duplicates:   s.duplicateWindow,
		Replicas:     s.replicas,
		Storage:      jetstream.FileStorage,
		Placement:    s.placement,
		AllowDirect:  true,
		Metadata:     OwnerOf(store, home).metadata(s.deletionPolicy),
	}
	switch {
	case s.storage == v1alpha1.StorageMemory:
		// Only files are compressed.
		config.Storage = jetstream.MemoryStorage
	case s.compression == v1alpha1.CompressionS2:
		config.Compression = jetstream.S2Compression
	}
	return config
}
