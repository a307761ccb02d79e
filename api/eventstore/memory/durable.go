package memory

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/internal/group"
)

// durable is a durable subscription. It decides as the engine does, and what it
// writes is stored at once. The lock of its store guards it.
type durable struct {
	opts    eventstore.DurableOptions
	store   *Store
	machine *group.Machine
	members map[string]*membership
	joined  int
	// changed is closed when a member may find something new, and replaced.
	changed chan struct{}
	deleted bool
}

// membership is one member of a durable subscription.
type membership struct {
	store   *Store
	durable *durable
	opts    eventstore.DurableOptions
	id      string
	member  *group.Member
	closed  chan struct{}
}

var _ eventstore.DurableStore = (*Store)(nil)

// Who coordinates in memory, for good.
const (
	epoch       = 1
	coordinator = "memory"
)

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
		d = s.newDurable(opts)
		s.durables[opts.Name] = d
	}
	if d.opts.ActorType != opts.ActorType || d.opts.ActorID != opts.ActorID || d.opts.EventType != opts.EventType {
		return failed(&eventstore.InvalidEventError{Field: "durable", Reason: fmt.Sprintf("%.100q has other filters: give other filters another name", opts.Name)})
	}
	d.joined++
	m := &membership{store: s, durable: d, opts: opts, id: strconv.Itoa(d.joined), closed: make(chan struct{})}
	m.member = group.NewMember(m.id, opts.MaxInHand, opts.AckWait, opts.MaxDeliveries)
	m.member.Follow(time.Now(), epoch, coordinator)
	d.members[m.id] = m
	d.turn(time.Now())
	return m, nil
}

func (s *Store) newDurable(opts eventstore.DurableOptions) *durable {
	top := uint64(s.startAt(opts.SubscribeOptions))
	if opts.FromSequence > 0 {
		top = max(top, opts.FromSequence-1)
	}
	main := group.Main{
		Epoch: epoch, Coordinator: coordinator, Key: opts.Name, ActorType: opts.ActorType, ActorID: opts.ActorID, EventType: opts.EventType,
		AckWait: opts.AckWait, MaxDeliveries: opts.MaxDeliveries, Top: top,
	}
	return &durable{
		opts: opts, store: s, machine: group.New(group.Config{Alone: true}, main, nil, time.Now()), members: map[string]*membership{}, changed: make(chan struct{}),
	}
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

// ListDurables lists the durable subscriptions of the store.
func (s *Store) ListDurables(ctx context.Context) ([]string, error) {
	if err := ended(ctx); err != nil {
		return nil, fmt.Errorf("list durable subscriptions in memory: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.durables)), nil
}

// GetDurableStatus says how a durable subscription is doing.
func (s *Store) GetDurableStatus(ctx context.Context, name string) (eventstore.DurableStatus, error) {
	failed := func(err error) (eventstore.DurableStatus, error) {
		return eventstore.DurableStatus{}, fmt.Errorf("get the status of durable subscription %.100q in memory: %w", name, err)
	}
	if err := errors.Join(eventstore.ValidateDurableName(name), ended(ctx)); err != nil {
		return failed(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.durables[name]
	if d == nil {
		return failed(eventstore.ErrNoDurable)
	}
	d.turn(time.Now())
	return d.machine.Status().Of(name, uint64(len(s.log))), nil
}

// wake tells the members that something has changed. The lock is held.
func (d *durable) wake() {
	close(d.changed)
	d.changed = make(chan struct{})
}

// turn carries everything between the members, the machine and the log until
// nothing is left to be carried. The lock is held.
func (d *durable) turn(now time.Time) {
	changed := false
	for more := true; more; {
		for _, m := range d.members {
			for _, said := range m.member.Tick(now) {
				d.machine.Hear(now, said)
			}
		}
		d.machine.Tick(now)
		d.read(now)
		more = d.write(now)
		for _, said := range d.machine.Messages() {
			if m := d.members[said.Member]; m != nil {
				m.member.Hear(now, said)
			}
			changed, more = true, true
		}
	}
	if changed {
		d.wake()
	}
}

// read gives the machine what it wants of the log.
func (d *durable) read(now time.Time) {
	log := d.store.log
	for d.machine.WantMore() && d.machine.Position() < uint64(len(log)) {
		at := d.machine.Position()
		for at < uint64(len(log)) && !d.opts.Matches(&log[at]) {
			at++
		}
		if at == uint64(len(log)) {
			d.machine.Skip(now, at)
			break
		}
		e := &log[at]
		d.machine.Arrived(now, group.Arrival{Sequence: e.Sequence, Actor: e.ActorID, At: d.store.storedAt[at]})
	}
	for _, find := range d.machine.Finds() {
		d.machine.Found(now, find.Actor, find.After, d.next(find))
	}
}

func (d *durable) next(find group.Find) uint64 {
	indexes := d.store.actors[find.Actor]
	at, _ := slices.BinarySearch(indexes, int(find.After))
	for _, index := range indexes[at:] {
		if e := &d.store.log[index]; d.opts.Matches(e) {
			return e.Sequence
		}
	}
	return 0
}

// write stores what the machine wants stored, and says whether there was any.
func (d *durable) write(now time.Time) bool {
	wrote := false
	for _, w := range d.machine.Shards() {
		d.machine.ShardCommitted(now, w.Number)
		wrote = true
	}
	if _, is := d.machine.Main(); is {
		d.machine.Committed(now)
		wrote = true
	}
	return wrote
}

// Next waits for the next event.
func (m *membership) Next(ctx context.Context) (eventstore.Delivery, error) {
	m.store.mu.Lock()
	m.member.Enter(time.Now())
	m.store.mu.Unlock()
	defer func() {
		m.store.mu.Lock()
		m.member.Exit(time.Now())
		m.store.mu.Unlock()
	}()
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
			return *next, nil
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
func (m *membership) take(now time.Time) (*eventstore.Delivery, time.Duration, error) {
	if err := m.over(); err != nil {
		return nil, 0, err
	}
	m.durable.turn(now)
	if next := m.member.Next(now); next != nil {
		return &eventstore.Delivery{Event: clone(&m.store.log[next.Sequence-1]), Attempt: next.Attempt}, 0, nil
	}
	wake := m.member.Wake(now)
	if of := m.durable.machine.Wake(); of.Before(wake) {
		wake = of
	}
	return nil, max(wake.Sub(now), time.Millisecond), nil
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

// ask asks the machine for something, which answers at once.
func (m *membership) ask(ctx context.Context, what string, request group.Request) (int, error) {
	m.store.mu.Lock()
	defer m.store.mu.Unlock()
	err := m.over()
	if err == nil {
		err = ended(ctx)
	}
	if err != nil {
		return 0, m.failed(what, err)
	}
	now := time.Now()
	m.durable.turn(now)
	err = eventstore.ErrUnavailable
	count := 0
	m.member.Ask(now, request, func(answer group.Answer) {
		count, err = answer.Count, answer.Err()
	})
	m.durable.turn(now)
	if err != nil {
		return 0, m.failed(what, err)
	}
	return count, nil
}

// Ack says that an event is done.
func (m *membership) Ack(ctx context.Context, sequence uint64) error {
	_, err := m.ask(ctx, fmt.Sprintf("acknowledge event %d", sequence), group.Request{Kind: group.KindAck, Sequence: sequence})
	return err
}

// Nak gives an event back.
func (m *membership) Nak(ctx context.Context, sequence uint64, delay time.Duration, reason string) error {
	_, err := m.ask(ctx, fmt.Sprintf("give back event %d", sequence), group.Request{Kind: group.KindNak, Sequence: sequence, Delay: delay, Reason: reason})
	return err
}

// Release gives events back that were not begun.
func (m *membership) Release(_ context.Context, sequences ...uint64) error {
	m.store.mu.Lock()
	defer m.store.mu.Unlock()
	if err := m.over(); err != nil {
		return m.failed("release events", err)
	}
	m.member.Release(sequences...)
	m.durable.turn(time.Now())
	return nil
}

// Extend starts the time of an event anew.
func (m *membership) Extend(ctx context.Context, sequence uint64) error {
	_, err := m.ask(ctx, fmt.Sprintf("extend the time of event %d", sequence), group.Request{Kind: group.KindExtend, Sequence: sequence})
	return err
}

// Replay delivers parked events again.
func (m *membership) Replay(ctx context.Context, sequences ...uint64) (int, error) {
	return m.ask(ctx, "replay what is parked", group.Request{Kind: group.KindReplay, Sequences: sequences})
}

// Parked lists what is parked.
func (m *membership) Parked(ctx context.Context) ([]eventstore.Parked, error) {
	if err := ended(ctx); err != nil {
		return nil, m.failed("list what is parked", err)
	}
	m.store.mu.Lock()
	defer m.store.mu.Unlock()
	m.durable.turn(time.Now())
	var list []eventstore.Parked
	for _, p := range m.durable.machine.Parked() {
		list = append(list, eventstore.Parked{Sequence: p.Sequence, ActorID: p.Actor, Attempts: p.Attempts, Reason: p.Reason, At: p.At, Replaying: p.Replaying})
	}
	return list, nil
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
	now := time.Now()
	left := m.member.End()
	m.member.Ask(now, group.Request{Kind: group.KindLeave, Have: left.Have}, func(group.Answer) {})
	m.durable.turn(now)
	delete(m.durable.members, m.id)
	m.durable.turn(now)
	return nil
}
