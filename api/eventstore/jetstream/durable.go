package jetstream

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/internal/group"
)

// durable is the membership in a durable subscription. Package group decides what
// it does, and what its coordinator does where it is that too; here is what
// carries messages and records.
type durable struct {
	store *Store
	opts  eventstore.DurableOptions
	id    string
	key   string
	// over ends with Close, or with what makes the membership impossible; life ends
	// once what it had is given back.
	over       context.Context
	end        context.CancelCauseFunc
	life       context.Context
	stop       context.CancelFunc
	background sync.WaitGroup
	closing    sync.Once

	own, group *nats.Subscription
	// poke wakes run.
	poke chan struct{}

	mu     sync.Mutex
	member *group.Member
	// lead is what the member knows as the coordinator, nil where it is none.
	lead *lead
	// looking: the record is being read. look: it is to be.
	looking, look bool
	// seen is the record as it was read last.
	seen   uint64
	looked time.Time
	// told is called once the group knows that the member has ended.
	told func()
	// kept is the memory of the events that wait in line.
	kept kept
	// changed is closed when Next may find something, and replaced.
	changed chan struct{}
}

var _ eventstore.DurableStore = (*Store)(nil)

// SubscribeDurable joins a durable subscription. Its record is in the snapshots
// stream.
func (s *Store) SubscribeDurable(ctx context.Context, opts eventstore.DurableOptions) (eventstore.DurableSubscription, error) {
	d, err := s.join(ctx, opts)
	if err != nil {
		return nil, fmt.Errorf("join durable subscription %.100q of stream %s: %w", opts.Name, s.config.EventsStream, err)
	}
	return d, nil
}

func (s *Store) join(ctx context.Context, opts eventstore.DurableOptions) (*durable, error) {
	opts, err := opts.WithDefaults()
	if err != nil {
		return nil, err
	}
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	d := &durable{store: s, opts: opts, id: rand.Text(), changed: make(chan struct{}), poke: make(chan struct{}, 1), kept: s.keeping()}
	main, sequence, err := s.openDurable(ctx, opts)
	if err != nil {
		return nil, err
	}
	d.key = main.Key
	d.member = group.NewMember(d.id, min(opts.MaxInHand, int(s.nc.MaxPayload())/heldOnWire), opts.AckWait, opts.MaxDeliveries)
	d.member.Depart(s.departures(d.key))
	// Not of ctx, which is for this call.
	d.over, d.end = context.WithCancelCause(context.WithoutCancel(ctx))
	d.life, d.stop = context.WithCancel(context.WithoutCancel(ctx))
	if err := d.listen(); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	d.mu.Lock()
	d.found(main, sequence)
	d.spawn(d.run)
	d.mu.Unlock()
	return d, s.register(d)
}

// openDurable answers the record of a durable subscription, and makes it where
// there is none.
func (s *Store) openDurable(ctx context.Context, opts eventstore.DurableOptions) (*group.Main, uint64, error) {
	for {
		main, sequence, err := s.readMain(ctx, opts.Name)
		if err != nil {
			return nil, 0, err
		}
		if main != nil && !main.Deleted {
			return main, sequence, sameFilters(main, opts)
		}
		made, err := s.newMain(ctx, opts, main)
		if err != nil {
			return nil, 0, err
		}
		sequence, err = s.replace(ctx, durableSubject(s.config.EventsStream, opts.Name), sequence, group.Encode(*made))
		if !errors.Is(err, errReplaced) {
			return made, sequence, err
		}
		// Another member was first.
	}
}

func (s *Store) newMain(ctx context.Context, opts eventstore.DurableOptions, before *group.Main) (*group.Main, error) {
	start, err := s.startOf(ctx, opts.SubscribeOptions)
	if err != nil {
		return nil, err
	}
	made := &group.Main{
		Epoch: 1, Key: rand.Text(), ActorType: opts.ActorType, ActorID: opts.ActorID, EventType: opts.EventType,
		AckWait: opts.AckWait, MaxDeliveries: opts.MaxDeliveries, Top: start - 1,
	}
	if before != nil {
		// What is left of an earlier one of this name in the shards is no part of it.
		made.Epoch, made.Shards = before.Epoch+1, before.Shards
	}
	return made, nil
}

func sameFilters(main *group.Main, opts eventstore.DurableOptions) error {
	if main.ActorType == opts.ActorType && main.ActorID == opts.ActorID && main.EventType == opts.EventType {
		return nil
	}
	return &eventstore.InvalidEventError{Field: "durable", Reason: fmt.Sprintf(
		"%.100q delivers actor type %.100q, actor %.100q and event type %.100q, not %.100q, %.100q and %.100q: give other filters another name",
		opts.Name, main.ActorType, main.ActorID, main.EventType, opts.ActorType, opts.ActorID, opts.EventType)}
}

// Next waits for the next event.
func (d *durable) Next(ctx context.Context) (eventstore.Delivery, error) {
	const what = "wait for the next event"
	d.mu.Lock()
	d.member.Enter(time.Now())
	d.mu.Unlock()
	defer func() {
		d.mu.Lock()
		d.member.Exit(time.Now())
		d.mu.Unlock()
	}()
	for {
		if err := context.Cause(d.over); err != nil {
			return eventstore.Delivery{}, d.failed(what, err)
		}
		if ctx.Err() != nil {
			return eventstore.Delivery{}, d.failed(what, ctx.Err())
		}
		d.mu.Lock()
		d.speak(time.Now())
		next, came := d.nextInLine(time.Now())
		changed := d.changed
		d.mu.Unlock()
		if next != nil {
			delivery, err := d.open(ctx, next, came)
			if err != nil || delivery != nil {
				return d.handed(delivery, err)
			}
			continue
		}
		select {
		case <-changed:
		case <-d.over.Done():
		case <-ctx.Done():
		}
	}
}

// nextInLine is the next hand-out for the application and its event, nil where that did not
// come along. What it is given the member keeps no more. The lock is held.
func (d *durable) nextInLine(now time.Time) (*group.Delivery, *message) {
	next := d.member.Next(now)
	if next == nil {
		return nil, nil
	}
	d.kept.leave(int64(d.member.Kept()))
	came, _ := next.Payload.(*message)
	next.Payload = nil
	return next, came
}

func (d *durable) handed(delivery *eventstore.Delivery, err error) (eventstore.Delivery, error) {
	if err != nil {
		return eventstore.Delivery{}, d.failed("get the next event", err)
	}
	d.store.opts.Metrics.EventsRead.Add(1)
	return *delivery, nil
}

// open answers the event of a hand-out, got from the stream where it did not come
// along; nil where there is none any more, which is settled then, or it came too late.
func (d *durable) open(ctx context.Context, next *group.Delivery, m *message) (*eventstore.Delivery, error) {
	if m == nil {
		var err error
		get, cancel := d.store.bounded(ctx)
		m, err = d.store.leaderGet(get, d.store.config.EventsStream, getRequest{Sequence: next.Sequence})
		cancel()
		if err != nil {
			d.mu.Lock()
			d.member.PutBack(next)
			d.mu.Unlock()
			return nil, d.passes(ctx, err)
		}
		d.mu.Lock()
		still := d.member.InHand(time.Now(), next)
		d.mu.Unlock()
		if !still {
			// It took so long that another may have it, or has done it.
			return nil, nil
		}
	}
	if m == nil {
		// It has expired, or was erased.
		return nil, d.rid(ctx, group.Request{Kind: group.KindAck, Sequence: next.Sequence})
	}
	event, err := decodeEvent(m)
	if err != nil {
		return nil, d.rid(ctx, group.Request{Kind: group.KindPark, Sequence: next.Sequence, Reason: fmt.Sprintf("it is no event: %v", err)})
	}
	return &eventstore.Delivery{Event: event, Attempt: next.Attempt}, nil
}

// rid settles what no application can have. If another has it meanwhile, that does.
func (d *durable) rid(ctx context.Context, request group.Request) error {
	_, err := d.ask(ctx, request)
	if errors.Is(err, eventstore.ErrNotInHand) || errors.Is(err, eventstore.ErrTooManyParked) {
		return nil
	}
	return d.passes(ctx, err)
}

// passes waits a little where an error is one of servers that are away: that ends no
// membership. Other errors it answers.
func (d *durable) passes(ctx context.Context, err error) error {
	if err == nil || ctx.Err() != nil || d.over.Err() != nil || !isAway(err) {
		return err
	}
	// Next finds out when the context has ended.
	_ = pause(ctx, retryWait)
	return nil
}

func (d *durable) failed(what string, err error) error {
	return fmt.Errorf("%s of durable subscription %.100q of stream %s: %w", what, d.opts.Name, d.store.config.EventsStream, err)
}

// ask asks the coordinator for something until it answers, in bounded time.
func (d *durable) ask(ctx context.Context, request group.Request) (group.Answer, error) {
	ctx, cancel := d.store.bounded(ctx)
	defer cancel()
	if err := context.Cause(d.over); err != nil {
		return group.Answer{}, err
	}
	if ctx.Err() != nil {
		return group.Answer{}, ended(ctx)
	}
	answers := make(chan group.Answer, 1)
	d.mu.Lock()
	id := d.member.Ask(time.Now(), request, func(answer group.Answer) { answers <- answer })
	d.speak(time.Now())
	d.mu.Unlock()
	select {
	case answer := <-answers:
		return answer, answer.Err()
	case <-d.over.Done():
		return group.Answer{}, context.Cause(d.over)
	case <-ctx.Done():
		d.mu.Lock()
		d.member.Forget(id)
		d.mu.Unlock()
		return group.Answer{}, fmt.Errorf("%w: no member of the group has answered as its coordinator: do the same again", ended(ctx))
	}
}

func (d *durable) settling(ctx context.Context, what string, request group.Request) error {
	if _, err := d.ask(ctx, request); err != nil {
		return d.failed(fmt.Sprintf("%s event %d", what, request.Sequence), err)
	}
	return nil
}

// Ack says that an event is done.
func (d *durable) Ack(ctx context.Context, sequence uint64) error {
	return d.settling(ctx, "acknowledge", group.Request{Kind: group.KindAck, Sequence: sequence})
}

// Nak gives an event back.
func (d *durable) Nak(ctx context.Context, sequence uint64, delay time.Duration, reason string) error {
	return d.settling(ctx, "give back", group.Request{Kind: group.KindNak, Sequence: sequence, Delay: delay, Reason: group.ClipReason(reason)})
}

// Release gives events back that were not begun.
func (d *durable) Release(_ context.Context, sequences ...uint64) error {
	if err := context.Cause(d.over); err != nil {
		return d.failed("release events", err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.member.Release(sequences...)
	d.speak(time.Now())
	return nil
}

// Extend starts the time of an event anew.
func (d *durable) Extend(ctx context.Context, sequence uint64) error {
	return d.settling(ctx, "extend the time of", group.Request{Kind: group.KindExtend, Sequence: sequence})
}

// replayAtOnce bounds the sequences of one request.
const replayAtOnce = 5000

// Replay delivers parked events again.
func (d *durable) Replay(ctx context.Context, sequences ...uint64) (int, error) {
	marked := 0
	for first := true; first || len(sequences) > 0; first = false {
		some := sequences[:min(len(sequences), replayAtOnce)]
		sequences = sequences[len(some):]
		answer, err := d.ask(ctx, group.Request{Kind: group.KindReplay, Sequences: some})
		if err != nil {
			return marked, d.failed("replay what is parked", err)
		}
		marked += answer.Count
	}
	return marked, nil
}

// closeWait is how long Close tries to give back what the member has.
const closeWait = 3 * time.Second

// Close ends the membership, and gives back what it has.
func (d *durable) Close() error {
	d.closing.Do(func() {
		d.end(eventstore.ErrSubscriptionClosed)
		if errors.Is(context.Cause(d.over), eventstore.ErrSubscriptionClosed) && d.own != nil {
			d.leave()
		}
		d.mu.Lock()
		d.stop()
		d.depose()
		d.kept.leave(0)
		d.mu.Unlock()
		d.background.Wait()
		for _, subscription := range []*nats.Subscription{d.own, d.group} {
			if subscription != nil {
				// It fails when the connection is closed, and then there is nothing to do.
				_ = subscription.Unsubscribe()
			}
		}
		d.store.unregister(d)
	})
	return nil
}

// leave tells the coordinator that the member has ended, or lets another
// coordinate. Where that does not get through, another member of this Store tells.
func (d *durable) leave() {
	told := make(chan struct{})
	var once sync.Once
	tell := func() { once.Do(func() { close(told) }) }
	d.mu.Lock()
	d.told = tell
	left := d.member.End()
	if d.lead != nil {
		d.lead.handOver(left, tell)
	} else {
		d.member.Ask(time.Now(), group.Request{Kind: group.KindLeave, Have: left.Have}, func(group.Answer) { tell() })
	}
	d.speak(time.Now())
	d.mu.Unlock()
	timer := time.NewTimer(closeWait)
	defer timer.Stop()
	select {
	case <-told:
	case <-timer.C:
		d.store.departed(d.key, left)
	}
}
