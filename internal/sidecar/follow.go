package sidecar

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
)

// followEvents answers with server-sent events, until the client goes, the
// server stops or the subscription fails.
func (s *Server) followEvents(c *call) error {
	if !accepts(c.r, "text/event-stream") {
		return &requestError{field: "Accept", reason: "is not text/event-stream, which is all that events are followed in", status: http.StatusNotAcceptable}
	}
	opts, err := followOptions(c)
	if err != nil {
		return err
	}
	if c.r.Method == http.MethodHead {
		c.w.Header().Set("Content-Type", "text/event-stream")
		return asRequest(opts.Validate())
	}
	subscription, err := s.subscribe(c.r.Context(), c.store, opts)
	if err != nil {
		return err
	}
	defer func() { _ = subscription.Close() }()
	ctx, cancel := s.streamContext(c.r.Context())
	defer cancel()

	s.stream(c.w, c.r, 0)
	header := c.w.Header()
	header.Set("Content-Type", "text/event-stream")
	// nginx would collect what should arrive at once.
	header.Set("X-Accel-Buffering", "no")
	stream := &eventStream{w: c.w, control: http.NewResponseController(c.w), heartbeat: s.heartbeat}
	stream.write("retry: %d\n%s\n", retryMilliseconds, placeOf(subscription))
	stream.follow(ctx, subscription)
	return nil
}

// retryMilliseconds is how long a browser waits before it connects again.
const retryMilliseconds = 1000

// subscribe bounds the call; the subscription lives on.
func (s *Server) subscribe(ctx context.Context, store *Store, opts eventstore.SubscribeOptions) (eventstore.Subscription, error) {
	ctx, cancel := context.WithTimeout(ctx, s.config.RequestTimeout)
	defer cancel()
	subscription, err := store.Store.Subscribe(ctx, opts)
	return subscription, asRequest(err)
}

// followOptions reads where to start and what to deliver. Last-Event-ID, which
// a client sends that has followed before, wins.
func followOptions(c *call) (eventstore.SubscribeOptions, error) {
	opts := eventstore.SubscribeOptions{
		ActorType: c.query.Get("actorType"), ActorID: c.query.Get("actorId"), EventType: c.query.Get("eventType"),
	}
	switch from := c.query.Get("fromSequence"); {
	case from == "now":
		opts.FromNow = true
	case c.query.Has("fromSequence"):
		sequence, err := strconv.ParseUint(from, 10, 64)
		if err != nil {
			return opts, &requestError{field: "fromSequence", reason: fmt.Sprintf("is %.100q: give a number from 0, or now", from)}
		}
		opts.FromSequence = sequence
	}
	if c.query.Has("fromTime") {
		var reason string
		if opts.FromTime, reason = parseTime(c.query.Get("fromTime")); reason != "" {
			return opts, &requestError{field: "fromTime", reason: reason}
		}
	}
	if last := c.r.Header.Get("Last-Event-ID"); last != "" {
		sequence, err := strconv.ParseUint(last, 10, 63)
		if err != nil {
			return opts, &requestError{field: "Last-Event-ID", reason: fmt.Sprintf("is %.100q: give the id of an event of this stream", last)}
		}
		opts.FromNow, opts.FromTime, opts.FromSequence = false, time.Time{}, sequence+1
	}
	return opts, nil
}

// eventStream writes server-sent events. After the first write that fails it
// does nothing.
type eventStream struct {
	w       io.Writer
	control *http.ResponseController
	// heartbeat is how long there may be silence.
	heartbeat time.Duration
	err       error
}

func (s *eventStream) write(format string, args ...any) {
	if s.err == nil {
		_, s.err = fmt.Fprintf(s.w, format, args...)
	}
	if s.err == nil {
		s.err = s.control.Flush()
	}
}

// follow writes what a subscription delivers. Events have no name of their own:
// browsers hand named ones only to listeners of that name.
func (s *eventStream) follow(ctx context.Context, subscription eventstore.Subscription) {
	account := accountOf(ctx)
	for s.err == nil && ctx.Err() == nil {
		event, err := nextOrHeartbeat(ctx, subscription, s.heartbeat)
		if err == nil {
			err = account.met(&event, followPages)
		}
		var replay *eventstore.ReplayError
		switch {
		case errors.Is(err, errHeartbeat):
			s.write(": alive\n%s\n", placeOf(subscription))
		case err == nil:
			s.writeDocument(fmt.Sprintf("id: %d\n", event.Sequence), encodeEvent(&event))
		case errors.As(err, &replay):
			s.writeDocument(fmt.Sprintf("event: replay-error\nid: %d\n", replay.Sequence), encodeReplayError(replay))
		case ctx.Err() != nil:
			return
		default:
			// The client connects again, from the last id that it has.
			s.writeDocument("event: problem\n", failureOf(err).problem())
			return
		}
	}
}

// placeOf is the id from which a client goes on that comes back: browsers remember it
// without an event too. It is empty while there is none.
func placeOf(subscription eventstore.Subscription) string {
	if position, known := subscription.Position(); known {
		return fmt.Sprintf("id: %d\n", position)
	}
	return ""
}

func (s *eventStream) writeDocument(head string, document any) {
	// Marshalled JSON has no line break but the one at its end.
	data, err := marshal(document)
	if err != nil {
		s.err = err
		return
	}
	s.write("%sdata: %s\n", head, data)
}

// errHeartbeat: nothing came for a while.
var errHeartbeat = errors.New("no event for a while")

func nextOrHeartbeat(ctx context.Context, subscription eventstore.Subscription, heartbeat time.Duration) (eventstore.Event, error) {
	waiting, cancel := context.WithTimeout(ctx, heartbeat)
	defer cancel()
	event, err := subscription.Next(waiting)
	if err != nil && waiting.Err() != nil && errors.Is(err, waiting.Err()) && ctx.Err() == nil {
		return event, errHeartbeat
	}
	return event, err
}
