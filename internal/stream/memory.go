package stream

import (
	"maps"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

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
	// LastSequence and LastTime are the place of the newest message when the stream was last
	// seen to go on from where it was before, see OvertakenOf.
	LastSequence uint64
	LastTime     time.Time
	// Subjects is how many subjects it had there.
	Subjects uint64
	// MaxBytes is how much it may take on each server, 0 for no limit.
	MaxBytes uint64
	// Lag is how many operations the replica that is furthest behind lacks.
	Lag uint64
	// lost: its loss is on record.
	lost bool
}

// NewMemory makes an empty one.
func NewMemory() *Memory { return &Memory{streams: map[key]Seen{}} }

// Note remembers how a stream of a class is, which is at the place that is on record, or
// was seen to go on from there. If it has gone back the place stays, until Forget.
func (m *Memory) Note(class string, live *jetstream.StreamInfo) {
	m.mu.Lock()
	defer m.mu.Unlock()
	k, now := key{class, live.Config.Name}, seenNow(live)
	if before, known := m.streams[k]; known && before.Created.Equal(now.Created) && before.LastSequence > now.LastSequence {
		now = now.at(before)
	}
	m.streams[k] = now
}

// NoteUnjudged is Note where nobody has compared the stream with what is on record: the
// place stays as it was. It takes the place of no other stream of that name that held
// messages, which may be lost.
func (m *Memory) NoteUnjudged(class string, live *jetstream.StreamInfo) {
	m.mu.Lock()
	defer m.mu.Unlock()
	k, now := key{class, live.Config.Name}, seenNow(live)
	before := m.streams[k]
	same := before.Created.Equal(live.Created)
	if !same && before.LastSequence > 0 && !before.lost {
		return
	}
	now = now.at(Seen{})
	if same {
		now = now.at(before)
		now.lost = before.lost
	}
	m.streams[k] = now
}

// NoteFirst remembers that a stream has held a message: the stream may be gone before
// anybody looks at it again. What was stored before it was made is of another one of that
// name.
func (m *Memory) NoteFirst(class, stream string, first Stored) {
	m.mu.Lock()
	defer m.mu.Unlock()
	k := key{class, stream}
	if seen, known := m.streams[k]; known && seen.LastSequence == 0 && !first.Time.Before(seen.Created) {
		seen.Messages, seen.LastSequence, seen.LastTime = 1, first.Sequence, first.Time
		m.streams[k] = seen
	}
}

// NoteLost remembers how a stream is whose loss is on record: it does not raise what it
// held before, which is not brought back by what is saved to it now. The place where it is
// now counts since then, as that of Note.
func (m *Memory) NoteLost(class string, live *jetstream.StreamInfo) {
	m.mu.Lock()
	defer m.mu.Unlock()
	k, now := key{class, live.Config.Name}, seenNow(live)
	if before := m.streams[k]; before.lost && before.Created.Equal(now.Created) && before.LastSequence > now.LastSequence {
		now = now.at(before)
	}
	now.lost = true
	m.streams[k] = now
}

// at is a stream with the place of another.
func (s Seen) at(place Seen) Seen {
	s.LastSequence, s.LastTime, s.Subjects = place.LastSequence, place.LastTime, place.Subjects
	return s
}

func seenNow(live *jetstream.StreamInfo) Seen {
	now := Seen{
		Created: live.Created, Messages: live.State.Msgs, Bytes: live.State.Bytes, LastSequence: live.State.LastSeq, LastTime: live.State.LastTime,
		Subjects: live.State.NumSubjects, MaxBytes: uint64(max(live.Config.MaxBytes, 0)),
	}
	if live.Cluster != nil {
		for _, replica := range live.Cluster.Replicas {
			now.Lag = max(now.Lag, replica.Lag)
		}
	}
	return now
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
	return m.raise(class, recorded, false)
}

// RaiseSince is Raise for what is on record of a stream since its loss was told, see
// PlaceSince.
func (m *Memory) RaiseSince(class string, since v1alpha1.StreamStatus) v1alpha1.StreamStatus {
	return m.raise(class, since, true)
}

func (m *Memory) raise(class string, recorded v1alpha1.StreamStatus, lost bool) v1alpha1.StreamStatus {
	seen, known := m.Seen(class, recorded.Name)
	if !known || seen.lost != lost || !sameTime(recorded.Created, seen.Created) || seen.LastSequence < uint64(recorded.LastSequence) {
		return recorded
	}
	if recorded.Role == v1alpha1.StreamRoleSnapshots {
		recorded.Subjects = int64(seen.Subjects)
	}
	if seen.LastSequence > uint64(recorded.LastSequence) {
		recorded.LastSequence, recorded.Messages = int64(seen.LastSequence), max(recorded.Messages, int64(seen.Messages))
		last := metav1.NewMicroTime(seen.LastTime.Truncate(time.Microsecond))
		recorded.LastTime = &last
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
