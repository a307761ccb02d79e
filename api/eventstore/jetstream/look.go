package jetstream

import (
	"context"
	"errors"
	"sync"
	"time"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
)

// leaderLook asks the leader of the events something that any answer will do for. All
// who want to know share one.
type leaderLook struct {
	began time.Time
	// answered is closed when err is known.
	answered chan struct{}
	err      error
}

// lookout has the look that is under way.
type lookout struct {
	mu  sync.Mutex
	now *leaderLook
}

// look begins to ask the leader, or joins who asks already.
func (s *Store) look() *leaderLook {
	s.lookout.mu.Lock()
	defer s.lookout.mu.Unlock()
	if s.lookout.now != nil {
		return s.lookout.now
	}
	l := &leaderLook{began: time.Now(), answered: make(chan struct{})}
	s.lookout.now = l
	go func() {
		ctx, cancel := context.WithTimeout(s.life, DefaultTimeout)
		defer cancel()
		// No message has this subject, and the leader says so at once.
		_, l.err = s.leaderGet(ctx, s.config.EventsStream, getRequest{LastBySubject: s.config.EventsStream + ".check"})
		s.lookout.mu.Lock()
		defer s.lookout.mu.Unlock()
		s.lookout.now = nil
		close(l.answered)
	}()
	return l
}

// leaderAnswers returns when the leader of the events has answered something that it was
// asked after a time, or refuses to.
func (s *Store) leaderAnswers(ctx context.Context, after time.Time) error {
	for {
		l := s.look()
		select {
		case <-l.answered:
		case <-ctx.Done():
			return ctx.Err()
		}
		if l.began.Before(after) || s.nobodyAnswers(l.err) {
			// Where it failed at once, it is not asked in a loop.
			if err := pause(ctx, retryWait); err != nil {
				return err
			}
			continue
		}
		return nil
	}
}

// nobodyAnswers says whether an error is that nobody has answered. What is refused is an
// answer, and of a connection that is closed none will come.
func (s *Store) nobodyAnswers(err error) bool {
	return errors.Is(err, eventstore.ErrUnavailable) && errCode(err) != codeStreamNotFound && !s.nc.IsClosed()
}
