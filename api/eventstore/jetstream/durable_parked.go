package jetstream

import (
	"context"
	"fmt"
	"time"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
)

// Parked lists what is parked.
func (d *durable) Parked(ctx context.Context) ([]eventstore.Parked, error) {
	ctx, cancel := d.store.bounded(ctx)
	defer cancel()
	parked, _, err := d.store.readParked(ctx, d.opts.Name)
	if err != nil {
		return nil, d.failed("list what is parked", err)
	}
	list := make([]eventstore.Parked, len(parked.Events))
	for i, e := range parked.Events {
		list[i] = eventstore.Parked{
			Sequence: e.Sequence, ActorID: e.ActorID, Attempts: e.Attempts, Reason: e.Reason, At: e.At, Replaying: e.Replaying,
		}
	}
	return list, nil
}

// Replay delivers parked events again.
func (d *durable) Replay(ctx context.Context, sequences ...uint64) (int, error) {
	ctx, cancel := d.store.bounded(ctx)
	defer cancel()
	var marked int
	err := d.store.changeParked(ctx, d.opts.Name, func(p *parkedEvents) (bool, error) {
		marked = p.replay(sequences)
		return marked > 0, nil
	})
	if err != nil {
		return 0, d.failed("replay what is parked", err)
	}
	d.tellReplay()
	return marked, nil
}

// tellReplay makes all members look for parked events. Who does not hear it
// looks once in AckWait.
func (d *durable) tellReplay() {
	// It fails when the connection is closed, and then others look.
	_ = d.store.nc.Publish(d.group.Subject, []byte("replay"))
}

// takeReplays looks for parked events that are to be delivered again.
func (d *durable) takeReplays() {
	d.mu.Lock()
	room := d.room()
	active := d.active
	d.mu.Unlock()
	if active && room > 0 {
		d.spawn(func() { d.takeParked(room) })
	}
}

// takeParked takes parked events into the hand. When it fails, the next look
// tries again.
func (d *durable) takeParked(room int) {
	ctx, cancel := context.WithTimeout(d.life, d.opts.AckWait)
	defer cancel()
	var taken []parkedEvent
	err := d.store.changeParked(ctx, d.opts.Name, func(p *parkedEvents) (bool, error) {
		taken = p.take(d.store.opts.Now(), d.opts.AckWait, room)
		return len(taken) > 0, nil
	})
	if err != nil {
		return
	}
	for _, e := range taken {
		m, err := d.store.leaderGet(ctx, d.store.config.EventsStream, getRequest{Sequence: e.Sequence})
		switch {
		case err != nil:
			return
		case m == nil:
			// It has expired, and there is nothing to deliver any more.
			_ = d.endReplay(ctx, e.Sequence)
		default:
			d.accept(&delivery{message: m, attempt: e.Attempts})
		}
	}
}

// endReplay takes an event off the list of what is parked.
func (d *durable) endReplay(ctx context.Context, sequence uint64) error {
	err := d.store.changeParked(ctx, d.opts.Name, func(p *parkedEvents) (bool, error) {
		return p.remove(sequence), nil
	})
	if err != nil {
		return fmt.Errorf("take it off the list of what is parked: %w", err)
	}
	// The next of its actor may come.
	d.tellReplay()
	return nil
}

// lease says how long a parked event is not delivered to another member.
func (d *durable) lease(ctx context.Context, sequence uint64, wait time.Duration) error {
	err := d.store.changeParked(ctx, d.opts.Name, func(p *parkedEvents) (bool, error) {
		e := p.find(sequence)
		if e == nil {
			return false, eventstore.ErrNotInHand
		}
		e.Lease = d.store.opts.Now().Add(max(wait, 0))
		return true, nil
	})
	if err != nil {
		return fmt.Errorf("note it in the list of what is parked: %w", err)
	}
	return nil
}
