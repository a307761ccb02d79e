package sidecar

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"time"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
	eventstorev1 "git.flowmade.one/flowmade-one/aether-operator/api/eventstore/v1"
)

// errNoSession: what a call names is no session, or it has ended.
var errNoSession = errors.New("no such session")

// session is a membership in a durable subscription, for as long as its stream.
type session struct {
	id     string
	store  durableStore
	member eventstore.DurableSubscription
	opts   eventstore.DurableOptions

	mu sync.Mutex
	// paused: it is delivered nothing, as the call of number turn has said. unask ends the
	// wait for an event.
	paused bool
	turn   uint64
	unask  context.CancelFunc
	// inHand are the events that were sent and are not settled, and when their time
	// is over: then they are delivered again, and take no room.
	inHand map[uint64]time.Time
	// changed is closed when there may be room, and replaced.
	changed chan struct{}
}

// sessions are those whose streams are open. An id is as good as a password:
// only who opened the stream knows it.
type sessions struct {
	mu   sync.Mutex
	open map[string]*session
}

func (s *sessions) add(added *session) *session {
	added.id, added.inHand, added.changed = rand.Text(), map[uint64]time.Time{}, make(chan struct{})
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open == nil {
		s.open = map[string]*session{}
	}
	s.open[added.id] = added
	return added
}

func (s *sessions) remove(gone *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, gone.id)
}

func (s *sessions) find(id string) (*session, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if found := s.open[id]; found != nil {
		return found, nil
	}
	return nil, fmt.Errorf("%w: %.100q: the stream of SubscribeDurable has ended, or never began: join again", errNoSession, id)
}

// inTime says whether a call that says whether to deliver is not behind a later one. The
// lock is held.
func (s *session) inTime(number uint64) bool {
	if number == 0 {
		return true
	}
	if number <= s.turn {
		return false
	}
	s.turn = number
	return true
}

// begin has deliveries begin, or go on.
func (s *session) begin(number uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.inTime(number) {
		s.paused = false
		s.change()
	}
}

// change wakes who waits for room. The lock is held.
func (s *session) change() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// release takes back what the client has not begun. What comes too late may be about events
// that it has been sent once more.
func (s *session) release(ctx context.Context, request *eventstorev1.ReleaseDeliveriesRequest) error {
	s.mu.Lock()
	if request.GetPause() && !s.inTime(request.GetNumber()) {
		s.mu.Unlock()
		return nil
	}
	s.paused = s.paused || request.GetPause()
	if request.GetPause() && s.unask != nil {
		s.unask()
	}
	for _, sequence := range request.GetSequences() {
		delete(s.inHand, sequence)
	}
	s.change()
	s.mu.Unlock()
	return s.member.Release(ctx, request.GetSequences()...)
}

// next waits until the session has room for an event, and then for the event.
func (s *session) next(ctx context.Context) (eventstore.Delivery, error) {
	for {
		wait, changed := s.room(time.Now())
		if wait <= 0 {
			if delivery, err := s.ask(ctx); err == nil || ctx.Err() != nil || !errors.Is(err, context.Canceled) {
				return delivery, err
			}
			continue
		}
		timer := time.NewTimer(wait)
		select {
		case <-changed:
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
		if ctx.Err() != nil {
			return eventstore.Delivery{}, ctx.Err()
		}
	}
}

// ask waits for an event, until one comes or the session is paused.
func (s *session) ask(ctx context.Context) (eventstore.Delivery, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s.mu.Lock()
	s.unask = cancel
	if s.paused {
		cancel()
	}
	s.mu.Unlock()
	delivery, err := s.member.Next(ctx)
	if err == nil {
		s.hold(delivery.Event.Sequence)
	}
	return delivery, err
}

// room says after how long there is room for an event at the latest, 0 for now,
// and what is closed when there is sooner.
func (s *session) room(now time.Time) (wait time.Duration, sooner chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	wait = s.opts.AckWait
	for sequence, until := range s.inHand {
		if !until.After(now) {
			delete(s.inHand, sequence)
			continue
		}
		wait = min(wait, until.Sub(now))
	}
	if len(s.inHand) < s.opts.MaxInHand && !s.paused {
		return 0, s.changed
	}
	return wait, s.changed
}

// hold begins the time of an event in hand.
func (s *session) hold(sequence uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.inHand[sequence] = time.Now().Add(s.opts.AckWait)
}

// extended begins it anew, unless it was settled meanwhile.
func (s *session) extended(sequence uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, has := s.inHand[sequence]; has {
		s.inHand[sequence] = time.Now().Add(s.opts.AckWait)
	}
}

// settled makes room again once an event is out of the hand, by this or because
// its time was over.
func (s *session) settled(sequence uint64, err error) error {
	if err != nil && !errors.Is(err, eventstore.ErrNotInHand) {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, had := s.inHand[sequence]; had {
		delete(s.inHand, sequence)
		s.change()
	}
	return err
}
