package sidecar

import (
	"context"
	"fmt"
	"iter"
	"time"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/internal/collect"
	eventstorev1 "git.flowmade.one/flowmade-one/aether-operator/api/eventstore/v1"
)

// GetEvents answers the events of an actor.
func (s *Store) GetEvents(ctx context.Context, actorID string, fromVersion int64, opts ...eventstore.ReadOption) ([]eventstore.Event, error) {
	result, err := s.GetEventsWithErrors(ctx, actorID, fromVersion, opts...)
	return result.Events, err
}

// GetEventsWithErrors is GetEvents that reports what GetEvents skips.
func (s *Store) GetEventsWithErrors(ctx context.Context, actorID string, fromVersion int64, opts ...eventstore.ReadOption) (eventstore.ReplayResult, error) {
	return collect.Events(s.Events(ctx, actorID, fromVersion, opts...))
}

// Events yields the events of an actor as they arrive, in pages: a stream has a
// message for each event, which costs more.
func (s *Store) Events(ctx context.Context, actorID string, fromVersion int64, opts ...eventstore.ReadOption) iter.Seq2[eventstore.Event, error] {
	if wanted := eventstore.NewReadOptions(opts...); wanted != (eventstore.ReadOptions{}) {
		return s.stream(ctx, actorID, fromVersion, wanted)
	}
	return func(yield func(eventstore.Event, error) bool) {
		var fromSequence uint64
		for more := true; more; {
			page, err := s.page(ctx, actorID, fromVersion, fromSequence)
			if err != nil {
				yield(eventstore.Event{}, fmt.Errorf("read events of actor %.100q through the sidecar: %w", actorID, err))
				return
			}
			if page.GetTruncated() && !yield(eventstore.Event{}, &eventstore.TruncatedError{ActorID: actorID, FirstVersion: page.GetFirstVersion()}) {
				return
			}
			for event, err := range s.inOrder(page) {
				if !yield(event, err) {
					return
				}
			}
			next := page.GetNextFromSequence()
			if more = next > 0; more && next <= fromSequence {
				yield(eventstore.Event{}, fmt.Errorf("read events of actor %.100q through the sidecar: %w: the page from sequence %d is followed by one from %d", actorID, eventstore.ErrUnavailable, fromSequence, next))
				return
			}
			fromSequence = next
		}
	}
}

func (s *Store) page(ctx context.Context, actorID string, fromVersion int64, fromSequence uint64) (*eventstorev1.GetEventsResponse, error) {
	if err := readable(ctx, actorID); err != nil {
		return nil, err
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
	page, err := s.client.GetEvents(ctx, &eventstorev1.GetEventsRequest{
		Store: s.name, ActorId: actorID, FromVersion: max(fromVersion, 0), FromSequence: fromSequence,
	})
	if err != nil {
		return nil, readError(ctx, err)
	}
	return page, nil
}

// inOrder yields what a page holds in the order of sequences.
func (s *Store) inOrder(page *eventstorev1.GetEventsResponse) iter.Seq2[eventstore.Event, error] {
	return func(yield func(eventstore.Event, error) bool) {
		events, replays := page.GetEvents(), page.GetErrors()
		for len(events) > 0 || len(replays) > 0 {
			if len(replays) == 0 || len(events) > 0 && events[0].GetSequence() < replays[0].GetSequence() {
				if !yield(s.received(events[0], nil)) {
					return
				}
				events = events[1:]
				continue
			}
			if !yield(s.received(nil, replays[0])) {
				return
			}
			replays = replays[1:]
		}
	}
}

// stream is Events for a read with options.
func (s *Store) stream(ctx context.Context, actorID string, fromVersion int64, opts eventstore.ReadOptions) iter.Seq2[eventstore.Event, error] {
	return func(yield func(eventstore.Event, error) bool) {
		fail := func(err error) {
			yield(eventstore.Event{}, fmt.Errorf("read events of actor %.100q through the sidecar: %w", actorID, err))
		}
		if err := readable(ctx, actorID); err != nil {
			fail(err)
			return
		}
		reading, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		silence := time.AfterFunc(silenceTimeout, func() { cancel(errSilent) })
		defer silence.Stop()
		request := &eventstorev1.StreamEventsRequest{Store: s.name, ActorId: actorID, FromVersion: max(fromVersion, 0)}
		request.SetOptions(opts)
		stream, err := s.streams.StreamEvents(reading, request)
		if err != nil {
			fail(readError(reading, err))
			return
		}
		defer func() { _ = stream.Close() }()
		for stream.Receive() {
			// Not while the caller works on the event.
			silence.Stop()
			var event eventstore.Event
			var err error = &eventstore.TruncatedError{ActorID: actorID, FirstVersion: stream.Msg().GetTruncated().GetFirstVersion()}
			if stream.Msg().GetTruncated() == nil {
				event, err = s.received(stream.Msg().GetEvent(), stream.Msg().GetError())
			}
			if !yield(event, err) {
				return
			}
			silence.Reset(silenceTimeout)
		}
		if err := stream.Err(); err != nil {
			fail(readError(reading, err))
		}
	}
}

// errSilent: the sidecar neither sent nor ended.
var errSilent = fmt.Errorf("the sidecar sent nothing for %s: %w", silenceTimeout, eventstore.ErrUnavailable)

// received counts and converts what a stream delivered.
func (s *Store) received(event *eventstorev1.Event, replay *eventstorev1.ReplayError) (eventstore.Event, error) {
	if replay != nil {
		s.opts.Metrics.ReplayErrors.Add(1)
		return eventstore.Event{}, replay.ToReplayError()
	}
	s.opts.Metrics.EventsRead.Add(1)
	return event.ToEvent()
}

// GetLatestVersion answers the latest version of an actor.
func (s *Store) GetLatestVersion(ctx context.Context, actorID string) (int64, error) {
	if err := readable(ctx, actorID); err != nil {
		return 0, fmt.Errorf("read latest version through the sidecar: %w", err)
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
	response, err := s.client.GetLatestVersion(ctx, &eventstorev1.GetLatestVersionRequest{Store: s.name, ActorId: actorID})
	if err != nil {
		return 0, fmt.Errorf("read latest version of actor %.100q through the sidecar: %w", actorID, readError(ctx, err))
	}
	return response.GetVersion(), nil
}
