package jetstream

import (
	"context"
	"fmt"
	"iter"
	"time"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/internal/collect"
)

// GetEvents answers the events of an actor; stored messages that are no events
// are skipped and counted.
func (s *Store) GetEvents(ctx context.Context, actorID string, fromVersion int64) ([]eventstore.Event, error) {
	result, err := s.GetEventsWithErrors(ctx, actorID, fromVersion)
	return result.Events, err
}

// GetEventsWithErrors answers the events of an actor, and the stored messages
// among them that are no events.
func (s *Store) GetEventsWithErrors(ctx context.Context, actorID string, fromVersion int64) (eventstore.ReplayResult, error) {
	return collect.Events(s.Events(ctx, actorID, fromVersion))
}

// Events yields the events of an actor that are stored as it begins. It holds a
// page of messages at a time, at most 256 and about 4 MiB.
//
// It costs one question to the leader and one page for every 256 events, from
// the actor's first on: JetStream has no index by version.
func (s *Store) Events(ctx context.Context, actorID string, fromVersion int64) iter.Seq2[eventstore.Event, error] {
	return func(yield func(eventstore.Event, error) bool) {
		if err := eventstore.ValidateActorID(actorID); err != nil {
			yield(eventstore.Event{}, fmt.Errorf("read events: %w", err))
			return
		}
		ctx, cancel := s.bounded(ctx)
		defer cancel()
		r := replay{store: s, from: fromVersion, yield: yield}
		for m, err := range s.messages(ctx, EventsSubject(s.config.EventsStream, actorID), fromVersion) {
			if err != nil {
				yield(eventstore.Event{}, fmt.Errorf("read events of actor %q in stream %s: %w", actorID, s.config.EventsStream, err))
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

// replicaWait is the mean pause before a replica that is behind is asked again.
// It was 6 ms behind at most where that was measured under load.
const replicaWait = 5 * time.Millisecond

// messages yields the messages of a subject up to the last that the leader has
// as it begins. Any replica may answer the pages, and may be behind; that one
// message of the leader's tells when they are complete. It is the price of
// reading what was just written: one round trip, and the last message twice.
//
// Here is the place for an index from version to sequence.
func (s *Store) messages(ctx context.Context, subject string, fromVersion int64) iter.Seq2[*message, error] {
	return func(yield func(*message, error) bool) {
		last, err := s.leaderGet(ctx, s.config.EventsStream, getRequest{LastBySubject: subject})
		if err != nil {
			yield(nil, err)
			return
		}
		if last == nil {
			return
		}
		if newest, err := decodeEvent(last); err == nil && newest.Version <= fromVersion {
			return
		}
		for next := uint64(1); next <= last.Sequence; {
			page, more, err := s.page(ctx, s.config.EventsStream, subject, next)
			if err != nil {
				yield(nil, err)
				return
			}
			for _, m := range page {
				if m.Sequence > last.Sequence {
					return
				}
				if !yield(m, nil) {
					return
				}
				next = m.Sequence + 1
			}
			if more || next > last.Sequence {
				continue
			}
			// The replica is behind, or the last message was erased since.
			if last, err = s.waitForReplica(ctx, subject); err != nil {
				yield(nil, err)
				return
			}
			if last == nil {
				return
			}
		}
	}
}

func (s *Store) waitForReplica(ctx context.Context, subject string) (*message, error) {
	if err := pause(ctx, replicaWait); err != nil {
		return nil, fmt.Errorf("%w: a replica of the stream is behind", err)
	}
	return s.leaderGet(ctx, s.config.EventsStream, getRequest{LastBySubject: subject})
}

// GetLatestVersion answers the latest version of an actor, from the leader.
func (s *Store) GetLatestVersion(ctx context.Context, actorID string) (int64, error) {
	if err := eventstore.ValidateActorID(actorID); err != nil {
		return 0, fmt.Errorf("read latest version: %w", err)
	}
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	head, err := s.head(ctx, actorID, true)
	if err != nil {
		return 0, fmt.Errorf("read latest version of actor %q in stream %s: %w", actorID, s.config.EventsStream, err)
	}
	return head.version, nil
}

// head is where an actor stands.
type head struct {
	// sequence is that of the actor's last message, 0 where there is none: what a
	// save expects.
	sequence uint64
	// version is the actor's latest.
	version int64
}

// head reads where an actor stands: exactly from the leader, or a little cheaper
// from any replica, which may be behind. Here is the place for a cache: a head
// that is old costs a save one more try and nothing else, since JetStream
// decides.
func (s *Store) head(ctx context.Context, actorID string, fromLeader bool) (head, error) {
	subject := EventsSubject(s.config.EventsStream, actorID)
	var last *message
	var err error
	if fromLeader {
		last, err = s.leaderGet(ctx, s.config.EventsStream, getRequest{LastBySubject: subject})
	} else {
		last, err = s.directLast(ctx, s.config.EventsStream, subject)
	}
	if err != nil {
		return head{}, err
	}
	if last == nil {
		version, err := s.snapshotVersion(ctx, actorID)
		return head{version: version}, err
	}
	if event, err := decodeEvent(last); err == nil {
		return head{sequence: last.Sequence, version: event.Version}, nil
	}
	version, err := s.latestReadable(ctx, actorID)
	return head{sequence: last.Sequence, version: version}, err
}

// latestReadable is the latest version of an actor whose last message is no
// event.
func (s *Store) latestReadable(ctx context.Context, actorID string) (int64, error) {
	var latest int64
	for m, err := range s.messages(ctx, EventsSubject(s.config.EventsStream, actorID), 0) {
		if err != nil {
			return 0, err
		}
		if event, err := decodeEvent(m); err == nil {
			latest = max(latest, event.Version)
		}
	}
	if latest > 0 {
		return latest, nil
	}
	return s.snapshotVersion(ctx, actorID)
}
