package stream

import (
	"maps"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
)

// Memory is how streams were when they were last seen, since the process started.
// A status is written only now and then: without it, what was stored after that
// and is gone would not be missed.
type Memory struct {
	mu      sync.Mutex
	streams map[key]Seen
}

type key struct{ class, stream string }

// Seen is one stream as it was last seen.
type Seen struct {
	Created         time.Time
	Messages, Bytes uint64
	LastSequence    uint64
	// MaxBytes is how much it may take on each server, 0 for no limit.
	MaxBytes uint64
	// Lag is how many operations the replica that is furthest behind lacks.
	Lag uint64
}

// NewMemory makes an empty one.
func NewMemory() *Memory { return &Memory{streams: map[key]Seen{}} }

// Note remembers how a stream of a class is, unless it has gone back: then the
// place where it was stays, until Forget.
func (m *Memory) Note(class string, live *jetstream.StreamInfo) {
	now := Seen{
		Created: live.Created, Messages: live.State.Msgs, Bytes: live.State.Bytes, LastSequence: live.State.LastSeq,
		MaxBytes: uint64(max(live.Config.MaxBytes, 0)),
	}
	if live.Cluster != nil {
		for _, replica := range live.Cluster.Replicas {
			now.Lag = max(now.Lag, replica.Lag)
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	k := key{class, live.Config.Name}
	if before, known := m.streams[k]; known && before.Created.Equal(now.Created) {
		now.LastSequence = max(now.LastSequence, before.LastSequence)
	}
	m.streams[k] = now
}

// Seen gives a stream as it was last seen.
func (m *Memory) Seen(class, stream string) (Seen, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	seen, known := m.streams[key{class, stream}]
	return seen, known
}

// Raise gives what a status records of a stream, brought up to the last sequence
// that was seen of that same stream, where that is higher.
func (m *Memory) Raise(class string, recorded v1alpha1.StreamStatus) v1alpha1.StreamStatus {
	seen, known := m.Seen(class, recorded.Name)
	if known && sameTime(recorded.Created, seen.Created) && seen.LastSequence > uint64(recorded.LastSequence) {
		recorded.LastSequence, recorded.Messages = int64(seen.LastSequence), max(recorded.Messages, int64(seen.Messages))
	}
	return recorded
}

// Forget forgets a stream.
func (m *Memory) Forget(class, stream string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.streams, key{class, stream})
}

// Keep forgets the streams of a class but those that are to be kept.
func (m *Memory) Keep(class string, kept map[string]bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	maps.DeleteFunc(m.streams, func(k key, _ Seen) bool { return k.class == class && !kept[k.stream] })
}
