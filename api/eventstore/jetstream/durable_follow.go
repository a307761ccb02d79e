package jetstream

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/internal/group"
)

// find looks for what comes after an event of an actor.
func (l *lead) find(find group.Find) {
	s := l.d.store
	subject := eventsPrefix(s.config.EventsStream) + find.Actor
	after := l.passOver(subject, find.After)
	var found uint64
	for {
		m, err := s.leaderGet(l.life, s.config.EventsStream, getRequest{Sequence: after + 1, NextBySubject: subject})
		if l.life.Err() != nil {
			return
		}
		if err != nil {
			if pause(l.life, retryWait) != nil {
				return
			}
			continue
		}
		if m == nil {
			break
		}
		after = m.Sequence
		// What is no event was parked when it was read.
		if event, err := decodeEvent(m); err == nil && l.d.opts.Matches(&event) {
			found = m.Sequence
			break
		}
	}
	l.d.mu.Lock()
	defer l.d.mu.Unlock()
	now := time.Now()
	l.machine.Found(now, find.Actor, find.After, found)
	l.flush(now)
}

// passOver answers up to where an actor has nothing that the group wants, as far as
// any replica knows: it has a first part of the stream. Only where events are chosen by
// type there may be many to pass over.
func (l *lead) passOver(subject string, after uint64) uint64 {
	s := l.d.store
	for more := l.d.opts.EventType != ""; more; {
		var messages []*message
		var err error
		if messages, more, err = s.page(l.life, s.config.EventsStream, subject, after+1, s.config.ReadAheadBytes); err != nil {
			return after
		}
		for _, m := range messages {
			if event, err := decodeEvent(m); err == nil && l.d.opts.Matches(&event) {
				return after
			}
			after = m.Sequence
		}
	}
	return after
}

// read reads the events of the group.
func (l *lead) read() {
	d := l.d
	opts := d.opts.SubscribeOptions
	d.mu.Lock()
	opts.FromNow, opts.FromTime, opts.FromSequence = false, time.Time{}, l.machine.Position()+1
	d.mu.Unlock()
	for l.life.Err() == nil {
		err := l.follow(opts)
		if l.life.Err() != nil {
			return
		}
		d.mu.Lock()
		opts.FromSequence = l.machine.Position() + 1
		switch {
		case errCode(err) == codeStreamNotFound, errors.Is(err, errAbsent):
			d.end(fmt.Errorf("%w: %w", eventstore.ErrNoDurable, err))
			d.depose()
		case errors.Is(err, eventstore.ErrPermissionDenied), errors.Is(err, eventstore.ErrInvalidEvent):
			d.end(err)
			d.depose()
		}
		d.mu.Unlock()
		_ = pause(l.life, retryWait)
	}
}

func (l *lead) follow(opts eventstore.SubscribeOptions) error {
	d := l.d
	sub, err := d.store.subscribe(l.life, opts, true)
	if err != nil {
		return err
	}
	defer func() { _ = sub.Close() }()
	sub.onPassed = l.passed
	for {
		d.mu.Lock()
		wants := l.machine.WantMore()
		d.mu.Unlock()
		if !wants {
			select {
			case <-l.wanted:
				continue
			case <-l.life.Done():
				return nil
			}
		}
		m, err := sub.nextMessage(l.life)
		if m == nil {
			return err
		}
		arrival := group.Arrival{Sequence: m.Sequence, Actor: strings.TrimPrefix(m.Subject, eventsPrefix(d.store.config.EventsStream)), At: m.Time}
		if err != nil {
			arrival.Unreadable = err.Error()
		}
		l.arrived(arrival, m)
	}
}

// arrived takes an event that was read, and keeps it where there is room.
func (l *lead) arrived(arrival group.Arrival, m *message) {
	l.d.mu.Lock()
	defer l.d.mu.Unlock()
	if l.d.lead != l {
		return
	}
	if size := m.size(); l.kept.take(int64(size)) {
		arrival.Payload, arrival.Size = m, size
	}
	now := time.Now()
	l.machine.Arrived(now, arrival)
	l.flush(now)
}

// passed notes that nothing for the group comes up to a sequence.
func (l *lead) passed(through uint64) {
	l.d.mu.Lock()
	defer l.d.mu.Unlock()
	now := time.Now()
	l.machine.Skip(now, through)
	l.flush(now)
}
