package memory

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
)

// subscription walks along the log of its store and waits at the end.
type subscription struct {
	store *Store
	opts  eventstore.SubscribeOptions
	// next is the place in the log, and so the sequence before it. Next moves it, and
	// Position looks at it meanwhile.
	next   atomic.Int64
	closed chan struct{}
	close  sync.Once
}

// Subscribe follows the store.
func (s *Store) Subscribe(ctx context.Context, opts eventstore.SubscribeOptions) (eventstore.Subscription, error) {
	if err := opts.Validate(); err != nil {
		return nil, fmt.Errorf("subscribe to events in memory: %w", err)
	}
	if err := ended(ctx); err != nil {
		return nil, fmt.Errorf("subscribe to events in memory: %w", err)
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	if end := uint64(len(s.log)) + 1; opts.FromSequence > end {
		return nil, fmt.Errorf("subscribe to events in memory: %w: the subscription is to begin with sequence %d, and the next that is saved is %d: this store is another than that of the place, or was begun anew; begin from sequence 0",
			eventstore.ErrPlaceAhead, opts.FromSequence, end)
	}
	sub := &subscription{store: s, opts: opts, closed: make(chan struct{})}
	sub.next.Store(int64(s.startAt(opts)))
	return sub, nil
}

// startAt is the place in the log where a subscription begins. The lock is held.
func (s *Store) startAt(opts eventstore.SubscribeOptions) int {
	switch {
	case opts.FromNow:
		return len(s.log)
	case !opts.FromTime.IsZero():
		at, _ := slices.BinarySearchFunc(s.storedAt, opts.FromTime, time.Time.Compare)
		return at
	case opts.FromSequence > 0:
		// A durable subscription may name a place beyond the end.
		return int(min(opts.FromSequence-1, uint64(len(s.log))))
	}
	return 0
}

// Next waits for the next event that passes the filters.
func (s *subscription) Next(ctx context.Context) (eventstore.Event, error) {
	for {
		select {
		case <-s.closed:
			return eventstore.Event{}, fmt.Errorf("follow events in memory: %w", eventstore.ErrSubscriptionClosed)
		default:
		}
		if err := ctx.Err(); err != nil {
			return eventstore.Event{}, fmt.Errorf("follow events in memory: %w", err)
		}
		s.store.mu.RLock()
		log, storedAt, grown := s.store.log, s.store.storedAt, s.store.grown
		s.store.mu.RUnlock()
		for at := int(s.next.Load()); at < len(log); at++ {
			e, stored := &log[at], storedAt[at]
			s.next.Store(int64(at) + 1)
			if !stored.Before(s.opts.FromTime) && s.opts.Matches(e) {
				s.store.opts.Metrics.EventsRead.Add(1)
				return clone(e), nil
			}
		}
		select {
		case <-grown:
		case <-s.closed:
		case <-ctx.Done():
		}
	}
}

// Position is how far the subscription is.
func (s *subscription) Position() (uint64, bool) {
	return uint64(s.next.Load()), !s.opts.FromTime.After(time.Now())
}

// Close ends the subscription.
func (s *subscription) Close() error {
	s.close.Do(func() { close(s.closed) })
	return nil
}
