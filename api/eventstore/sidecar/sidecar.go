package sidecar

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"time"

	"connectrpc.com/connect"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
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
