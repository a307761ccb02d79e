package jetstream

import (
	"context"
	"errors"
	"time"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/internal/group"
)

// watchEvery is how often a coordinator that writes nothing looks whether it is
// one still, and whether the stream is the same.
const watchEvery = 5 * time.Second

func (l *lead) watch() {
	d := l.d
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		select {
		case <-l.life.Done():
			return
		case <-tick.C:
		}
		d.mu.Lock()
		idle := time.Since(l.wrote) >= watchEvery
		d.look = d.look || idle
		mark, later := l.machine.Mark(), l.machine.Later(lookedAtOnce)
		d.mu.Unlock()
		d.wake()
		ctx, cancel := context.WithTimeout(l.life, watchEvery)
		err := d.store.sameStream(ctx, &mark)
		if err == nil {
			// What fails is done with the next tick.
			_ = l.lookFor(ctx, later)
		}
		cancel()
		if errors.Is(err, eventstore.ErrDurableAhead) || errors.Is(err, eventstore.ErrNoDurable) {
			d.mu.Lock()
			d.end(err)
			d.depose()
			d.mu.Unlock()
		}
	}
}

// lookedAtOnce is how many events for which actors wait are looked for with each tick: all
// that come with the answers are read.
const lookedAtOnce = 16

// lookFor finds out which events are not stored any more. Any replica knows what comes in the
// place of one; where nothing does, nothing waits for it.
func (l *lead) lookFor(ctx context.Context, later []group.Find) error {
	s := l.d.store
	requests := make([]getRequest, len(later))
	for i, of := range later {
		requests[i] = getRequest{Sequence: of.After + 1, NextBySubject: eventsPrefix(s.config.EventsStream) + of.Actor}
	}
	found, err := s.getMany(ctx, s.config.EventsStream, requests)
	if err != nil {
		return err
	}
	for i, m := range found {
		if m == nil || m.Sequence == requests[i].Sequence {
			continue
		}
		if m, err = s.leaderGet(ctx, s.config.EventsStream, getRequest{Sequence: requests[i].Sequence}); err != nil {
			return err
		}
		if m == nil {
			l.d.mu.Lock()
			now := time.Now()
			l.machine.Gone(now, later[i])
			l.flush(now)
			l.d.mu.Unlock()
		}
	}
	return nil
}
