package jetstream

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
)

// How a subscription asks the server for messages.
const (
	// heartbeat is how often the server says that it is there while it has no
	// message. Two that are missing mean that the request or the consumer is lost.
	// The default of the client would notice after 10 seconds, and on a replicated
	// stream the first request is lost about once in a hundred times.
	heartbeat = 500 * time.Millisecond
	// ahead is how many messages are asked for before they are needed: the next
	// half of them is on its way while the first is worked on.
	ahead = 2 * pageMessages
	// pullExpires is how long one request for messages holds.
	pullExpires = 30 * time.Second
	// inactiveThreshold is how long the server keeps a consumer that nobody asks:
	// one that is lost or closed is gone soon after. One whose subscriber works
	// for longer on a single event is made again.
	inactiveThreshold = 10*time.Second + pullExpires
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

	// mu is held by Next, and by Close once life has ended.
	mu sync.Mutex
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
	// answers puts into arrived what arrives; nil when a consumer must be made.
	answers *nats.Subscription
	arrived chan *nats.Msg
	// silence tells that nothing has arrived for two heartbeats.
	silence *time.Timer
	// consumer is the name of the consumer, delivered the number of messages that
	// it has sent, stored when the last of them was, and wanted how many more it may.
	consumer  string
	delivered uint64
	stored    time.Time
	wanted    int
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
	sub := &subscription{store: s, opts: opts, filter: s.subjectsOf("events", opts), next: next, begun: opts.FromSequence > 0, leavesOut: leavesOut}
	if opts.FromTime.After(time.Now()) {
		sub.notBefore = opts.FromTime
	}
	// Not of ctx, which is for this call.
	sub.life, sub.end = context.WithCancel(context.WithoutCancel(ctx))
	sub.silence = time.NewTimer(2 * heartbeat)
	if err := sub.start(ctx); err != nil {
		sub.end()
		return nil, err
	}
	sub.begun = sub.begun || opts.FromNow || !opts.FromTime.IsZero()
	return sub, s.register(sub)
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

// start makes the consumer, trying until the context ends.
func (s *subscription) start(ctx context.Context) error {
	s.stop()
	config := orderedConsumer(s.filter, s.next)
	info, err := s.store.makeConsumer(ctx, config)
	if err != nil {
		return err
	}
	if err := s.place(ctx, info); err != nil {
		return err
	}
	// All that is asked for has room, and so have heartbeats: what does not fit is
	// dropped, and found missing.
	arrived := make(chan *nats.Msg, 2*ahead)
	answers, err := s.store.nc.ChanSubscribe(s.store.nc.NewInbox(), arrived)
	if err != nil {
		return fmt.Errorf("%w: %w", eventstore.ErrUnavailable, err)
	}
	s.answers, s.arrived, s.consumer, s.delivered, s.wanted = answers, arrived, config.Name, 0, 0
	return s.pull()
}

// orderedConsumer is one that nobody acknowledges to, from a sequence on.
func orderedConsumer(filter string, next uint64) consumerConfig {
	return consumerConfig{
		Name: "aether-" + rand.Text(), DeliverPolicy: "by_start_sequence", StartSequence: next, FilterSubject: filter,
		AckPolicy: "none", ReplayPolicy: "instant", Inactive: inactiveThreshold, Replicas: 1, Memory: true,
	}
}

// stop gives the consumer up. The server removes it soon: whoever deletes one
// needs a permission more.
func (s *subscription) stop() {
	if s.answers != nil {
		// It fails when the connection is closed, and then there is nothing to do.
		_ = s.answers.Unsubscribe()
		s.answers = nil
	}
}

// pull asks for messages when half of what was asked for has come.
func (s *subscription) pull() error {
	more := ahead - s.wanted
	if more < ahead/2 {
		return nil
	}
	s.wanted += more
	return s.store.askForMessages(s.consumer, s.answers.Subject, messagesRequest{Batch: more, MaxBytes: s.store.config.ReadAheadBytes})
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
			if err := s.restart(ctx); err != nil {
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
		s.next, s.begun = m.Sequence+1, true
		if s.stored.Before(s.notBefore) {
			continue
		}
		s.notBefore = time.Time{}
		return m, nil
	}
}

// restart makes a consumer again, for as long as the stream is there and the
// context lasts.
func (s *subscription) restart(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.life, cancel)()
	for {
		try, cancel := context.WithTimeout(ctx, tryTimeout)
		err := s.start(try)
		cancel()
		if err == nil {
			return nil
		}
		if s.store.nc.IsClosed() || errCode(err) == codeStreamNotFound || !errors.Is(err, eventstore.ErrUnavailable) {
			return err
		}
		if err := pause(ctx, retryWait); err != nil {
			return err
		}
	}
}

// take waits for one message of the consumer. Without one and without an error
// the caller goes on: with a new consumer where there is none any more.
func (s *subscription) take(ctx context.Context) (*message, error) {
	var msg *nats.Msg
	select {
	case msg = <-s.arrived:
	default:
		s.silence.Reset(2 * heartbeat)
		select {
		case msg = <-s.arrived:
		case <-s.silence.C:
			s.stop()
			return nil, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-s.life.Done():
			return nil, s.life.Err()
		}
	}
	if msg.Header.Get("Status") != "" && !isDelivered(msg) {
		return nil, s.heed(msg)
	}
	metadata, err := msg.Metadata()
	if err != nil || metadata.Sequence.Consumer != s.delivered+1 {
		// Messages got lost on the way, or came from elsewhere.
		s.stop()
		return nil, nil
	}
	s.delivered++
	s.stored = metadata.Timestamp
	s.wanted--
	return &message{
		Subject: msg.Subject, Sequence: metadata.Sequence.Stream, Header: msg.Header, Data: msg.Data, Time: metadata.Timestamp,
	}, s.pull()
}

// heed does what a message without an event asks for.
func (s *subscription) heed(msg *nats.Msg) error {
	description := strings.ToLower(msg.Header.Get("Description"))
	switch code := msg.Header.Get("Status"); {
	case code == "100":
		s.passed(msg.Header)
	case code == "404", code == "408", code == "409" && (strings.Contains(description, "batch completed") || strings.Contains(description, "maxbytes")):
		// A request has come to its end before it had all that it asked for.
		unmet, err := strconv.Atoi(msg.Header.Get("Nats-Pending-Messages"))
		if err != nil {
			s.stop()
			return nil
		}
		s.wanted -= unmet
		return s.pull()
	default:
		s.stop()
	}
	return nil
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
