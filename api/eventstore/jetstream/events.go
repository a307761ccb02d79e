package jetstream

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/internal/collect"
)

// GetEvents answers the events of an actor; stored messages that are no events
// are skipped and counted.
func (s *Store) GetEvents(ctx context.Context, actorID string, fromVersion int64, opts ...eventstore.ReadOption) ([]eventstore.Event, error) {
	result, err := s.GetEventsWithErrors(ctx, actorID, fromVersion, opts...)
	return result.Events, err
}

// GetEventsWithErrors answers the events of an actor, and the stored messages
// among them that are no events.
func (s *Store) GetEventsWithErrors(ctx context.Context, actorID string, fromVersion int64, opts ...eventstore.ReadOption) (eventstore.ReplayResult, error) {
	return collect.Events(s.Events(ctx, actorID, fromVersion, opts...))
}

// Events yields the events of an actor that are stored as it begins. It holds a
// page of messages at a time, at most 256 and Config.ReadAheadBytes with as much on its
// way, and does not read what is before fromVersion: see docs/engine.md for what a read
// costs.
func (s *Store) Events(ctx context.Context, actorID string, fromVersion int64, opts ...eventstore.ReadOption) iter.Seq2[eventstore.Event, error] {
	ro := eventstore.NewReadOptions(opts...)
	events := collect.Window(s.events(ctx, actorID, fromVersion, ro), eventstore.ReadOptions{Until: ro.Until})
	if ro.Newest > 0 {
		return s.newest(ctx, events, ro.Newest)
	}
	return events
}

func (s *Store) events(ctx context.Context, actorID string, fromVersion int64, opts eventstore.ReadOptions) iter.Seq2[eventstore.Event, error] {
	return func(yield func(eventstore.Event, error) bool) {
		if err := errors.Join(eventstore.ValidateActorID(actorID), opts.Validate()); err != nil {
			yield(eventstore.Event{}, fmt.Errorf("read events: %w", err))
			return
		}
		ctx, cancel := s.bounded(ctx)
		defer cancel()
		if err := s.replay(ctx, actorID, fromVersion, opts, yield); err != nil {
			yield(eventstore.Event{}, fmt.Errorf("read events of actor %.100q in stream %s: %w", actorID, s.config.EventsStream, err))
		}
	}
}

// replay yields what there is of an actor, to the end or until the reader has enough.
func (s *Store) replay(ctx context.Context, actorID string, fromVersion int64, opts eventstore.ReadOptions, yield func(eventstore.Event, error) bool) error {
	last, err := s.seen(ctx, actorID, opts.UpToDate)
	if err != nil {
		return err
	}
	r := replay{store: s, actorID: actorID, from: fromVersion, fromSequence: opts.FromSequence, yield: yield}
	if last == nil {
		return r.nothing(ctx)
	}
	enough := false
	err = s.readHistory(ctx, last, fromVersion, opts, func(m *message) bool {
		enough = !r.add(m)
		return !enough
	})
	if err == nil && !enough {
		r.flush()
	}
	return err
}

// messages yields the messages of an actor up to the last there is as it begins,
// from the first that may hold an event above a version.
func (s *Store) messages(ctx context.Context, actorID string, fromVersion int64, opts eventstore.ReadOptions) iter.Seq2[*message, error] {
	return func(yield func(*message, error) bool) {
		last, err := s.seen(ctx, actorID, opts.UpToDate)
		if err == nil && last != nil {
			err = s.readHistory(ctx, last, fromVersion, opts, func(m *message) bool { return yield(m, nil) })
		}
		if err != nil {
			yield(nil, err)
		}
	}
}

// seen is last for a reader, and remembers it: who reads an actor often saves to it
// next.
func (s *Store) seen(ctx context.Context, actorID string, fromLeader bool) (*message, error) {
	before, _, _ := s.heads.get(actorID)
	last, err := s.last(ctx, actorID, fromLeader)
	if err != nil || last == nil || last.Sequence == before.sequence {
		return last, err
	}
	if event, err := decodeEvent(last); err == nil {
		s.heads.put(actorID, before.sequence, headAt(last, event.Version))
	}
	return last, nil
}

// readHistory yields the messages of an actor up to its last.
func (s *Store) readHistory(ctx context.Context, last *message, fromVersion int64, opts eventstore.ReadOptions, yield func(*message) bool) error {
	if newest, err := decodeEvent(last); err == nil && newest.Version <= fromVersion {
		return nil
	}
	if opts.FromSequence > 0 {
		if last.Sequence < opts.FromSequence {
			return nil
		}
		return s.historyFrom(last, opts.FromSequence).read(ctx, yield)
	}
	if opts.Newest > 0 && opts.Until.IsZero() {
		return s.readNewest(ctx, last, fromVersion, opts.Newest, yield)
	}
	_, err := s.newHistory(last).readAfter(ctx, fromVersion, 0, yield)
	return err
}

// readNewest yields at least the newest messages, as many as there are. It must know
// whether they are as many before it yields any, and keeps them until then, or reads
// them again where they are large.
func (s *Store) readNewest(ctx context.Context, last *message, fromVersion int64, wanted int, yield func(*message) bool) error {
	for n := uint64(wanted); ; n *= 4 {
		var messages []*message
		met, bytes := 0, 0
		all, err := s.newHistory(last).readAfter(ctx, fromVersion, n, func(m *message) bool {
			met++
			if bytes += len(m.Data); bytes <= s.config.ReadAheadBytes {
				messages = append(messages, m)
			} else {
				messages = nil
			}
			return true
		})
		if err != nil {
			return err
		}
		// The index counts those that were erased too.
		if met < wanted && !all {
			continue
		}
		if bytes > s.config.ReadAheadBytes {
			_, err := s.newHistory(last).readAfter(ctx, fromVersion, n, yield)
			return err
		}
		for _, m := range messages {
			if !yield(m) {
				break
			}
		}
		return nil
	}
}

// last is the newest message of an actor, nil for none. It may come from any
// replica, unless that one is behind what this Store has seen.
func (s *Store) last(ctx context.Context, actorID string, fromLeader bool) (*message, error) {
	get := getRequest{LastBySubject: EventsSubject(s.config.EventsStream, actorID)}
	known, found, sure := s.heads.get(actorID)
	if !fromLeader && (found || sure) {
		m, err := s.directGet(ctx, s.config.EventsStream, get)
		if err != nil || !found || known.sequence == 0 || m != nil && m.Sequence >= known.sequence {
			return m, err
		}
	}
	m, believed, err := s.leaderLast(ctx, s.config.EventsStream, get.LastBySubject, known.sequence)
	if believed {
		s.heads.forget()
	}
	return m, err
}

// GetLatestVersion answers the latest version of an actor.
func (s *Store) GetLatestVersion(ctx context.Context, actorID string) (int64, error) {
	if err := eventstore.ValidateActorID(actorID); err != nil {
		return 0, fmt.Errorf("read latest version: %w", err)
	}
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	head, err := s.readHead(ctx, actorID, true, false)
	if err != nil {
		return 0, fmt.Errorf("read latest version of actor %.100q in stream %s: %w", actorID, s.config.EventsStream, err)
	}
	return head.version, nil
}
