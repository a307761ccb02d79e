// Package openport is for ports that strangers reach: it bounds what they take of them.
package openport

import (
	"context"
	"sync"
	"time"
)

// sharedFor is how long it counts what a look found, from its beginning.
const sharedFor = time.Second

// Shared looks once a second at most, for all who want to know: whoever reaches a port may
// ask, and a look takes time, or costs others something.
type Shared[T any] struct {
	find func() T

	mu sync.Mutex
	// latest is the look that counts, and may be under way; before is that before it.
	latest, before *look[T]
}

type look[T any] struct {
	began time.Time
	// done is closed when found is there.
	done  chan struct{}
	found T
}

// Share shares what find finds. It has a deadline of its own and no context: whoever has it
// look may be gone before the others are.
func Share[T any](find func() T) *Shared[T] { return &Shared[T]{find: find} }

// Found is what was found within a second, or is found now. The error is that of the context
// of one who waits no longer.
func (s *Shared[T]) Found(ctx context.Context) (T, error) {
	latest, _ := s.look()
	return latest.wait(ctx)
}

// FoundOrBefore is Found, but who comes while a look is under way does not wait for it where
// there was one before: what that found is told instead, however long ago.
func (s *Shared[T]) FoundOrBefore(ctx context.Context) (T, error) {
	latest, before := s.look()
	if before != nil && !latest.over() {
		return before.found, nil
	}
	return latest.wait(ctx)
}

// look gives the look that counts, and begins one where there is none. Who has it begun has
// none before it.
func (s *Shared[T]) look() (latest, before *look[T]) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if s.latest != nil && (!s.latest.over() || now.Sub(s.latest.began) < sharedFor) {
		return s.latest, s.before
	}
	begun := &look[T]{began: now, done: make(chan struct{})}
	s.latest, s.before = begun, s.latest
	go func() {
		defer close(begun.done)
		begun.found = s.find()
	}()
	return begun, nil
}

func (l *look[T]) over() bool {
	select {
	case <-l.done:
		return true
	default:
		return false
	}
}

func (l *look[T]) wait(ctx context.Context) (found T, err error) {
	select {
	case <-l.done:
		return l.found, nil
	case <-ctx.Done():
		return found, ctx.Err()
	}
}
