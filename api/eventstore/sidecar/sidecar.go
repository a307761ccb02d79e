package sidecar

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net"
	"net/http"
	"net/url"
	"time"

	"connectrpc.com/connect"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/internal/collect"
	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/internal/outcome"
	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/internal/versioning"
	eventstorev1 "git.flowmade.one/flowmade-one/aether-operator/api/eventstore/v1"
	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/v1/eventstorev1connect"
)

const (
	// callTimeout bounds a call whose context has no deadline. The sidecar bounds
	// it to 15 s by itself; the rest is for its answer to arrive.
	callTimeout = 20 * time.Second
	// silenceTimeout bounds how long a read may wait for its next event.
	silenceTimeout = 30 * time.Second
	// idleConnections is how many connections are kept for calls, and idleTimeout for
	// how long; the sidecar keeps them longer.
	idleConnections = 64
	idleTimeout     = time.Minute
	// pingInterval is how often a silent connection is tried, so that a
	// subscription finds out that the sidecar has gone.
	pingInterval = 15 * time.Second
	// maxMessageBytes is more than the largest event, and bounds what a mistake on
	// the other side can cost.
	maxMessageBytes = 16 << 20
)

// ErrUnknownStore: the sidecar serves no store of that name.
var ErrUnknownStore = errors.New("unknown store")

// Store is an eventstore.Store over a sidecar. Make one with New.
type Store struct {
	name string
	opts eventstore.Options
	// client makes calls, and streams follows; each over its own transport.
	client, streams       eventstorev1connect.EventStoreServiceClient
	callsOver, streamOver *http.Transport
	saves                 *group
}

var _ eventstore.Store = (*Store)(nil)

// New makes a Store of the sidecar at endpoint, which is the value of
// AETHER_ENDPOINT: http://127.0.0.1:4280, or unix:///path of a socket. The store
// is named as the sidecar serves it; empty is its only or first one. A Bus and
// Metrics learn what this Store has saved, not what others have.
//
// New does not connect: it fails on an endpoint that it does not understand.
func New(endpoint, store string, opts ...eventstore.Option) (*Store, error) {
	base, dial, err := parseEndpoint(endpoint)
	if err != nil {
		return nil, err
	}
	s := &Store{name: store, opts: eventstore.NewOptions(opts...)}
	// A call takes a third less time over HTTP/1.1, with a connection to itself.
	s.callsOver = &http.Transport{DialContext: dial, MaxIdleConnsPerHost: idleConnections, IdleConnTimeout: idleTimeout, Protocols: new(http.Protocols)}
	s.callsOver.Protocols.SetHTTP1(true)
	s.streamOver = &http.Transport{
		DialContext: dial,
		Protocols:   new(http.Protocols),
		HTTP2:       &http.HTTP2Config{SendPingTimeout: pingInterval, PingTimeout: pingInterval},
	}
	// Streams share one connection, and there is no TLS on localhost.
	s.streamOver.Protocols.SetUnencryptedHTTP2(true)
	s.client, s.streams = newClient(oneWrite{s.callsOver}, base), newClient(s.streamOver, base)
	s.saves = &group{client: s.client, patience: patience}
	return s, nil
}

func newClient(transport http.RoundTripper, base string) eventstorev1connect.EventStoreServiceClient {
	return eventstorev1connect.NewEventStoreServiceClient(&http.Client{Transport: transport}, base,
		connect.WithReadMaxBytes(maxMessageBytes),
		// Over localhost compression costs more than it saves.
		connect.WithAcceptCompression("gzip", nil, nil))
}

type dialFunc func(ctx context.Context, network, address string) (net.Conn, error)

// parseEndpoint returns the base of URLs, and how to dial.
func parseEndpoint(endpoint string) (base string, dial dialFunc, err error) {
	var dialer net.Dialer
	u, err := url.Parse(endpoint)
	switch {
	case err != nil:
		return "", nil, fmt.Errorf("endpoint of the sidecar: %w", err)
	case u.Scheme == "unix" && u.Host == "" && u.Path != "":
		return "http://sidecar", func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, "unix", u.Path)
		}, nil
	case u.Scheme == "http" && u.Host != "":
		return u.String(), dialer.DialContext, nil
	}
	return "", nil, fmt.Errorf("endpoint of the sidecar is %.100q: give http://127.0.0.1:4280, or unix:///path of its socket, as AETHER_ENDPOINT has it", endpoint)
}

// Close gives up the connections that no call uses. It loses no save: those that
// are under way, and those that wait to go together, are made and answered as if
// it had not been called. Subscriptions have a Close of their own.
func (s *Store) Close() error {
	s.callsOver.CloseIdleConnections()
	s.streamOver.CloseIdleConnections()
	return nil
}

// SaveEvent stores one event.
func (s *Store) SaveEvent(ctx context.Context, event eventstore.Event, opts ...eventstore.SaveOption) (eventstore.Saved, error) {
	saved, err := s.SaveEvents(ctx, []eventstore.Event{event}, opts...)
	if err != nil {
		return eventstore.Saved{}, err
	}
	return saved[0], nil
}

// SaveEvents stores events, all or none.
func (s *Store) SaveEvents(ctx context.Context, events []eventstore.Event, opts ...eventstore.SaveOption) ([]eventstore.Saved, error) {
	stamped, err := s.stamp(ctx, events)
	var saved []eventstore.Saved
	if err == nil {
		saved, err = s.save(ctx, stamped, eventstore.NewSaveOptions(opts...))
	}
	if err != nil {
		outcome.Failed(&s.opts, err)
		return nil, fmt.Errorf("save %s through the sidecar: %w", outcome.Subject(events), err)
	}
	outcome.Saved(&s.opts, stamped, saved)
	return saved, nil
}

// stamp sets the timestamps here, so that a notification has the one that is
// stored.
func (s *Store) stamp(ctx context.Context, events []eventstore.Event) ([]eventstore.Event, error) {
	if err := notSent(ctx); err != nil {
		return nil, err
	}
	stamped := make([]eventstore.Event, len(events))
	for i, event := range events {
		if event.Timestamp.IsZero() {
			event.Timestamp = s.opts.Now()
		}
		// Round drops the monotonic clock, which is not sent.
		event.Timestamp = event.Timestamp.Round(0).UTC()
		stamped[i] = event
	}
	return stamped, nil
}

func (s *Store) save(ctx context.Context, events []eventstore.Event, opts eventstore.SaveOptions) ([]eventstore.Saved, error) {
	// What breaks a rule is not sent; protobuf has no words for some of it.
	if err := versioning.ValidateBatch(events, opts); err != nil {
		return nil, err
	}
	request := &eventstorev1.SaveEventsRequest{
		Store: s.name, Events: make([]*eventstorev1.Event, len(events)),
	}
	for i := range events {
		request.Events[i] = eventstorev1.FromEvent(&events[i])
	}
	if len(opts.Expected) > 0 {
		request.ExpectedVersions = make(map[string]*eventstorev1.ExpectedVersion, len(opts.Expected))
	}
	for actorID, expected := range opts.Expected {
		request.ExpectedVersions[actorID] = eventstorev1.FromExpected(expected)
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
	response, err := s.saves.save(ctx, request)
	if err != nil {
		return nil, err
	}
	if len(response.GetSaved()) != len(events) {
		return nil, fmt.Errorf("the sidecar answered for %d events, and %d were sent: %w", len(response.GetSaved()), len(events), eventstore.ErrUnknownOutcome)
	}
	saved := make([]eventstore.Saved, len(events))
	for i, message := range response.GetSaved() {
		saved[i] = message.ToSaved()
	}
	return saved, nil
}

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

// SaveSnapshot stores the state of an actor.
func (s *Store) SaveSnapshot(ctx context.Context, snapshot eventstore.Snapshot) error {
	if err := s.saveSnapshot(ctx, snapshot); err != nil {
		outcome.Failed(&s.opts, err)
		return fmt.Errorf("save snapshot through the sidecar: %w", err)
	}
	s.opts.Metrics.SnapshotsSaved.Add(1)
	return nil
}

func (s *Store) saveSnapshot(ctx context.Context, snapshot eventstore.Snapshot) error {
	if err := notSent(ctx); err != nil {
		return err
	}
	if err := snapshot.Validate(); err != nil {
		return err
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
	_, err := s.client.SaveSnapshot(ctx, &eventstorev1.SaveSnapshotRequest{Store: s.name, Snapshot: eventstorev1.FromSnapshot(&snapshot)})
	if err != nil {
		return saveError(ctx, err)
	}
	return nil
}

// GetLatestSnapshot answers the newest snapshot of an actor.
func (s *Store) GetLatestSnapshot(ctx context.Context, actorID string) (eventstore.Snapshot, error) {
	if err := readable(ctx, actorID); err != nil {
		return eventstore.Snapshot{}, fmt.Errorf("read snapshot through the sidecar: %w", err)
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
	response, err := s.client.GetLatestSnapshot(ctx, &eventstorev1.GetLatestSnapshotRequest{Store: s.name, ActorId: actorID})
	if err != nil {
		return eventstore.Snapshot{}, fmt.Errorf("read snapshot of actor %.100q through the sidecar: %w", actorID, readError(ctx, err))
	}
	return response.GetSnapshot().ToSnapshot()
}

// DeleteSnapshot deletes the snapshots of an actor.
func (s *Store) DeleteSnapshot(ctx context.Context, actorID string, version int64) error {
	if err := s.deleteSnapshot(ctx, actorID, version); err != nil {
		outcome.Failed(&s.opts, err)
		return fmt.Errorf("delete snapshot of actor %.100q through the sidecar: %w", actorID, err)
	}
	return nil
}

func (s *Store) deleteSnapshot(ctx context.Context, actorID string, version int64) error {
	if err := readable(ctx, actorID); err != nil {
		return err
	}
	if err := eventstore.ValidateSnapshotVersion(version); err != nil {
		return err
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
	_, err := s.client.DeleteSnapshot(ctx, &eventstorev1.DeleteSnapshotRequest{Store: s.name, ActorId: actorID, Version: version})
	if err != nil {
		return saveError(ctx, err)
	}
	return nil
}

// bounded gives a context a deadline that has none.
func bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, has := ctx.Deadline(); has {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, callTimeout)
}

func readable(ctx context.Context, actorID string) error {
	if err := eventstore.ValidateActorID(actorID); err != nil {
		return err
	}
	return notSent(ctx)
}

// notSent is the error of a context that has ended before anything was sent.
func notSent(ctx context.Context) error {
	if ctx.Err() == nil {
		return nil
	}
	return fmt.Errorf("%w: %w", eventstore.ErrUnavailable, ctx.Err())
}
