package jetstream

import (
	"golang.org/x/sync/semaphore"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/internal/group"
)

// kept is the memory of events that one coordinator or member has and no application was given.
// The lock of its member guards it.
type kept struct {
	from  []*semaphore.Weighted
	bytes int64
}

// keeping takes from what the Store may take of memory for events that are read ahead.
func (s *Store) keeping() kept {
	var k kept
	for _, from := range []*semaphore.Weighted{s.config.AheadMemory, s.config.Memory} {
		if from != nil {
			k.from = append(k.from, from)
		}
	}
	return k
}

// take takes so many bytes more, if there are any.
func (k *kept) take(n int64) bool {
	for i, from := range k.from {
		if !from.TryAcquire(n) {
			for _, from := range k.from[:i] {
				from.Release(n)
			}
			return false
		}
	}
	k.bytes += n
	return true
}

// leave gives back all but so many bytes.
func (k *kept) leave(n int64) {
	if spare := k.bytes - n; spare > 0 {
		for _, from := range k.from {
			from.Release(spare)
		}
		k.bytes -= spare
	}
}

// size is what an event takes while it is kept.
func (m *message) size() int {
	n := 512 + len(m.Data) + len(m.Subject)
	for key, values := range m.Header {
		for _, value := range values {
			n += len(key) + len(value)
		}
	}
	return n
}

// keep has the event of a hand-out wait in line, where there is room for it. Else the member
// gets it once its application comes for it.
func (d *durable) keep(given *group.Deliver, m *message) {
	if size := m.size(); d.kept.take(int64(size)) {
		given.Payload, given.Size = m, size
	}
}
