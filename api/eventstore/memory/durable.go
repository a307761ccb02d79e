package memory

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
)

// durable is a durable subscription. The lock of its store guards it.
type durable struct {
	opts eventstore.DurableOptions
	// next is the place in the log of what no member has had, and open what some
	// have had and none has settled, in the order of the log.
	next int
	open []*delivery
	// parked are in the order of sequences.
	parked []eventstore.Parked
	// changed is closed when a member may find something new, and replaced.
	changed chan struct{}
	deleted bool
}

// delivery is an event that some member has, or had.
type delivery struct {
	event *eventstore.Event
	// member has it until a time; after it, and with no member, it can be had.
	member  *membership
	until   time.Time
	attempt int
	// replayed: it is one of those that are parked.
	replayed bool
}

// membership is one member of a durable subscription.
type membership struct {
	store   *Store
	durable *durable
	opts    eventstore.DurableOptions
	closed  chan struct{}
}

var _ eventstore.DurableStore = (*Store)(nil)

// SubscribeDurable joins a durable subscription, which lives as long as the
// store.
func (s *Store) SubscribeDurable(ctx context.Context, opts eventstore.DurableOptions) (eventstore.DurableSubscription, error) {
	failed := func(err error) (eventstore.DurableSubscription, error) {
		return nil, fmt.Errorf("join durable subscription %.100q in memory: %w", opts.Name, err)
	}
	opts, err := opts.WithDefaults()
	if err != nil {
		return failed(err)
	}
	if err := ended(ctx); err != nil {
		return failed(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.durables[opts.Name]
	if d == nil {
		d = &durable{opts: opts, next: s.startAt(opts.SubscribeOptions), changed: make(chan struct{})}
		s.durables[opts.Name] = d
	}
	if d.opts.ActorType != opts.ActorType || d.opts.ActorID != opts.ActorID || d.opts.EventType != opts.EventType {
		return failed(&eventstore.InvalidEventError{Field: "durable", Reason: fmt.Sprintf("%.100q has other filters: give other filters another name", opts.Name)})
	}
	return &membership{store: s, durable: d, opts: opts, closed: make(chan struct{})}, nil
}

// DeleteDurable forgets a durable subscription.
func (s *Store) DeleteDurable(ctx context.Context, name string) error {
	if err := eventstore.ValidateDurableName(name); err != nil {
		return fmt.Errorf("delete durable subscription in memory: %w", err)
	}
	if err := ended(ctx); err != nil {
		return fmt.Errorf("delete durable subscription %.100q in memory: %w", name, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if d := s.durables[name]; d != nil {
		d.deleted = true
		d.wake()
		delete(s.durables, name)
	}
	return nil
}

// wake tells the members that something has changed. The lock is held.
func (d *durable) wake() {
	close(d.changed)
	d.changed = make(chan struct{})
}

// Next waits for the next event.
func (m *membership) Next(ctx context.Context) (eventstore.Delivery, error) {
	for {
		if err := ctx.Err(); err != nil {
			return eventstore.Delivery{}, m.failed("wait for the next event", err)
		}
		m.store.mu.Lock()
		next, again, err := m.take(time.Now())
		changed, grown := m.durable.changed, m.store.grown
		m.store.mu.Unlock()
		if err != nil {
			return eventstore.Delivery{}, m.failed("wait for the next event", err)
		}
		if next != nil {
			m.store.opts.Metrics.EventsRead.Add(1)
			return eventstore.Delivery{Event: clone(next.event), Attempt: next.attempt}, nil
		}
		timer := time.NewTimer(again)
		select {
		case <-changed:
		case <-grown:
		case <-timer.C:
		case <-m.closed:
		case <-ctx.Done():
		}
		timer.Stop()
	}
}

func (m *membership) failed(what string, err error) error {
	return fmt.Errorf("%s of durable subscription %.100q in memory: %w", what, m.opts.Name, err)
}

// take gives the member the first event that it can have, or says after how long
// there may be one. The lock is held.
func (m *membership) take(now time.Time) (*delivery, time.Duration, error) {
	if err := m.over(); err != nil {
		return nil, 0, err
	}
	d, again := m.durable, m.opts.AckWait
	waited := map[string]bool{}
	for i := 0; ; i++ {
		if i == len(d.open) && !d.read(m.store.log) {
			return nil, again, nil
		}
		next := d.open[i]
		if waited[next.event.ActorID] {
			continue
		}
		if next.until.After(now) {
			waited[next.event.ActorID] = true
			again = min(again, next.until.Sub(now))
			continue
		}
		if next.attempt >= m.opts.MaxDeliveries {
			// Its last member never acknowledged it.
			if err := d.park(next, "it was not acknowledged in time", now); err != nil {
				return nil, 0, err
			}
			i--
			continue
		}
		next.member, next.until = m, now.Add(m.opts.AckWait)
		next.attempt++
		return next, 0, nil
	}
}

// over is why the membership has ended.
func (m *membership) over() error {
	select {
	case <-m.closed:
		return eventstore.ErrSubscriptionClosed
	default:
	}
	if m.durable.deleted {
		return eventstore.ErrNoDurable
	}
	return nil
}

// read opens the next event of the log that passes the filters.
func (d *durable) read(log []eventstore.Event) bool {
	for d.next < len(log) {
		e := &log[d.next]
		d.next++
		if e.Sequence >= d.opts.FromSequence && d.opts.Matches(e) {
			d.open = append(d.open, &delivery{event: e})
			return true
		}
	}
	return false
}

func (d *durable) drop(settled *delivery) {
	d.open = slices.DeleteFunc(d.open, func(other *delivery) bool { return other == settled })
	d.wake()
}

func (d *durable) park(e *delivery, reason string, now time.Time) error {
	at, parked := slices.BinarySearchFunc(d.parked, e.event.Sequence, func(p eventstore.Parked, sequence uint64) int {
		return cmp.Compare(p.Sequence, sequence)
	})
	if !parked {
		if len(d.parked) >= eventstore.MaxParked {
			return fmt.Errorf("%w: %d", eventstore.ErrTooManyParked, len(d.parked))
		}
		d.parked = slices.Insert(d.parked, at, eventstore.Parked{})
	}
	d.parked[at] = eventstore.Parked{Sequence: e.event.Sequence, ActorID: e.event.ActorID, Attempts: e.attempt, Reason: reason, At: now.Round(0).UTC()}
	d.drop(e)
	return nil
}

// settling does something with an event that the member has in hand.
func (m *membership) settling(ctx context.Context, what string, sequence uint64, do func(*delivery) error) error {
	m.store.mu.Lock()
	defer m.store.mu.Unlock()
	err := m.over()
	if err == nil {
		err = ended(ctx)
	}
	if err == nil {
		err = eventstore.ErrNotInHand
		for _, e := range m.durable.open {
			if e.event.Sequence == sequence && e.member == m {
				err = do(e)
				break
			}
		}
	}
	if err != nil {
		return m.failed(fmt.Sprintf("%s event %d", what, sequence), err)
	}
	return nil
}

// Ack says that an event is done.
func (m *membership) Ack(ctx context.Context, sequence uint64) error {
	return m.settling(ctx, "acknowledge", sequence, func(e *delivery) error {
		if e.replayed {
			m.durable.parked = slices.DeleteFunc(m.durable.parked, func(p eventstore.Parked) bool { return p.Sequence == sequence })
		}
		m.durable.drop(e)
		return nil
	})
}

// Nak gives an event back.
func (m *membership) Nak(ctx context.Context, sequence uint64, delay time.Duration, reason string) error {
	return m.settling(ctx, "give back", sequence, func(e *delivery) error {
		if e.attempt >= m.opts.MaxDeliveries {
			return m.durable.park(e, reason, time.Now())
		}
		e.member, e.until = nil, time.Now().Add(delay)
		m.durable.wake()
		return nil
	})
}

// Extend starts the time of an event anew.
func (m *membership) Extend(ctx context.Context, sequence uint64) error {
	return m.settling(ctx, "extend the time of", sequence, func(e *delivery) error {
		e.until = time.Now().Add(m.opts.AckWait)
		return nil
	})
}

// Parked lists what is parked.
func (m *membership) Parked(ctx context.Context) ([]eventstore.Parked, error) {
	if err := ended(ctx); err != nil {
		return nil, m.failed("list what is parked", err)
	}
	m.store.mu.RLock()
	defer m.store.mu.RUnlock()
	return slices.Clone(m.durable.parked), nil
}

// Replay delivers parked events again.
func (m *membership) Replay(ctx context.Context, sequences ...uint64) (int, error) {
	if err := ended(ctx); err != nil {
		return 0, m.failed("replay what is parked", err)
	}
	m.store.mu.Lock()
	defer m.store.mu.Unlock()
	marked := 0
	for i := range m.durable.parked {
		p := &m.durable.parked[i]
		if len(sequences) > 0 && !slices.Contains(sequences, p.Sequence) {
			continue
		}
		marked++
		if !p.Replaying {
			p.Replaying, p.Attempts = true, 0
			m.durable.open = slices.Insert(m.durable.open, m.durable.placeOf(p.Sequence), &delivery{event: &m.store.log[p.Sequence-1], replayed: true})
		}
	}
	m.durable.wake()
	return marked, nil
}

// placeOf is where an event that is not open belongs among those that are.
func (d *durable) placeOf(sequence uint64) int {
	at, _ := slices.BinarySearchFunc(d.open, sequence, func(e *delivery, sequence uint64) int { return cmp.Compare(e.event.Sequence, sequence) })
	return at
}

// Close ends the membership; what it has in hand others can have at once.
func (m *membership) Close() error {
	m.store.mu.Lock()
	defer m.store.mu.Unlock()
	select {
	case <-m.closed:
		return nil
	default:
	}
	close(m.closed)
	for _, e := range m.durable.open {
		if e.member == m {
			e.member, e.until = nil, time.Time{}
		}
	}
	m.durable.wake()
	return nil
}
