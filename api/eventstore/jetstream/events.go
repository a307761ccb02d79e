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
		r := replay{store: s, from: fromVersion, yield: yield}
		for m, err := range s.messages(ctx, actorID, fromVersion, opts) {
			if err != nil {
				yield(eventstore.Event{}, fmt.Errorf("read events of actor %.100q in stream %s: %w", actorID, s.config.EventsStream, err))
				return
			}
			if !r.add(m) {
				return
			}
		}
		r.flush()
	}
}

// replay turns messages of one actor into events and errors for a reader.
type replay struct {
	store *Store
	from  int64
	yield func(eventstore.Event, error) bool
	// latest is the version of the last event.
	latest int64
	// held are errors that were met before an event above from: the reader has
	// asked for none of what an event at or below from comes after.
	held []*eventstore.ReplayError
}

// add says whether the reader wants more.
func (r *replay) add(m *message) bool {
	event, err := decodeEvent(m)
	if err == nil && event.Version <= r.latest {
		err = fmt.Errorf("version %d comes after version %d", event.Version, r.latest)
	}
	if err != nil {
		r.held = append(r.held, &eventstore.ReplayError{Sequence: m.Sequence, RawData: m.Data, Err: err})
		// From the start, or above from, nothing can come that makes it moot.
		return (r.from > 0 && r.latest <= r.from) || r.flush()
	}
	r.latest = event.Version
	if event.Version <= r.from {
		r.held = nil
		return true
	}
	if !r.flush() {
		return false
	}
	r.store.opts.Metrics.EventsRead.Add(1)
	return r.yield(event, nil)
}

func (r *replay) flush() bool {
	held := r.held
	r.held = nil
	for _, err := range held {
		r.store.opts.Metrics.ReplayErrors.Add(1)
		if !r.yield(eventstore.Event{}, err) {
			return false
		}
	}
	return true
}

// messages yields the messages of an actor up to the last there is as it begins,
// from the first that may hold an event above a version.
func (s *Store) messages(ctx context.Context, actorID string, fromVersion int64, opts eventstore.ReadOptions) iter.Seq2[*message, error] {
	return func(yield func(*message, error) bool) {
		before, _, _ := s.heads.get(actorID)
		last, err := s.last(ctx, actorID, opts.UpToDate)
		if err == nil && last != nil {
			// Who reads an actor often saves to it next.
			if event, err := decodeEvent(last); err == nil && last.Sequence != before.sequence {
				s.heads.put(actorID, before.sequence, headAt(last, event.Version))
			}
			err = s.readHistory(ctx, last, fromVersion, opts, func(m *message) bool { return yield(m, nil) })
		}
		if err != nil {
			yield(nil, err)
		}
	}
}

// readHistory yields the messages of an actor up to its last.
func (s *Store) readHistory(ctx context.Context, last *message, fromVersion int64, opts eventstore.ReadOptions, yield func(*message) bool) error {
	if newest, err := decodeEvent(last); err == nil && newest.Version <= fromVersion {
		return nil
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
