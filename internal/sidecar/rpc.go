package sidecar

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"connectrpc.com/connect"
	"connectrpc.com/grpchealth"
	"connectrpc.com/grpcreflect"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
	eventstorev1 "git.flowmade.one/flowmade-one/aether-operator/api/eventstore/v1"
	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/v1/eventstorev1connect"
)

// rpcRoutes mounts the service with health and reflection beside it.
func (s *Server) rpcRoutes() http.Handler {
	mux := http.NewServeMux()
	path, handler := eventstorev1connect.NewEventStoreServiceHandler(&service{server: s},
		connect.WithReadMaxBytes(int(s.config.MaxBodyBytes)), connect.WithInterceptors(&edge{server: s}),
		// Over localhost compression costs more than it saves, and a few bytes could
		// become more than there is memory for.
		connect.WithCompression("gzip", nil, nil))
	mux.Handle(path, s.admitted(handler))
	mux.Handle(grpchealth.NewHandler(&healthChecker{server: s}))
	reflector := grpcreflect.NewStaticReflector(rpcServices...)
	mux.Handle(grpcreflect.NewHandlerV1(reflector))
	mux.Handle(grpcreflect.NewHandlerV1Alpha(reflector))
	return s.known(mux)
}

// edge is where every RPC gets its deadline, and every error its meaning.
type edge struct{ server *Server }

func (e *edge) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, request connect.AnyRequest) (response connect.AnyResponse, err error) {
		ctx, calling := e.server.begin(ctx, request.Header(), "rpc", request.Spec().Procedure, false)
		ctx, cancel := context.WithTimeout(ctx, e.server.config.RequestTimeout)
		defer cancel()
		defer func() { err = e.finish(ctx, request.Spec().Procedure, calling, recover(), err) }()
		return next(ctx, request)
	}
}

func (e *edge) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return func(ctx context.Context, conn connect.StreamingHandlerConn) (err error) {
		ctx, calling := e.server.begin(ctx, conn.RequestHeader(), "rpc", conn.Spec().Procedure, true)
		ctx, cancel := e.server.streamContext(ctx)
		defer cancel()
		defer func() { err = e.finish(ctx, conn.Spec().Procedure, calling, recover(), err) }()
		return next(ctx, conn)
	}
}

// WrapStreamingClient is for clients, which there are none of here.
func (e *edge) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}

// finish counts a call, and gives its error the meaning that a client sees.
func (e *edge) finish(ctx context.Context, procedure string, calling *calling, panicked any, err error) error {
	if panicked == http.ErrAbortHandler {
		panic(panicked)
	}
	if failed := e.server.settle(ctx, procedure, calling, panicked, err); failed != nil {
		return failed.connectError()
	}
	return nil
}

// settle counts what a call came to, logs its failure, and says what that means
// to a client; nil where it did not fail.
func (s *Server) settle(ctx context.Context, procedure string, calling *calling, panicked any, err error) *failure {
	if panicked != nil {
		s.logPanic(ctx, procedure, panicked)
		err = errPanicked
	}
	if err == nil {
		calling.end(ctx, "ok", "")
		return nil
	}
	answer := meaning(ctx, err)
	calling.end(ctx, answer.rpc.String(), answer.failed())
	s.logFailure(ctx, procedure, answer)
	return &answer
}

// meaning is failureOf, for a call that may have ended because the server stops.
func meaning(ctx context.Context, err error) failure {
	if errors.Is(context.Cause(ctx), errStopping) {
		return failureOf(errStopping)
	}
	// What Connect itself found wrong, such as a message cut off, has a code.
	if already := new(connect.Error); errors.As(err, &already) {
		return failure{rpc: already.Code(), code: already.Code().String(), detail: already.Message()}
	}
	return failureOf(err)
}

// service is the EventStoreService over the stores of a Server. Its errors are
// those of the stores; edge translates them.
type service struct{ server *Server }

var _ eventstorev1connect.EventStoreServiceHandler = (*service)(nil)

func (s *service) SaveEvent(ctx context.Context, request *eventstorev1.SaveEventRequest) (*eventstorev1.SaveEventResponse, error) {
	store, err := s.server.store(request.GetStore())
	if err != nil {
		return nil, err
	}
	event, err := request.GetEvent().ToEvent()
	if err != nil {
		return nil, err
	}
	expected, err := request.GetExpectedVersion().ToExpected()
	if err != nil {
		return nil, err
	}
	events := []eventstore.Event{event}
	inTrace(ctx, events...)
	saved, err := store.Store.SaveEvent(ctx, events[0], eventstore.Expect(event.ActorID, expected))
	if err != nil {
		return nil, err
	}
	return &eventstorev1.SaveEventResponse{Saved: eventstorev1.FromSaved(saved)}, nil
}

func (s *service) SaveEvents(ctx context.Context, request *eventstorev1.SaveEventsRequest) (*eventstorev1.SaveEventsResponse, error) {
	store, err := s.server.store(request.GetStore())
	if err != nil {
		return nil, err
	}
	events := make([]eventstore.Event, len(request.GetEvents()))
	for i, message := range request.GetEvents() {
		if events[i], err = message.ToEvent(); err != nil {
			return nil, atIndex(err, i, len(events))
		}
	}
	var opts []eventstore.SaveOption
	for actorID, message := range request.GetExpectedVersions() {
		expected, err := message.ToExpected()
		if err != nil {
			return nil, err
		}
		opts = append(opts, eventstore.Expect(actorID, expected))
	}
	inTrace(ctx, events...)
	saved, err := store.Store.SaveEvents(ctx, events, opts...)
	if err != nil {
		return nil, err
	}
	response := &eventstorev1.SaveEventsResponse{Saved: make([]*eventstorev1.SavedEvent, len(saved))}
	for i := range saved {
		response.Saved[i] = eventstorev1.FromSaved(saved[i])
	}
	return response, nil
}

func (s *service) GetEvents(ctx context.Context, request *eventstorev1.GetEventsRequest) (*eventstorev1.GetEventsResponse, error) {
	store, err := s.server.store(request.GetStore())
	if err != nil {
		return nil, err
	}
	limit := int(request.GetLimit())
	if limit < 0 || limit > maxPageEvents {
		return nil, &requestError{field: "limit", reason: fmt.Sprintf("is %d: give a number from 1 to %d, or 0 for the most", limit, maxPageEvents)}
	}
	if limit == 0 {
		limit = maxPageEvents
	}
	if err := notNegative("fromVersion", request.GetFromVersion()); err != nil {
		return nil, err
	}
	page, err := s.server.readPage(ctx, store, request.GetActorId(), request.GetFromVersion(), request.GetFromSequence(), limit)
	if err != nil {
		return nil, err
	}
	response := &eventstorev1.GetEventsResponse{NextFromSequence: page.next, Truncated: page.truncated, FirstVersion: page.firstVersion}
	for i := range page.events {
		response.Events = append(response.Events, eventstorev1.FromEvent(&page.events[i]))
	}
	for _, replay := range page.errors {
		response.Errors = append(response.Errors, eventstorev1.FromReplayError(replay))
	}
	return response, nil
}

// notNegative refuses numbers below 0, as HTTP does: 0 is a number that is left out.
func notNegative(field string, n int64) error {
	if n < 0 {
		return &requestError{field: field, reason: fmt.Sprintf("is %d: give a number from 0", n)}
	}
	return nil
}

func (s *service) StreamEvents(ctx context.Context, request *eventstorev1.StreamEventsRequest, stream *connect.ServerStream[eventstorev1.StreamEventsResponse]) error {
	store, err := s.server.store(request.GetStore())
	if err != nil {
		return err
	}
	opts, err := request.ToOptions()
	if err != nil {
		return err
	}
	if err := errors.Join(notNegative("fromVersion", request.GetFromVersion()), notNegative("newest", int64(request.GetNewest()))); err != nil {
		return err
	}
	for event, err := range s.server.replay(ctx, store, request.GetActorId(), request.GetFromVersion(), opts...) {
		message := &eventstorev1.StreamEventsResponse{}
		var replay *eventstore.ReplayError
		var truncated *eventstore.TruncatedError
		switch {
		case errors.As(err, &truncated):
			message.Item = &eventstorev1.StreamEventsResponse_Truncated{Truncated: &eventstorev1.Truncated{FirstVersion: truncated.FirstVersion}}
		case err == nil:
			message.Item = &eventstorev1.StreamEventsResponse_Event{Event: eventstorev1.FromEvent(&event)}
		case errors.As(err, &replay):
			message.Item = &eventstorev1.StreamEventsResponse_Error{Error: eventstorev1.FromReplayError(replay)}
		default:
			return err
		}
		if err := stream.Send(message); err != nil {
			return err
		}
	}
	return nil
}

func (s *service) GetLatestVersion(ctx context.Context, request *eventstorev1.GetLatestVersionRequest) (*eventstorev1.GetLatestVersionResponse, error) {
	store, err := s.server.store(request.GetStore())
	if err != nil {
		return nil, err
	}
	version, err := readVersion(ctx, store, request.GetActorId())
	if err != nil {
		return nil, err
	}
	return &eventstorev1.GetLatestVersionResponse{Version: version}, nil
}

func (s *service) SaveSnapshot(ctx context.Context, request *eventstorev1.SaveSnapshotRequest) (*eventstorev1.SaveSnapshotResponse, error) {
	store, err := s.server.store(request.GetStore())
	if err != nil {
		return nil, err
	}
	snapshot, err := request.GetSnapshot().ToSnapshot()
	if err != nil {
		return nil, err
	}
	if err := store.Store.SaveSnapshot(ctx, snapshot); err != nil {
		return nil, err
	}
	return &eventstorev1.SaveSnapshotResponse{}, nil
}

func (s *service) GetLatestSnapshot(ctx context.Context, request *eventstorev1.GetLatestSnapshotRequest) (*eventstorev1.GetLatestSnapshotResponse, error) {
	store, err := s.server.store(request.GetStore())
	if err != nil {
		return nil, err
	}
	snapshot, err := s.server.readSnapshot(ctx, store, request.GetActorId())
	if err != nil {
		return nil, err
	}
	return &eventstorev1.GetLatestSnapshotResponse{Snapshot: eventstorev1.FromSnapshot(&snapshot)}, nil
}

func (s *service) DeleteSnapshot(ctx context.Context, request *eventstorev1.DeleteSnapshotRequest) (*eventstorev1.DeleteSnapshotResponse, error) {
	store, err := s.server.store(request.GetStore())
	if err != nil {
		return nil, err
	}
	if version := request.GetVersion(); version < 0 || version > eventstore.MaxVersion {
		return nil, &requestError{field: "version", reason: fmt.Sprintf("is %d: give a number from 1 to %d, or 0 for any", version, int64(eventstore.MaxVersion))}
	}
	if err := store.Store.DeleteSnapshot(ctx, request.GetActorId(), request.GetVersion()); err != nil {
		return nil, err
	}
	return &eventstorev1.DeleteSnapshotResponse{}, nil
}

func (s *service) Subscribe(ctx context.Context, request *eventstorev1.SubscribeRequest, stream *connect.ServerStream[eventstorev1.SubscribeResponse]) error {
	store, err := s.server.store(request.GetStore())
	if err != nil {
		return err
	}
	opts, err := request.ToOptions()
	if err != nil {
		return err
	}
	subscription, err := s.server.subscribe(ctx, store, opts)
	if err != nil {
		return err
	}
	defer func() { _ = subscription.Close() }()
	account := accountOf(ctx)
	// The place to start is fixed.
	message := &eventstorev1.SubscribeResponse{}
	for {
		message.Position = nil
		if position, known := subscription.Position(); known {
			message.Position = &position
		}
		if err := stream.Send(message); err != nil {
			return err
		}
		event, err := nextOrHeartbeat(ctx, subscription, s.server.heartbeat)
		if err == nil {
			err = account.met(&event, followPages)
		}
		var replay *eventstore.ReplayError
		switch {
		case errors.Is(err, errHeartbeat):
			message = &eventstorev1.SubscribeResponse{}
		case err == nil:
			message = &eventstorev1.SubscribeResponse{Item: &eventstorev1.SubscribeResponse_Event{Event: eventstorev1.FromEvent(&event)}}
		case errors.As(err, &replay):
			message = &eventstorev1.SubscribeResponse{Item: &eventstorev1.SubscribeResponse_Error{Error: eventstorev1.FromReplayError(replay)}}
		default:
			return err
		}
	}
}
