package jetstream

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
)

// Headers of a heartbeat: how many messages the consumer has sent, and up to which
// sequence of the stream it has looked.
const (
	headerLastConsumer = "Nats-Last-Consumer"
	headerLastStream   = "Nats-Last-Stream"
)

// place finds out where a new consumer begins, and refuses a place that is gone or
// not there yet. The server says both without another request, but for a place at
// the end of the stream.
func (s *subscription) place(ctx context.Context, info *consumerInfo) (next uint64, err error) {
	next = s.next
	if first := info.Delivered.Stream + 1; first > next {
		if s.begun && !s.leavesOut {
			return 0, errPlaceExpired(next, first)
		}
		next = first
	}
	if next == 1 || !s.begun || info.Pending > 0 {
		return next, nil
	}
	end, err := s.store.endOf(ctx)
	if err == nil && next > end {
		err = fmt.Errorf("%w: the subscription is to go on with sequence %d, and the next that is saved is %d: this store is another than that of the place, or has lost events; begin anew from sequence 0",
			eventstore.ErrPlaceAhead, next, end)
	}
	return next, err
}

func errPlaceExpired(next, first uint64) error {
	return fmt.Errorf("%w: the subscription is to go on with sequence %d, and the first that is stored is %d: what is between has expired; begin anew from sequence 0, with what is left",
		eventstore.ErrPlaceExpired, next, first)
}

// endOf is the sequence of the next message that is stored.
func (s *Store) endOf(ctx context.Context) (uint64, error) {
	last, err := s.leaderGet(ctx, s.config.EventsStream, getRequest{LastBySubject: ">"})
	if err != nil {
		return 0, err
	}
	if last != nil {
		return last.Sequence + 1, nil
	}
	// An empty stream tells where it ends only to a consumer, which begins there.
	config := orderedConsumer("", 1)
	config.Inactive = lookInactive
	_, info, err := s.makeConsumer(ctx, config)
	if err != nil {
		return 0, err
	}
	return info.Delivered.Stream + 1, nil
}

// skips refuses to go on where events have expired that were to come next. Only a
// subscription to all events knows: others have gaps by their filter.
func (s *subscription) skips(ctx context.Context, sequence uint64) error {
	if sequence == s.next || !s.begun || s.leavesOut || s.opts.ActorID != "" || s.opts.ActorType != "" {
		return nil
	}
	first, err := s.store.leaderGet(ctx, s.store.config.EventsStream, getRequest{Sequence: 1, NextBySubject: ">"})
	if err != nil || first == nil || first.Sequence <= s.next {
		// What was erased one by one was meant to be gone.
		return err
	}
	return errPlaceExpired(s.next, first.Sequence)
}

// passed moves the place to where the consumer has found nothing more that passes
// the filter, when all that it has sent has arrived.
func (s *subscription) passed(heartbeat nats.Header) {
	sent, err := strconv.ParseUint(heartbeat.Get(headerLastConsumer), 10, 64)
	if err != nil || sent != s.delivered {
		return
	}
	if last, err := strconv.ParseUint(heartbeat.Get(headerLastStream), 10, 64); err == nil {
		s.moveTo(max(s.next, last+1), false)
		s.begun = true
		if s.onPassed != nil {
			s.onPassed(last)
		}
	}
}

// moveTo moves the place, and says whether the time has come with which the subscription
// begins.
func (s *subscription) moveTo(next uint64, begins bool) {
	s.placed.Lock()
	defer s.placed.Unlock()
	if s.next = next; begins {
		s.notBefore = time.Time{}
	}
}

// Position is how far the subscription is.
func (s *subscription) Position() (uint64, bool) {
	s.placed.Lock()
	defer s.placed.Unlock()
	return s.next - 1, !s.notBefore.After(time.Now())
}
