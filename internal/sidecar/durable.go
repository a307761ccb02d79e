package sidecar

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"time"

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

// errNoSession: what a call names is no session, or it has ended.
var errNoSession = errors.New("no such session")

// errNoDurables: the Store has no durable subscriptions.
var errNoDurables = errors.New("the store has no durable subscriptions")

// session is a membership in a durable subscription, for as long as its stream.
type session struct {
	id     string
	store  durableStore
	member eventstore.DurableSubscription
	opts   eventstore.DurableOptions

	mu sync.Mutex
	// paused: it is delivered nothing. unask ends the wait for an event.
	paused bool
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

// begin has deliveries begin, or go on.
func (s *session) begin() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.paused = false
	s.change()
}

// change wakes who waits for room. The lock is held.
func (s *session) change() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// release takes back what the client has not begun.
func (s *session) release(ctx context.Context, sequences []uint64, pause bool) error {
	s.mu.Lock()
	s.paused = s.paused || pause
	if pause && s.unask != nil {
		s.unask()
	}
	for _, sequence := range sequences {
		delete(s.inHand, sequence)
	}
	s.change()
	s.mu.Unlock()
	return s.member.Release(ctx, sequences...)
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

// hold begins the time of an event in hand, or begins it anew.
func (s *session) hold(sequence uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.inHand[sequence] = time.Now().Add(s.opts.AckWait)
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
	session.begin()
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
	if err := session.release(ctx, request.GetSequences(), request.GetPause()); err != nil {
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
	session.hold(request.GetSequence())
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
