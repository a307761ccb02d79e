package jetstream

import (
	"errors"
	"time"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
)

const (
	// keepAgain is how long after a pass that failed the next one is made, at most.
	keepAgain = 30 * time.Second
	// keepForever is how long after it was seen that events do not expire this is looked
	// at again.
	keepForever = time.Hour
)

// startKeeping begins to keep the latest versions of actors in the background, for as long
// as the Store is open. A Store that saves calls it once.
func (s *Store) startKeeping() {
	if !s.versionsKept.CompareAndSwap(false, true) || s.config.OperatorMakesConsumers {
		// It may not ask for the age of events: the operator keeps.
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.background.Go(s.keepVersions)
	}
}

func (s *Store) keepVersions() {
	log := s.opts.Logger.With("stream", s.config.EventsStream)
	failing := false
	for {
		kept, err := s.KeepVersions(s.life, KeepOptions{})
		switch {
		case s.life.Err() != nil:
			return
		case errors.Is(err, eventstore.ErrPermissionDenied):
			log.Info("the latest versions of actors whose events expire are left to the operator to keep", "reason", err)
			return
		case err != nil && !failing:
			log.Warn("the latest versions of actors whose events expire cannot be kept, and this is tried again", "error", err)
		case err == nil && failing:
			log.Info("the latest versions of actors whose events expire are kept again")
		}
		failing = err != nil
		// Spread, so that of many Stores one comes first and does it.
		if pause(s.life, untilNextPass(kept, err)) != nil {
			return
		}
	}
}

// untilNextPass is the mean time until the next pass of a Store that keeps by itself.
func untilNextPass(kept KeptVersions, err error) time.Duration {
	switch {
	case err != nil && kept.MaxAge == 0:
		return keepAgain
	case err != nil:
		return min(keepAgain, keepPause(kept.MaxAge))
	case kept.MaxAge == 0:
		return keepForever
	}
	return max(kept.Next, minKeepPause)
}
