package sidecar

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"connectrpc.com/connect"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
	eventstorev1 "git.flowmade.one/flowmade-one/aether-operator/api/eventstore/v1"
)

// waiting is a delivery in line. At until its time is over, and another member may have
// the event.
type waiting struct {
	eventstore.Delivery
	until time.Time
}

// receive puts what arrives in line, until the stream ends.
func (d *durable) receive(stream *connect.ServerStreamForClient[eventstorev1.SubscribeDurableResponse]) {
	defer func() { _ = stream.Close() }()
	for stream.Receive() {
		delivery, err := stream.Msg().GetDelivery().ToDelivery()
		if err != nil {
			d.end(err)
			return
		}
		d.mu.Lock()
		// One that comes once more, since its time was over, takes the place of itself.
		d.leaveLine(delivery.Event.Sequence)
		if !d.acked[delivery.Event.Sequence] {
			d.line = append(d.line, &waiting{delivery, time.Now().Add(d.opts.AckWait)})
		}
		close(d.changed)
		d.changed = make(chan struct{})
		d.mu.Unlock()
	}
	d.end(readError(d.life, whyEnded(stream)))
}

// leaveLine takes an event out of the line. The lock is held.
func (d *durable) leaveLine(sequence uint64) {
	d.line = slices.DeleteFunc(d.line, func(w *waiting) bool { return w.Event.Sequence == sequence })
}

// first takes what is first in line and has time left, nil where there is none. The lock
// is held.
func (d *durable) first() *waiting {
	d.line = slices.DeleteFunc(d.line, func(w *waiting) bool { return !w.until.After(time.Now()) })
	if len(d.line) == 0 {
		return nil
	}
	first := d.line[0]
	d.line = d.line[1:]
	return first
}

// keepLine extends the time of what waits in line, as long as the application comes
// for it. What it has not come for in the time of an event others may have.
func (d *durable) keepLine() {
	tick := time.NewTicker(d.opts.AckWait / 3)
	defer tick.Stop()
	for {
		select {
		case <-d.life.Done():
			return
		case <-tick.C:
		}
		d.mu.Lock()
		line, rests := slices.Clone(d.line), d.waiting == 0 && time.Since(d.asked) >= d.opts.AckWait
		d.mu.Unlock()
		if rests && len(line) > 0 {
			d.release()
			continue
		}
		for _, w := range line {
			began := time.Now()
			err := d.Extend(d.life, w.Event.Sequence)
			d.mu.Lock()
			switch {
			case err == nil:
				w.until = began.Add(d.opts.AckWait)
			case errors.Is(err, eventstore.ErrNotInHand):
				d.leaveLine(w.Event.Sequence)
			}
			// Another error is none of the event: the next tick tries again.
			d.mu.Unlock()
		}
	}
}

// release gives back what waits in line. The next Next has deliveries go on.
func (d *durable) release() {
	if d.lockStarting(d.life) != nil {
		return
	}
	defer d.unlockStarting()
	d.mu.Lock()
	line := d.line
	if d.line = nil; d.waiting > 0 {
		// It is come for just now.
		d.line, line = line, nil
	}
	d.mu.Unlock()
	if len(line) == 0 {
		return
	}
	d.started = false
	sequences := make([]uint64, len(line))
	for i := range line {
		sequences[i] = line[i].Event.Sequence
	}
	d.turn++
	// If it fails, their time passes.
	_ = d.letGo(d.life, &eventstorev1.ReleaseDeliveriesRequest{Session: d.session, Sequences: sequences, Pause: true, Number: d.turn})
}

// lockStarting waits for starting, as long as a context and the membership last.
func (d *durable) lockStarting(ctx context.Context) error {
	select {
	case d.starting <- struct{}{}:
		return nil
	case <-d.life.Done():
		return context.Cause(d.life)
	case <-ctx.Done():
		return withContext(ctx, fmt.Errorf("%w: the sidecar has not answered a call before", eventstore.ErrUnavailable))
	}
}

func (d *durable) unlockStarting() { <-d.starting }

// activate tells the sidecar to deliver, once.
func (d *durable) activate(ctx context.Context) error {
	if err := d.lockStarting(ctx); err != nil {
		return err
	}
	defer d.unlockStarting()
	if d.started {
		return nil
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(d.life, cancel)()
	d.turn++
	err := d.call(ctx, func(ctx context.Context) error {
		_, err := d.store.client.StartDeliveries(ctx, &eventstorev1.StartDeliveriesRequest{Session: d.session, Number: d.turn})
		return err
	})
	if err != nil && d.life.Err() != nil {
		return context.Cause(d.life)
	}
	d.started = err == nil
	return err
}

// come notes that a call of Next begins or ends.
func (d *durable) come(more int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.waiting += more
	d.asked = time.Now()
}
