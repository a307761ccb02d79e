package sidecar

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"connectrpc.com/connect"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
	eventstorev1 "git.flowmade.one/flowmade-one/aether-operator/api/eventstore/v1"
)

// subscriptionBuffer is how many events wait here for Next. More wait in the
// connection, whose flow control holds the sidecar back.
const subscriptionBuffer = 64

// subscription follows a stream, which a goroutine of its own receives: Next
// must be able to give up without losing an event.
type subscription struct {
	store *Store
	items chan item
	// position is that of the last message that Next has taken and that had one, nil
	// before.
	position atomic.Pointer[uint64]
	// failed holds why the stream ended, once items is closed.
	failed error
	cancel context.CancelFunc
	closed chan struct{}
	close  sync.Once
}

// item is what one message holds: an event, an error, or a position alone.
type item struct {
	event    *eventstorev1.Event
	replay   *eventstorev1.ReplayError
	position *uint64
}

// Subscribe follows the store.
func (s *Store) Subscribe(ctx context.Context, opts eventstore.SubscribeOptions) (eventstore.Subscription, error) {
	sub, err := s.subscribe(ctx, opts)
	if err != nil {
		return nil, fmt.Errorf("subscribe to events through the sidecar: %w", err)
	}
	return sub, nil
}

func (s *Store) subscribe(ctx context.Context, opts eventstore.SubscribeOptions) (*subscription, error) {
	if err := opts.Validate(); err != nil {
		return nil, err
	}
	if err := notSent(ctx); err != nil {
		return nil, err
	}
	ctx, done := bounded(ctx)
	defer done()
	// The context is for the call; the stream lives until Close.
	streaming, cancel := context.WithCancel(context.WithoutCancel(ctx))
	release := context.AfterFunc(ctx, cancel)
	stream, err := s.streams.Subscribe(streaming, eventstorev1.FromSubscribe(s.name, opts))
	if err != nil {
		cancel()
		return nil, readError(ctx, err)
	}
	// The first message says that the place to start is fixed.
	if !stream.Receive() || !release() {
		cancel()
		defer func() { _ = stream.Close() }()
		return nil, readError(ctx, whyEnded(stream))
	}
	sub := &subscription{store: s, items: make(chan item, subscriptionBuffer), cancel: cancel, closed: make(chan struct{})}
	sub.passed(stream.Msg().Position)
	go sub.receive(streaming, stream)
	return sub, nil
}

// receive hands over what arrives, until the stream ends.
func (s *subscription) receive(ctx context.Context, stream *connect.ServerStreamForClient[eventstorev1.SubscribeResponse]) {
	defer close(s.items)
	defer func() { _ = stream.Close() }()
	for stream.Receive() {
		select {
		case s.items <- item{event: stream.Msg().GetEvent(), replay: stream.Msg().GetError(), position: stream.Msg().Position}:
		case <-s.closed:
			return
		}
	}
	s.failed = readError(ctx, whyEnded(stream))
}

// whyEnded is the error of a stream that should not have ended.
func whyEnded(stream interface{ Err() error }) error {
	if err := stream.Err(); err != nil {
		return err
	}
	return errors.New("the sidecar ended the stream")
}

// Next waits for the next event.
func (s *subscription) Next(ctx context.Context) (eventstore.Event, error) {
	select {
	case <-s.closed:
		return eventstore.Event{}, fmt.Errorf("follow events through the sidecar: %w", eventstore.ErrSubscriptionClosed)
	default:
	}
	if err := ctx.Err(); err != nil {
		return eventstore.Event{}, fmt.Errorf("follow events through the sidecar: %w", err)
	}
	for {
		select {
		case <-s.closed:
			return eventstore.Event{}, fmt.Errorf("follow events through the sidecar: %w", eventstore.ErrSubscriptionClosed)
		case <-ctx.Done():
			return eventstore.Event{}, fmt.Errorf("follow events through the sidecar: %w", ctx.Err())
		case next, more := <-s.items:
			if !more {
				return eventstore.Event{}, fmt.Errorf("follow events through the sidecar: %w", s.ended())
			}
			s.passed(next.position)
			if next.event != nil || next.replay != nil {
				return s.store.received(next.event, next.replay)
			}
		}
	}
}

// passed remembers the position that a message has.
func (s *subscription) passed(position *uint64) {
	if position != nil {
		s.position.Store(position)
	}
}

// Position is how far the subscription is, as the sidecar has said.
func (s *subscription) Position() (uint64, bool) {
	position := s.position.Load()
	if position == nil {
		return 0, false
	}
	return *position, true
}

// ended is why items is closed.
func (s *subscription) ended() error {
	select {
	case <-s.closed:
		return eventstore.ErrSubscriptionClosed
	default:
		return s.failed
	}
}

// Close ends the subscription.
func (s *subscription) Close() error {
	s.close.Do(func() {
		close(s.closed)
		s.cancel()
	})
	return nil
}
