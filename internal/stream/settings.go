package stream

import (
	"cmp"
	"fmt"
	"math"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"k8s.io/apimachinery/pkg/api/resource"

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

// settings are what an EventStore asks for, with every default filled in.
type settings struct {
	maxAge, duplicateWindow time.Duration
	maxBytes                int64
	replicas                int
	storage                 v1alpha1.Storage
	compression             v1alpha1.Compression
	placement               *jetstream.Placement
	history                 int64
	immutable               bool
}

// settingsOf fills in, for what the store leaves out, the defaults of its class
// and then those of Aether.
func settingsOf(spec *v1alpha1.EventStoreSpec, class v1alpha1.Defaults) (settings, error) {
	s := settings{
		replicas:    int(cmp.Or(spec.Replicas, class.Replicas, 1)),
		storage:     cmp.Or(spec.Storage, class.Storage, v1alpha1.StorageFile),
		compression: cmp.Or(spec.Compression, class.Compression, v1alpha1.CompressionS2),
		maxBytes:    unlimited,
		history:     int64(cmp.Or(spec.Snapshots.History, 1)),
		immutable:   spec.Protection == v1alpha1.ProtectionImmutable,
	}
	var err error
	if s.maxAge, err = ParseMaxAge(cmp.Or(spec.Retention.MaxAge, class.Retention.MaxAge, defaultMaxAge)); err != nil {
		return s, err
	}
	if s.duplicateWindow, err = parseDuration("duplicateWindow", cmp.Or(spec.DuplicateWindow, defaultDuplicateWindow)); err != nil {
		return s, err
	}
	if quantity := cmp.Or(spec.Retention.MaxBytes, class.Retention.MaxBytes); quantity != nil {
		if s.maxBytes, err = bytesOf(quantity); err != nil {
			return s, err
		}
	}
	if p := cmp.Or(spec.Placement, class.Placement); p != nil && (p.Cluster != "" || len(p.Tags) > 0) {
		s.placement = &jetstream.Placement{Cluster: p.Cluster, Tags: p.Tags}
	}
	return s, nil
}

func bytesOf(quantity *resource.Quantity) (int64, error) {
	if quantity.Sign() <= 0 || quantity.CmpInt64(math.MaxInt64) >= 0 {
		return 0, fmt.Errorf("retention.maxBytes %s is not a number of bytes that JetStream can count: write 1 to less than 8Ei, such as 10Gi", quantity)
	}
	return quantity.Value(), nil
}

// StorageOf is where a stream that exists is kept: a default that counts when a
// stream is made does not change it.
func StorageOf(live *jetstream.StreamInfo) v1alpha1.Storage {
	if live.Config.Storage == jetstream.MemoryStorage {
		return v1alpha1.StorageMemory
	}
	return v1alpha1.StorageFile
}
