package sidecar

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
	eventstorev1 "git.flowmade.one/flowmade-one/aether-operator/api/eventstore/v1"
)

// durable is the membership in a durable subscription. The sidecar sends what
// the member may have in hand, and a goroutine receives it; what no Next has
// asked for yet waits here, and its time is extended meanwhile.
type durable struct {
	store   *Store
	opts    eventstore.DurableOptions
	session string
	// life ends with Close, or with what ended the stream.
	life       context.Context
	end        context.CancelCauseFunc
	background sync.WaitGroup

	// starting holds one while the sidecar is told to deliver, or not to. turn counts these
	// calls: one that is late behind the next changes nothing.
	starting chan struct{}
	started  bool
	turn     uint64

	mu   sync.Mutex
	line []*waiting
	// waiting is how many calls of Next there are, and asked when there was one last.
	waiting int
	asked   time.Time
	// acked are events that are done, the newest of them: what of them was sent before
	// that was known does not come.
	acked map[uint64]bool
	// changed is closed when line has grown, and replaced.
	changed chan struct{}
}

var _ eventstore.DurableStore = (*Store)(nil)

// SubscribeDurable joins a durable subscription, which lives in the sidecar's
// store.
func (s *Store) SubscribeDurable(ctx context.Context, opts eventstore.DurableOptions) (eventstore.DurableSubscription, error) {
	d, err := s.join(ctx, opts)
	if err != nil {
		return nil, fmt.Errorf("join durable subscription %.100q through the sidecar: %w", opts.Name, err)
	}
	return d, nil
}

func (s *Store) join(ctx context.Context, opts eventstore.DurableOptions) (*durable, error) {
	opts, err := opts.WithDefaults()
	if err != nil {
		return nil, err
	}
	if err := notSent(ctx); err != nil {
		return nil, err
	}
	ctx, done := bounded(ctx)
	defer done()
	// The context is for the call; the stream lives until Close.
	life, end := context.WithCancelCause(context.WithoutCancel(ctx))
	release := context.AfterFunc(ctx, func() { end(ctx.Err()) })
	request := eventstorev1.FromDurable(s.name, opts)
	// The first Next starts the deliveries: who only looks at what is parked takes
	// none.
	request.Paused = true
	stream, err := s.streams.SubscribeDurable(life, request)
	if err != nil {
		end(err)
		return nil, readError(ctx, err)
	}
	if !stream.Receive() || !release() {
		end(nil)
		defer func() { _ = stream.Close() }()
		return nil, readError(ctx, whyEnded(stream))
	}
	joined := stream.Msg().GetSession()
	opts.AckWait = joined.GetAckWait().AsDuration()
	d := &durable{store: s, opts: opts, session: joined.GetSession(), life: life, end: end, starting: make(chan struct{}, 1), changed: make(chan struct{})}
	d.background.Go(func() { d.receive(stream) })
	d.background.Go(d.keepLine)
	return d, nil
}

// DeleteDurable forgets a durable subscription.
func (s *Store) DeleteDurable(ctx context.Context, name string) error {
	if err := s.deleteDurable(ctx, name); err != nil {
		return fmt.Errorf("delete durable subscription %.100q through the sidecar: %w", name, err)
	}
	return nil
}

func (s *Store) deleteDurable(ctx context.Context, name string) error {
	if err := eventstore.ValidateDurableName(name); err != nil {
		return err
	}
	if err := notSent(ctx); err != nil {
		return err
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
	if _, err := s.client.DeleteDurable(ctx, &eventstorev1.DeleteDurableRequest{Store: s.name, Name: name}); err != nil {
		return settleError(ctx, err)
	}
	return nil
}

// Next waits for the next event.
func (d *durable) Next(ctx context.Context) (eventstore.Delivery, error) {
	const what = "wait for the next event"
	d.come(1)
	defer d.come(-1)
	if err := d.activate(ctx); err != nil {
		return eventstore.Delivery{}, d.failed(what, err)
	}
	for {
		d.mu.Lock()
		var next *waiting
		if d.life.Err() == nil && ctx.Err() == nil {
			next = d.first()
		}
		changed := d.changed
		d.mu.Unlock()
		if next != nil {
			d.store.opts.Metrics.EventsRead.Add(1)
			return next.Delivery, nil
		}
		select {
		case <-changed:
		case <-d.life.Done():
			return eventstore.Delivery{}, d.failed(what, context.Cause(d.life))
		case <-ctx.Done():
			return eventstore.Delivery{}, d.failed(what, ctx.Err())
		}
	}
}

func (d *durable) failed(what string, err error) error {
	return fmt.Errorf("%s of durable subscription %.100q through the sidecar: %w", what, d.opts.Name, err)
}

// call makes a call of the session, in bounded time, as long as that lasts.
func (d *durable) call(ctx context.Context, do func(context.Context) error) error {
	if d.life.Err() != nil {
		return context.Cause(d.life)
	}
	if err := notSent(ctx); err != nil {
		return err
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
	err := do(ctx)
	if err == nil {
		return nil
	}
	err = settleError(ctx, err)
	if !errors.Is(err, errNoSession) {
		return err
	}
	// The stream has ended, and says why.
	select {
	case <-d.life.Done():
		return context.Cause(d.life)
	case <-ctx.Done():
		return err
	}
}

func (d *durable) settle(ctx context.Context, what string, sequence uint64, do func(context.Context) error) error {
	if err := d.call(ctx, do); err != nil {
		return d.failed(fmt.Sprintf("%s event %d", what, sequence), err)
	}
	return nil
}

// Ack says that an event is done.
func (d *durable) Ack(ctx context.Context, sequence uint64) error {
	err := d.settle(ctx, "acknowledge", sequence, func(ctx context.Context) error {
		_, err := d.store.client.Acknowledge(ctx, &eventstorev1.AcknowledgeRequest{Session: d.session, Sequence: sequence})
		return err
	})
	if err == nil {
		d.acknowledged(sequence)
	}
	return err
}

// maxAcked bounds how many events are remembered that are done.
const maxAcked = 4096

func (d *durable) acknowledged(sequence uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.acked == nil || len(d.acked) >= maxAcked {
		d.acked = map[uint64]bool{}
	}
	d.acked[sequence] = true
	d.leaveLine(sequence)
}

// Nak gives an event back.
func (d *durable) Nak(ctx context.Context, sequence uint64, delay time.Duration, reason string) error {
	return d.settle(ctx, "give back", sequence, func(ctx context.Context) error {
		_, err := d.store.client.NegativeAcknowledge(ctx, &eventstorev1.NegativeAcknowledgeRequest{
			Session: d.session, Sequence: sequence, Delay: durationpb.New(max(delay, 0)), Reason: strings.ToValidUTF8(reason, "?"),
		})
		return err
	})
}

// Release gives events back that were not begun.
func (d *durable) Release(ctx context.Context, sequences ...uint64) error {
	if err := d.letGo(ctx, &eventstorev1.ReleaseDeliveriesRequest{Session: d.session, Sequences: sequences}); err != nil {
		return d.failed("release events", err)
	}
	return nil
}

func (d *durable) letGo(ctx context.Context, request *eventstorev1.ReleaseDeliveriesRequest) error {
	return d.call(ctx, func(ctx context.Context) error {
		_, err := d.store.client.ReleaseDeliveries(ctx, request)
		return err
	})
}

// Extend starts the time of an event anew.
func (d *durable) Extend(ctx context.Context, sequence uint64) error {
	return d.settle(ctx, "extend the time of", sequence, func(ctx context.Context) error {
		_, err := d.store.client.ExtendDelivery(ctx, &eventstorev1.ExtendDeliveryRequest{Session: d.session, Sequence: sequence})
		return err
	})
}

// Parked lists what is parked.
func (d *durable) Parked(ctx context.Context) ([]eventstore.Parked, error) {
	var parked []eventstore.Parked
	err := d.call(ctx, func(ctx context.Context) error {
		response, err := d.store.client.ListParked(ctx, &eventstorev1.ListParkedRequest{Session: d.session})
		if err != nil {
			return err
		}
		for _, message := range response.GetParked() {
			p, err := message.ToParked()
			if err != nil {
				return err
			}
			parked = append(parked, p)
		}
		return nil
	})
	if err != nil {
		return nil, d.failed("list what is parked", err)
	}
	return parked, nil
}

// Replay delivers parked events again.
func (d *durable) Replay(ctx context.Context, sequences ...uint64) (int, error) {
	var marked int
	err := d.call(ctx, func(ctx context.Context) error {
		response, err := d.store.client.ReplayParked(ctx, &eventstorev1.ReplayParkedRequest{Session: d.session, Sequences: sequences})
		marked = int(response.GetMarked())
		return err
	})
	if err != nil {
		return 0, d.failed("replay what is parked", err)
	}
	return marked, nil
}

// Close ends the membership. The sidecar gives back what it has in hand.
func (d *durable) Close() error {
	d.end(eventstore.ErrSubscriptionClosed)
	d.background.Wait()
	return nil
}

// settleError is the error of a call that changes something and can be made
// again.
func settleError(ctx context.Context, err error) error {
	if answered, ok := answer(err); ok {
		return withContext(ctx, answered)
	}
	if notDialed(err) {
		return withContext(ctx, fmt.Errorf("%w: %w", eventstore.ErrUnavailable, err))
	}
	return withContext(ctx, fmt.Errorf("%w: %w: do the same again", eventstore.ErrUnknownOutcome, err))
}

// notDialed says whether a call failed before anything was sent.
func notDialed(err error) bool {
	var dial *net.OpError
	return errors.As(err, &dial) && dial.Op == "dial"
}
