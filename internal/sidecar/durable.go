package sidecar

import (
	"context"
	"errors"
	"fmt"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
	eventstorev1 "git.flowmade.one/flowmade-one/aether-operator/api/eventstore/v1"
)

const (
	// maxInHand is the most events that one member may ask for at once.
	maxInHand = 1000
	// defaultInHand is how many it takes where it does not say. The time of an event
	// runs from when it is sent, also while it waits in the client's socket; so one at a
	// time is what a plain loop can keep up with.
	defaultInHand = 1
)

// errNoDurables: the Store has no durable subscriptions.
var errNoDurables = errors.New("the store has no durable subscriptions")

// durableStore is a store that has durable subscriptions, and its name.
type durableStore struct {
	eventstore.DurableStore
	name string
}

func (s *Server) durableStore(name string) (durableStore, error) {
	store, err := s.store(name)
	if err != nil {
		return durableStore{}, err
	}
	durable, ok := store.Store.(eventstore.DurableStore)
	if !ok {
		return durableStore{}, fmt.Errorf("store %s: %w", store.Name, errNoDurables)
	}
	return durableStore{durable, store.Name}, nil
}

// join bounds the call; the membership lives on.
func (s *Server) join(ctx context.Context, store durableStore, opts eventstore.DurableOptions) (eventstore.DurableSubscription, error) {
	ctx, cancel := context.WithTimeout(ctx, s.config.RequestTimeout)
	defer cancel()
	return store.SubscribeDurable(ctx, opts)
}

// durableOptions are those of a request, with what it leaves out.
func durableOptions(request *eventstorev1.SubscribeDurableRequest) (eventstore.DurableOptions, error) {
	opts, err := request.ToOptions()
	if err != nil {
		return opts, err
	}
	if opts.MaxInHand == 0 {
		opts.MaxInHand = defaultInHand
	}
	if opts, err = opts.WithDefaults(); err != nil {
		return opts, err
	}
	if opts.MaxInHand > maxInHand {
		return opts, invalid("maxInHand", "is %d: give at most %d", opts.MaxInHand, maxInHand)
	}
	return opts, nil
}

func (s *service) SubscribeDurable(ctx context.Context, request *eventstorev1.SubscribeDurableRequest, stream *connect.ServerStream[eventstorev1.SubscribeDurableResponse]) error {
	store, err := s.server.durableStore(request.GetStore())
	if err != nil {
		return err
	}
	opts, err := durableOptions(request)
	if err != nil {
		return err
	}
	member, err := s.server.join(ctx, store, opts)
	if err != nil {
		return err
	}
	defer func() { _ = member.Close() }()
	session := s.server.sessions.add(&session{
		store: store, member: member, opts: opts, paused: request.GetPaused(),
	})
	defer s.server.sessions.remove(session)
	if err := stream.Send(session.message()); err != nil {
		return err
	}
	return session.deliver(ctx, stream)
}

// message is what a session is told first.
func (s *session) message() *eventstorev1.SubscribeDurableResponse {
	return &eventstorev1.SubscribeDurableResponse{Item: &eventstorev1.SubscribeDurableResponse_Session{Session: &eventstorev1.DurableSession{
		Session: s.id, AckWait: durationpb.New(s.opts.AckWait), MaxDeliveries: int32(s.opts.MaxDeliveries), MaxInHand: int32(s.opts.MaxInHand),
	}}}
}

// deliver sends what the member gets, until the membership or the stream ends.
func (s *session) deliver(ctx context.Context, stream *connect.ServerStream[eventstorev1.SubscribeDurableResponse]) error {
	account := accountOf(ctx)
	for {
		delivery, err := s.next(ctx)
		if err == nil {
			err = account.met(&delivery.Event, followPages)
		}
		if err != nil {
			return err
		}
		message := &eventstorev1.SubscribeDurableResponse{Item: &eventstorev1.SubscribeDurableResponse_Delivery{Delivery: eventstorev1.FromDelivery(&delivery)}}
		if err := stream.Send(message); err != nil {
			return err
		}
	}
}

func (s *service) StartDeliveries(_ context.Context, request *eventstorev1.StartDeliveriesRequest) (*eventstorev1.StartDeliveriesResponse, error) {
	session, err := s.server.sessions.find(request.GetSession())
	if err != nil {
		return nil, err
	}
	session.begin(request.GetNumber())
	return &eventstorev1.StartDeliveriesResponse{}, nil
}

func (s *service) Acknowledge(ctx context.Context, request *eventstorev1.AcknowledgeRequest) (*eventstorev1.AcknowledgeResponse, error) {
	session, err := s.server.sessions.find(request.GetSession())
	if err != nil {
		return nil, err
	}
	if err := session.settled(request.GetSequence(), session.member.Ack(ctx, request.GetSequence())); err != nil {
		return nil, err
	}
	return &eventstorev1.AcknowledgeResponse{}, nil
}

func (s *service) NegativeAcknowledge(ctx context.Context, request *eventstorev1.NegativeAcknowledgeRequest) (*eventstorev1.NegativeAcknowledgeResponse, error) {
	session, err := s.server.sessions.find(request.GetSession())
	if err != nil {
		return nil, err
	}
	delay, err := request.ToDelay()
	if err != nil {
		return nil, err
	}
	if err := notNegative("delay", int64(delay)); err != nil {
		return nil, err
	}
	if err := session.settled(request.GetSequence(), session.member.Nak(ctx, request.GetSequence(), delay, request.GetReason())); err != nil {
		return nil, err
	}
	return &eventstorev1.NegativeAcknowledgeResponse{}, nil
}

func (s *service) ReleaseDeliveries(ctx context.Context, request *eventstorev1.ReleaseDeliveriesRequest) (*eventstorev1.ReleaseDeliveriesResponse, error) {
	session, err := s.server.sessions.find(request.GetSession())
	if err != nil {
		return nil, err
	}
	if err := session.release(ctx, request); err != nil {
		return nil, err
	}
	return &eventstorev1.ReleaseDeliveriesResponse{}, nil
}

func (s *service) ExtendDelivery(ctx context.Context, request *eventstorev1.ExtendDeliveryRequest) (*eventstorev1.ExtendDeliveryResponse, error) {
	session, err := s.server.sessions.find(request.GetSession())
	if err != nil {
		return nil, err
	}
	if err := session.member.Extend(ctx, request.GetSequence()); err != nil {
		return nil, err
	}
	session.extended(request.GetSequence())
	return &eventstorev1.ExtendDeliveryResponse{}, nil
}

func (s *service) ListParked(ctx context.Context, request *eventstorev1.ListParkedRequest) (*eventstorev1.ListParkedResponse, error) {
	session, err := s.server.sessions.find(request.GetSession())
	if err != nil {
		return nil, err
	}
	parked, err := session.member.Parked(ctx)
	if err != nil {
		return nil, err
	}
	response := &eventstorev1.ListParkedResponse{Parked: make([]*eventstorev1.ParkedEvent, len(parked))}
	for i := range parked {
		response.Parked[i] = eventstorev1.FromParked(parked[i])
	}
	return response, nil
}

func (s *service) ListDurables(ctx context.Context, request *eventstorev1.ListDurablesRequest) (*eventstorev1.ListDurablesResponse, error) {
	store, err := s.server.durableStore(request.GetStore())
	if err != nil {
		return nil, err
	}
	names, err := store.ListDurables(ctx)
	if err != nil {
		return nil, err
	}
	return &eventstorev1.ListDurablesResponse{Names: names}, nil
}

func (s *service) GetDurableStatus(ctx context.Context, request *eventstorev1.GetDurableStatusRequest) (*eventstorev1.GetDurableStatusResponse, error) {
	store, err := s.server.durableStore(request.GetStore())
	if err != nil {
		return nil, err
	}
	status, err := store.GetDurableStatus(ctx, request.GetName())
	if err != nil {
		return nil, err
	}
	return &eventstorev1.GetDurableStatusResponse{Status: eventstorev1.FromDurableStatus(status)}, nil
}

func (s *service) ReplayParked(ctx context.Context, request *eventstorev1.ReplayParkedRequest) (*eventstorev1.ReplayParkedResponse, error) {
	session, err := s.server.sessions.find(request.GetSession())
	if err != nil {
		return nil, err
	}
	marked, err := session.member.Replay(ctx, request.GetSequences()...)
	if err != nil {
		return nil, err
	}
	return &eventstorev1.ReplayParkedResponse{Marked: int32(marked)}, nil
}

func (s *service) DeleteDurable(ctx context.Context, request *eventstorev1.DeleteDurableRequest) (*eventstorev1.DeleteDurableResponse, error) {
	store, err := s.server.durableStore(request.GetStore())
	if err != nil {
		return nil, err
	}
	if err := store.DeleteDurable(ctx, request.GetName()); err != nil {
		return nil, err
	}
	return &eventstorev1.DeleteDurableResponse{}, nil
}
