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
	// LastSequence and LastTime are those of the newest message.
	LastSequence uint64
	LastTime     time.Time
	// MaxBytes is how much it may take on each server, 0 for no limit.
	MaxBytes uint64
	// Lag is how many operations the replica that is furthest behind lacks.
	Lag uint64
	// lost: its loss is on record.
	lost bool
	// session is the one in which the stream was seen to go on from the place where it was.
	session Session
}

// NewMemory makes an empty one.
func NewMemory() *Memory { return &Memory{streams: map[key]Seen{}} }

// Note remembers how a stream of a class is, unless it has gone back: then the
// place where it was stays, until Forget. In the session of the connection it is seen
// to go on from what is on record.
func (m *Memory) Note(class string, live *jetstream.StreamInfo, session Session) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.note(class, live, session)
}

// NoteUnjudged is Note where nobody has compared the stream with what is on record. It
// takes the place of no other stream of that name that held messages, which may be lost.
// Where the stream was is remembered as it was, unless it goes on in the same session: in
// another one its servers may have come back with less, and have been written to since.
func (m *Memory) NoteUnjudged(class string, live *jetstream.StreamInfo, session Session) {
	m.mu.Lock()
	defer m.mu.Unlock()
	before, known := m.streams[key{class, live.Config.Name}]
	same := before.Created.Equal(live.Created)
	switch {
	case known && same && before.session == session:
		m.note(class, live, session)
	case known && !same && before.LastSequence > 0 && !before.lost:
	default:
		now := seenNow(live)
		now.LastSequence, now.LastTime = 0, time.Time{}
		if known && same {
			now.LastSequence, now.LastTime, now.session = before.LastSequence, before.LastTime, before.session
		}
		m.streams[key{class, live.Config.Name}] = now
	}
}

func (m *Memory) note(class string, live *jetstream.StreamInfo, session Session) {
	k, now := key{class, live.Config.Name}, seenNow(live)
	now.session = session
	if before, known := m.streams[k]; known && before.Created.Equal(now.Created) && before.LastSequence > now.LastSequence {
		now.LastSequence, now.LastTime = before.LastSequence, before.LastTime
	}
	m.streams[k] = now
}

// GoesOn says whether a stream was seen in this session to go on from the place that is on
// record, or is there still. recorded is nil for a stream of which nothing is on record.
func (m *Memory) GoesOn(class string, recorded *v1alpha1.StreamStatus, live *jetstream.StreamInfo, session Session) bool {
	if recorded == nil || recorded.LastSequence == 0 || uint64(recorded.LastSequence) == live.State.LastSeq && sameTime(recorded.LastTime, live.State.LastTime) {
		return true
	}
	seen, known := m.Seen(class, live.Config.Name)
	return known && seen.Created.Equal(live.Created) && seen.session == session
}

// Doubt notes that a stream was made, changed or deleted: what is there may be a backup,
// and goes on only from the place where it was until a pass has looked.
func (m *Memory) Doubt(class, stream string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	k := key{class, stream}
	if seen, known := m.streams[k]; known {
		seen.session = Session{}
		m.streams[k] = seen
	}
}

// NoteFirst remembers that a stream has held a message since a time: the stream may be
// gone before anybody looks at it again. What was stored before it was made is of
// another one of that name.
func (m *Memory) NoteFirst(class, stream string, at time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	k := key{class, stream}
	if seen, known := m.streams[k]; known && seen.LastSequence == 0 && !at.Before(seen.Created) {
		seen.Messages, seen.LastSequence, seen.LastTime = 1, 1, at
		m.streams[k] = seen
	}
}

// NoteLost remembers how a stream is whose loss is on record: it raises nothing, since
// what is saved to it now does not bring back what it held.
func (m *Memory) NoteLost(class string, live *jetstream.StreamInfo) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := seenNow(live)
	now.lost = true
	m.streams[key{class, live.Config.Name}] = now
}

func seenNow(live *jetstream.StreamInfo) Seen {
	now := Seen{
		Created: live.Created, Messages: live.State.Msgs, Bytes: live.State.Bytes, LastSequence: live.State.LastSeq, LastTime: live.State.LastTime,
		MaxBytes: uint64(max(live.Config.MaxBytes, 0)),
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
	seen, known := m.Seen(class, recorded.Name)
	if known && !seen.lost && sameTime(recorded.Created, seen.Created) && seen.LastSequence > uint64(recorded.LastSequence) {
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
