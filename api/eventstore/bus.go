package eventstore

import (
	"sync"
	"sync/atomic"
	"time"
)

// InternalNamespace is the Bus namespace of EventStored notifications.
const InternalNamespace = "__internal__"

// EventStored says that an event has been stored.
type EventStored struct {
	// EventID, ActorID and Version are those of the event.
	EventID string
	ActorID string
	Version int64
	// Timestamp is the event's.
	Timestamp time.Time
}

// Bus hands EventStored notifications to subscribers in the same process. It
// never blocks who publishes: a subscriber that is behind by its whole buffer
// misses notifications, and is told how many. The zero value is ready.
type Bus struct {
	mu            sync.RWMutex
	subscriptions map[*BusSubscription]struct{}
}

// BusSubscription receives the notifications of one namespace, or of all.
type BusSubscription struct {
	bus       *Bus
	namespace string
	stored    chan EventStored
	missed    atomic.Int64
	close     sync.Once
}

// AllNamespaces subscribes to every namespace of a Bus.
const AllNamespaces = "*"

// Subscribe starts to receive what is published in a namespace, or in all of
// them with AllNamespaces. At most buffer notifications wait to be received.
func (b *Bus) Subscribe(namespace string, buffer int) *BusSubscription {
	s := &BusSubscription{bus: b, namespace: namespace, stored: make(chan EventStored, max(buffer, 1))}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.subscriptions == nil {
		b.subscriptions = map[*BusSubscription]struct{}{}
	}
	b.subscriptions[s] = struct{}{}
	return s
}

// Publish hands a notification to all who subscribe to the namespace, and
// returns at once.
func (b *Bus) Publish(namespace string, notification EventStored) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	for s := range b.subscriptions {
		if s.namespace != namespace && s.namespace != AllNamespaces {
			continue
		}
		select {
		case s.stored <- notification:
		default:
			s.missed.Add(1)
		}
	}
}

// C is where the notifications arrive. Close closes it.
func (s *BusSubscription) C() <-chan EventStored { return s.stored }

// Missed is how many notifications did not fit into the buffer.
func (s *BusSubscription) Missed() int64 { return s.missed.Load() }

// Close stops receiving. It may be called more than once.
func (s *BusSubscription) Close() {
	s.close.Do(func() {
		// Under the lock no Publish is between finding s and sending to it.
		s.bus.mu.Lock()
		defer s.bus.mu.Unlock()
		delete(s.bus.subscriptions, s)
		close(s.stored)
	})
}
