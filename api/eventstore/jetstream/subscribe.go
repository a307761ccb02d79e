package jetstream

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
)

// subscription is an ordered consumer: one in the server's memory, made again
// after the last event delivered whenever anything is amiss.
//
// The client library has one as well. It asks for messages in a goroutine of
// its own and makes a consumer again without regard to the context of who
// waits; here all happens inside Next.
type subscription struct {
	store  *Store
	opts   eventstore.SubscribeOptions
	filter string
	// life ends with Close.
	life context.Context
	end  context.CancelFunc

	// mu is held by Next, and by Close once life has ended. placed is held besides where
	// next and notBefore change: Position looks at them while Next waits.
	mu, placed sync.Mutex
	// next is the first sequence that was not delivered, and begun says that none may
	// be left out from there on, as may be before the first there is.
	next  uint64
	begun bool
	// leavesOut: what has expired before it was delivered is left out.
	leavesOut bool
	// onPassed is told up to where the server has found nothing more, nil for nobody.
	onPassed func(through uint64)
	// notBefore is the time to come with which the subscription begins, zero for none.
	notBefore time.Time
	// making is where the consumer comes that is being made; nil when none is.
	making chan madeConsumer
	// answers puts into arrived what arrives; nil when a consumer must be made.
	answers *nats.Subscription
	arrived chan *nats.Msg
	// consumer is the name of the consumer, delivered the number of messages that
	// it has sent, stored when the last of them was, and wanted how many more it may.
	consumer  string
	delivered uint64
	stored    time.Time
	wanted    int
	quiet     quiet
}

// Subscribe follows the store. Filters on actors are the server's work, one on
// event types is done here.
func (s *Store) Subscribe(ctx context.Context, opts eventstore.SubscribeOptions) (eventstore.Subscription, error) {
	sub, err := s.subscribe(ctx, opts, false)
	if err != nil {
		return nil, fmt.Errorf("subscribe to stream %s: %w", s.config.EventsStream, err)
	}
	return sub, nil
}

// subscribe begins a subscription. One that leavesOut goes on with what is left where
// events have expired, and is not told.
func (s *Store) subscribe(ctx context.Context, opts eventstore.SubscribeOptions, leavesOut bool) (*subscription, error) {
	if err := opts.Validate(); err != nil {
		return nil, err
	}
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	if ctx.Err() != nil {
		return nil, ended(ctx)
	}
	next, err := s.startOf(ctx, opts)
	if err != nil {
		return nil, err
	}
	sub := &subscription{store: s, opts: opts, filter: s.filterOf(opts), next: next, begun: opts.FromSequence > 0, leavesOut: leavesOut}
	if opts.FromTime.After(time.Now()) {
		sub.notBefore = opts.FromTime
	}
	// Not of ctx, which is for this call.
	sub.life, sub.end = context.WithCancel(context.WithoutCancel(ctx))
	sub.quiet = newQuiet()
	if err := sub.use(sub.make(ctx)); err != nil {
		sub.end()
		return nil, err
	}
	sub.begun = sub.begun || opts.FromNow || !opts.FromTime.IsZero()
	return sub, s.register(sub)
}

// filterOf is the subject of what passes the filters on actors, empty for all that the
// stream has: with a filter the server would count what passes, and take no save meanwhile.
func (s *Store) filterOf(opts eventstore.SubscribeOptions) string {
	if opts.ActorID == "" && opts.ActorType == "" {
		return ""
	}
	return s.subjectsOf("events", opts)
}

// subjectsOf is the subject of one kind of what passes the filters on actors.
func (s *Store) subjectsOf(kind string, opts eventstore.SubscribeOptions) string {
	prefix := s.config.EventsStream + "." + kind + "."
	switch {
	case opts.ActorID != "":
		return prefix + actorTokens(opts.ActorID)
	case opts.ActorType != "":
		return prefix + EncodeToken(opts.ActorType) + ".*"
	}
	return prefix + ">"
}

// startAt is the sequence of the first event that was stored at a time or later,
// and where the time is zero or there is none, of the next that is stored.
func (s *Store) startAt(ctx context.Context, at time.Time) (uint64, error) {
	// First the end: what is stored meanwhile comes after it.
	last, err := s.leaderGet(ctx, s.config.EventsStream, getRequest{LastBySubject: ">"})
	if err != nil || last == nil {
		return 1, err
	}
	if at = at.UTC(); !at.IsZero() && at.Before(time.Unix(0, 0)) {
		// The server counts nanoseconds in 64 bits, and takes a time before 1678 for
		// one far away. No message is as old as that.
		return 1, nil
	}
	if !at.IsZero() && at.Before(time.Unix(0, math.MaxInt64)) {
		first, err := s.leaderGet(ctx, s.config.EventsStream, getRequest{StartTime: &at, NextBySubject: ">"})
		if err != nil {
			return 0, err
		}
		if first != nil {
			return first.Sequence, nil
		}
	}
	return last.Sequence + 1, nil
}

// Next waits for the next event that passes the filters.
func (s *subscription) Next(ctx context.Context) (eventstore.Event, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	event, err := s.wait(ctx)
	var replay *eventstore.ReplayError
	switch {
	case err == nil:
		s.store.opts.Metrics.EventsRead.Add(1)
		return event, nil
	case errors.As(err, &replay):
		s.store.opts.Metrics.ReplayErrors.Add(1)
		return eventstore.Event{}, replay
	case s.life.Err() != nil:
		err = eventstore.ErrSubscriptionClosed
	case ctx.Err() != nil:
		err = ctx.Err()
	}
	return eventstore.Event{}, fmt.Errorf("follow stream %s from sequence %d: %w", s.store.config.EventsStream, s.next, err)
}

// wait takes messages until one is for the subscriber.
func (s *subscription) wait(ctx context.Context) (eventstore.Event, error) {
	for {
		m, err := s.takeNext(ctx)
		if err != nil {
			return eventstore.Event{}, err
		}
		event, err := decodeEvent(m)
		if err != nil {
			return eventstore.Event{}, m.malformed(err)
		}
		if s.opts.Matches(&event) {
			return event, nil
		}
	}
}

// nextMessage waits for the next message that passes the filters. One that is no
// event comes with what is wrong with it; without a message the error is that of
// the subscription.
func (s *subscription) nextMessage(ctx context.Context) (*message, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		m, err := s.takeNext(ctx)
		if err != nil {
			return nil, err
		}
		event, err := decodeEvent(m)
		if err != nil || s.opts.Matches(&event) {
			return m, err
		}
	}
}

// takeNext takes the next message that was not taken.
func (s *subscription) takeNext(ctx context.Context) (*message, error) {
	for {
		if err := errors.Join(ctx.Err(), s.life.Err()); err != nil {
			return nil, err
		}
		if s.answers == nil {
			if err := s.remake(ctx); err != nil {
				return nil, err
			}
		}
		m, err := s.take(ctx)
		if err != nil {
			return nil, err
		}
		if m == nil || m.Sequence < s.next {
			continue
		}
		if err := s.skips(ctx, m.Sequence); err != nil {
			return nil, err
		}
		early := s.stored.Before(s.notBefore) || !strings.HasPrefix(m.Subject, eventsPrefix(s.store.config.EventsStream))
		s.moveTo(m.Sequence+1, !early)
		s.begun = true
		if early {
			continue
		}
		return m, nil
	}
}

// Close ends the subscription.
func (s *subscription) Close() error {
	s.end()
	// Next returns as soon as life has ended.
	s.mu.Lock()
	s.stop()
	s.mu.Unlock()
	s.store.unregister(s)
	return nil
}
