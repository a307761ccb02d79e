package jetstream

import (
	"context"
	"fmt"
	"io"

	"github.com/nats-io/nats.go"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
)

// StoredSubscription receives EventStored notifications from the server.
type StoredSubscription struct {
	store    *Store
	received *eventstore.BusSubscription
	sub      *nats.Subscription
}

var _ io.Closer = (*StoredSubscription)(nil)

// SubscribeStored receives a notification for each event that is stored from now
// on, whoever saves it: the server republishes the headers of what it has
// stored. The filters are those of opts, which must not name a place to start.
// At most buffer notifications wait to be received.
//
// They cost a save nothing, and come at most once: a notification is lost when
// the connection is, or while other servers of a cluster do not know yet that
// somebody listens, some milliseconds after the call. Who must not miss an event
// uses Subscribe.
func (s *Store) SubscribeStored(ctx context.Context, opts eventstore.SubscribeOptions, buffer int) (*StoredSubscription, error) {
	sub, err := s.subscribeStored(ctx, opts, buffer)
	if err != nil {
		return nil, fmt.Errorf("subscribe to the notifications of stream %s: %w", s.config.EventsStream, err)
	}
	return sub, nil
}

func (s *Store) subscribeStored(ctx context.Context, opts eventstore.SubscribeOptions, buffer int) (*StoredSubscription, error) {
	if err := opts.Validate(); err != nil {
		return nil, err
	}
	if opts.FromSequence != 0 || !opts.FromTime.IsZero() {
		return nil, &eventstore.InvalidEventError{Field: "fromSequence", Reason: "cannot be given, nor a time: notifications begin now; Subscribe begins where it is told to"}
	}
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	if ctx.Err() != nil {
		return nil, ended(ctx)
	}
	bus := &eventstore.Bus{}
	stored := &StoredSubscription{store: s, received: bus.Subscribe(eventstore.InternalNamespace, buffer)}
	var err error
	stored.sub, err = s.nc.Subscribe(s.subjectsOf("stored", opts), func(msg *nats.Msg) {
		// What another program writes is no event, and nothing to notify.
		event, err := decodeEvent(&message{Subject: msg.Subject, Header: msg.Header})
		if err == nil && s.isRepublished(msg) && opts.Matches(&event) {
			bus.Publish(eventstore.InternalNamespace, eventstore.EventStored{
				EventID: event.ID, ActorID: event.ActorID, Version: event.Version, Timestamp: event.Timestamp,
			})
		}
	})
	if err == nil {
		err = s.nc.FlushWithContext(ctx)
	}
	if err != nil {
		_ = stored.Close()
		return nil, fmt.Errorf("%w: %w", eventstore.ErrUnavailable, err)
	}
	return stored, s.register(stored)
}

// isRepublished says whether the server has republished a message of the stream.
// Who may read another stream can have what it holds sent here, as an answer: but
// the server says of that which stream it is from, last, or where to acknowledge.
func (s *Store) isRepublished(msg *nats.Msg) bool {
	return msg.Reply == "" && lastValue(msg.Header, headerStream) == s.config.EventsStream
}

// C is where the notifications arrive. Close closes it.
func (s *StoredSubscription) C() <-chan eventstore.EventStored { return s.received.C() }

// Missed is how many notifications did not fit into the buffer.
func (s *StoredSubscription) Missed() int64 { return s.received.Missed() }

// Close stops receiving. It may be called more than once.
func (s *StoredSubscription) Close() error {
	if s.sub != nil {
		// It fails when it is closed already, or the connection is.
		_ = s.sub.Unsubscribe()
	}
	s.received.Close()
	s.store.unregister(s)
	return nil
}
