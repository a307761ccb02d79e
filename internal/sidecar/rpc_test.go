package sidecar_test

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"connectrpc.com/grpchealth"
	"connectrpc.com/grpcreflect"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/memory"
	eventstorev1 "git.flowmade.one/flowmade-one/aether-operator/api/eventstore/v1"
	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/v1/eventstorev1connect"
	"git.flowmade.one/flowmade-one/aether-operator/internal/sidecar"
)

// protocols are what a client may speak.
var protocols = map[string][]connect.ClientOption{
	"connect":      nil,
	"connect json": {connect.WithProtoJSON()},
	"grpc":         {connect.WithGRPC()},
	"grpc-web":     {connect.WithGRPCWeb()},
}

// http2 speaks HTTP/2 without TLS, as gRPC clients do.
func http2(t *testing.T) *http.Client {
	transport := &http.Transport{Protocols: new(http.Protocols)}
	transport.Protocols.SetUnencryptedHTTP2(true)
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

func (r *running) rpc(opts ...connect.ClientOption) eventstorev1connect.EventStoreServiceClient {
	return eventstorev1connect.NewEventStoreServiceClient(http2(r.T), r.api, opts...)
}

func TestRPC(t *testing.T) {
	t.Parallel()
	for name, opts := range protocols {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := serveMemory(t)
			testRPC(t, r.rpc(opts...))
		})
	}
}

func testRPC(t *testing.T, client eventstorev1connect.EventStoreServiceClient) {
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	event := &eventstorev1.Event{Id: "e-1", EventType: "T", ActorId: "order-1", Data: []byte{0xff, 0}, ContentType: "image/png",
		Metadata: map[string]string{"k": "v"}, Timestamp: &timestamppb.Timestamp{Seconds: 1, Nanos: 2}}
	saved, err := client.SaveEvent(ctx, &eventstorev1.SaveEventRequest{Event: event})
	must(t, err)
	if want := (&eventstorev1.SavedEvent{Id: "e-1", ActorId: "order-1", Version: 1, Sequence: 1}); !proto.Equal(saved.GetSaved(), want) {
		t.Errorf("saved %v, want %v", saved, want)
	}
	_, err = client.SaveEvents(ctx, &eventstorev1.SaveEventsRequest{Store: "orders", Events: []*eventstorev1.Event{
		{Id: "e-2", EventType: "T", ActorId: "order-1"}, {Id: "e-3", EventType: "T", ActorId: "order-1"},
	}, ExpectedVersions: map[string]*eventstorev1.ExpectedVersion{"order-1": {Expected: &eventstorev1.ExpectedVersion_Version{Version: 1}}}})
	must(t, err)
	page, err := client.GetEvents(ctx, &eventstorev1.GetEventsRequest{ActorId: "order-1", Limit: 2})
	must(t, err)
	event.Version, event.Sequence = 1, 1
	if len(page.GetEvents()) != 2 || page.GetNextFromSequence() != 3 || !proto.Equal(page.GetEvents()[0], event) {
		t.Errorf("page %v, want 2 events, the first %v", page, event)
	}
	version, err := client.GetLatestVersion(ctx, &eventstorev1.GetLatestVersionRequest{ActorId: "order-1"})
	must(t, err)
	if version.GetVersion() != 3 {
		t.Errorf("latest version %d", version.GetVersion())
	}
	other, err := client.GetLatestVersion(ctx, &eventstorev1.GetLatestVersionRequest{Store: "payments", ActorId: "order-1"})
	must(t, err)
	if other.GetVersion() != 0 {
		t.Errorf("the other store has version %d", other.GetVersion())
	}
	_, err = client.SaveSnapshot(ctx, &eventstorev1.SaveSnapshotRequest{Snapshot: &eventstorev1.Snapshot{ActorId: "order-1", Version: 3, Data: []byte{0xfe}}})
	must(t, err)
	snapshot, err := client.GetLatestSnapshot(ctx, &eventstorev1.GetLatestSnapshotRequest{ActorId: "order-1"})
	must(t, err)
	if got := snapshot.GetSnapshot(); got.GetVersion() != 3 || string(got.GetData()) != "\xfe" || got.GetTimestamp() == nil {
		t.Errorf("snapshot %v", got)
	}
	for _, version := range []int64{3, 0} {
		_, err = client.DeleteSnapshot(ctx, &eventstorev1.DeleteSnapshotRequest{ActorId: "order-1", Version: version})
		must(t, err)
	}
	testRPCStreams(ctx, t, client)
}

func testRPCStreams(ctx context.Context, t *testing.T, client eventstorev1connect.EventStoreServiceClient) {
	stream, err := client.StreamEvents(ctx, &eventstorev1.StreamEventsRequest{ActorId: "order-1", FromVersion: 1})
	must(t, err)
	var ids []string
	for stream.Receive() {
		ids = append(ids, stream.Msg().GetEvent().GetId())
	}
	must(t, stream.Err())
	if !slices.Equal(ids, []string{"e-2", "e-3"}) {
		t.Errorf("streamed %q", ids)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	following, err := client.Subscribe(ctx, &eventstorev1.SubscribeRequest{FromNow: true})
	must(t, err)
	if !following.Receive() || following.Msg().GetItem() != nil {
		t.Fatalf("the first message is %v, want an empty one: %v", following.Msg(), following.Err())
	}
	_, err = client.SaveEvent(ctx, &eventstorev1.SaveEventRequest{Event: &eventstorev1.Event{Id: "e-9", EventType: "T", ActorId: "order-9"}})
	must(t, err)
	if !following.Receive() || following.Msg().GetEvent().GetId() != "e-9" {
		t.Fatalf("followed %v: %v", following.Msg(), following.Err())
	}
	cancel()
	if following.Receive() || following.Err() == nil {
		t.Error("a canceled stream goes on")
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// rpcFailures are the code and the detail of each error.
func rpcFailures() map[string]struct {
	call   func(context.Context, eventstorev1connect.EventStoreServiceClient) error
	code   connect.Code
	detail proto.Message
} {
	save := func(request *eventstorev1.SaveEventRequest) func(context.Context, eventstorev1connect.EventStoreServiceClient) error {
		return func(ctx context.Context, client eventstorev1connect.EventStoreServiceClient) error {
			_, err := client.SaveEvent(ctx, request)
			return err
		}
	}
	event := func(id, actorID string, version int64) *eventstorev1.Event {
		return &eventstorev1.Event{Id: id, EventType: "T", ActorId: actorID, Version: version}
	}
	reason := func(code string) proto.Message { return &eventstorev1.Reason{Code: code} }
	return map[string]struct {
		call   func(context.Context, eventstorev1connect.EventStoreServiceClient) error
		code   connect.Code
		detail proto.Message
	}{
		"conflict": {save(&eventstorev1.SaveEventRequest{Event: event("e-2", "order-1", 3)}), connect.CodeAborted,
			&eventstorev1.VersionConflict{ActorId: "order-1", EventId: "e-2", AttemptedVersion: 3, CurrentVersion: 3}},
		"conflict of what is expected": {save(&eventstorev1.SaveEventRequest{Event: event("e-2", "order-1", 0), ExpectedVersion: &eventstorev1.ExpectedVersion{Expected: &eventstorev1.ExpectedVersion_State_{State: eventstorev1.ExpectedVersion_STATE_NONE}}}), connect.CodeAborted,
			&eventstorev1.VersionConflict{ActorId: "order-1", EventId: "e-2", CurrentVersion: 3, ExpectedVersion: &eventstorev1.ExpectedVersion{Expected: &eventstorev1.ExpectedVersion_Version{}}}},
		"duplicate": {save(&eventstorev1.SaveEventRequest{Event: event("e-1", "other", 1)}), connect.CodeAlreadyExists,
			&eventstorev1.DuplicateEvent{EventId: "e-1", ActorId: "order-1", Version: 3, Sequence: 1}},
		"no event": {save(&eventstorev1.SaveEventRequest{}), connect.CodeInvalidArgument,
			&eventstorev1.FieldViolation{Field: "id", Description: "is missing"}},
		"expected version": {save(&eventstorev1.SaveEventRequest{Event: event("e-3", "a", 1), ExpectedVersion: &eventstorev1.ExpectedVersion{Expected: &eventstorev1.ExpectedVersion_Version{Version: -2}}}),
			connect.CodeInvalidArgument, &eventstorev1.FieldViolation{Field: "expectedVersion", Description: "is -2: give a number from 0, none, exists or any"}},
		"unknown store":     {save(&eventstorev1.SaveEventRequest{Store: "nowhere", Event: event("e-3", "a", 1)}), connect.CodeNotFound, reason("unknown_store")},
		"too large":         {save(&eventstorev1.SaveEventRequest{Event: &eventstorev1.Event{Id: "e-3", EventType: "T", ActorId: "a", ContentType: "a/b", Data: make([]byte, 1<<20)}}), connect.CodeInvalidArgument, reason("too_large")},
		"message too large": {save(&eventstorev1.SaveEventRequest{Event: &eventstorev1.Event{Data: make([]byte, 9<<20)}}), connect.CodeResourceExhausted, nil},
		"no snapshot": {func(ctx context.Context, client eventstorev1connect.EventStoreServiceClient) error {
			_, err := client.GetLatestSnapshot(ctx, &eventstorev1.GetLatestSnapshotRequest{ActorId: "a"})
			return err
		}, connect.CodeNotFound, reason("no_snapshot")},
		"snapshot of no version": {func(ctx context.Context, client eventstorev1connect.EventStoreServiceClient) error {
			_, err := client.SaveSnapshot(ctx, &eventstorev1.SaveSnapshotRequest{Snapshot: &eventstorev1.Snapshot{ActorId: "a", Version: 5000}})
			return err
		}, connect.CodeFailedPrecondition, reason("no_such_version")},
		"version of a deletion": {func(ctx context.Context, client eventstorev1connect.EventStoreServiceClient) error {
			_, err := client.DeleteSnapshot(ctx, &eventstorev1.DeleteSnapshotRequest{ActorId: "a", Version: -1})
			return err
		}, connect.CodeInvalidArgument, &eventstorev1.FieldViolation{Field: "version", Description: "is -1: give a number from 1 to 9007199254740991, or 0 for any"}},
		"limit": {func(ctx context.Context, client eventstorev1connect.EventStoreServiceClient) error {
			_, err := client.GetEvents(ctx, &eventstorev1.GetEventsRequest{ActorId: "a", Limit: 1001})
			return err
		}, connect.CodeInvalidArgument, &eventstorev1.FieldViolation{Field: "limit", Description: "is 1001: give a number from 1 to 1000, or 0 for the most"}},
		"stream": {func(ctx context.Context, client eventstorev1connect.EventStoreServiceClient) error {
			stream, err := client.StreamEvents(ctx, &eventstorev1.StreamEventsRequest{})
			if err != nil || stream.Receive() {
				return err
			}
			return stream.Err()
		}, connect.CodeInvalidArgument, &eventstorev1.FieldViolation{Field: "actorId", Description: "is missing"}},
		"zero of a program": {save(&eventstorev1.SaveEventRequest{Event: &eventstorev1.Event{Timestamp: &timestamppb.Timestamp{Seconds: -62135596800}}}), connect.CodeInvalidArgument,
			&eventstorev1.FieldViolation{Field: "timestamp", Description: "is 0001-01-01T00:00:00Z, the zero of a program: leave it out where there is none"}},
		"from version": {func(ctx context.Context, client eventstorev1connect.EventStoreServiceClient) error {
			_, err := client.GetEvents(ctx, &eventstorev1.GetEventsRequest{ActorId: "a", FromVersion: -1})
			return err
		}, connect.CodeInvalidArgument, &eventstorev1.FieldViolation{Field: "fromVersion", Description: "is -1: give a number from 0"}},
		"newest": {func(ctx context.Context, client eventstorev1connect.EventStoreServiceClient) error {
			stream, err := client.StreamEvents(ctx, &eventstorev1.StreamEventsRequest{ActorId: "a", Newest: -1})
			if err != nil || stream.Receive() {
				return err
			}
			return stream.Err()
		}, connect.CodeInvalidArgument, &eventstorev1.FieldViolation{Field: "newest", Description: "is -1: give a number from 0"}},
		"subscribe": {func(ctx context.Context, client eventstorev1connect.EventStoreServiceClient) error {
			stream, err := client.Subscribe(ctx, &eventstorev1.SubscribeRequest{FromNow: true, FromSequence: 1})
			if err != nil || stream.Receive() {
				return err
			}
			return stream.Err()
		}, connect.CodeInvalidArgument, &eventstorev1.FieldViolation{Field: "fromSequence", Description: "cannot go with a start from now: give one of them"}},
	}
}

func TestRPCFailures(t *testing.T) {
	t.Parallel()
	for protocol, opts := range protocols {
		r := serveMemory(t)
		r.post(ordersEvents, `{"id":"e-1","eventType":"T","actorId":"order-1","version":3}`)
		client := r.rpc(opts...)
		for name, c := range rpcFailures() {
			t.Run(protocol+"/"+name, func(t *testing.T) {
				wantRPCError(t, c.call(t.Context(), client), c.code, c.detail)
			})
		}
	}
}

// Whatever is sent, an error stays far below the 8 KiB that clients of gRPC take as
// headers: beyond, they see another error, which they try again.
func TestRPCErrorsAreShort(t *testing.T) {
	t.Parallel()
	client := serveMemory(t).rpc(connect.WithGRPC())
	long := strings.Repeat("é", 5000)
	for name, request := range map[string]*eventstorev1.SaveEventRequest{
		"id":       {Event: &eventstorev1.Event{Id: long}},
		"actor":    {Event: &eventstorev1.Event{Id: "e", EventType: "T", ActorId: long}},
		"trace":    {Event: &eventstorev1.Event{Id: "e", EventType: "T", ActorId: "a", TraceParent: long}},
		"metadata": {Event: &eventstorev1.Event{Id: "e", EventType: "T", ActorId: "a", Metadata: map[string]string{long: "v"}}},
		"data":     {Event: &eventstorev1.Event{Id: "e", EventType: "T", ActorId: "a", ContentType: long}},
		"store":    {Store: long},
	} {
		_, err := client.SaveEvent(t.Context(), request)
		var got *connect.Error
		if !errors.As(err, &got) || len(url.PathEscape(got.Message())) > 2000 {
			t.Errorf("%s: %d bytes of %v", name, len(got.Message()), got)
			continue
		}
		for _, detail := range got.Details() {
			if len(detail.Bytes()) > 2000 {
				t.Errorf("%s: a detail of %d bytes", name, len(detail.Bytes()))
			}
		}
	}
}

// Only the binary encoding can carry a time that is none.
func TestRPCTimeThatIsNone(t *testing.T) {
	t.Parallel()
	_, err := serveMemory(t).rpc().SaveEvent(t.Context(), &eventstorev1.SaveEventRequest{Event: &eventstorev1.Event{Timestamp: &timestamppb.Timestamp{Nanos: -1}}})
	wantRPCError(t, err, connect.CodeInvalidArgument,
		&eventstorev1.FieldViolation{Field: "timestamp", Description: "is outside the years 1 to 9999, or its nanoseconds are"})
}

func wantRPCError(t *testing.T, err error, code connect.Code, detail proto.Message) {
	t.Helper()
	var got *connect.Error
	if !errors.As(err, &got) || got.Code() != code {
		t.Fatalf("error %v, want %v", err, code)
	}
	if detail == nil {
		return
	}
	if len(got.Details()) != 1 {
		t.Fatalf("%d details, want 1: %v", len(got.Details()), err)
	}
	value, err := got.Details()[0].Value()
	must(t, err)
	if !proto.Equal(value, detail) {
		t.Errorf("detail %v, want %v", value, detail)
	}
}

// Both protocols give an error the same code.
func TestRPCFailuresOfAStore(t *testing.T) {
	t.Parallel()
	codes := map[string]connect.Code{
		"store_full": connect.CodeFailedPrecondition, "permission_denied": connect.CodePermissionDenied, "unavailable": connect.CodeUnavailable,
		"unknown_outcome": connect.CodeDeadlineExceeded, "too_large": connect.CodeInvalidArgument, "internal": connect.CodeInternal,
	}
	for _, c := range failures {
		client := serveFaulty(t, &faulty{err: c.err}).rpc(connect.WithGRPC())
		_, err := client.SaveEvent(t.Context(), &eventstorev1.SaveEventRequest{Event: &eventstorev1.Event{Id: "x"}})
		wantRPCError(t, err, codes[c.code], &eventstorev1.Reason{Code: c.code})
		if strings.Contains(err.Error(), "made to panic") {
			t.Errorf("a panic is told to the client: %v", err)
		}
	}
}

func TestRPCReplayErrors(t *testing.T) {
	t.Parallel()
	r := serveFaulty(t, &faulty{before: []item{anEvent, aReplayError}, err: errAtLast})
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	want := &eventstorev1.ReplayError{Sequence: 8, RawData: []byte{0xff}, Error: "has no id"}
	stream, err := r.rpc().StreamEvents(ctx, &eventstorev1.StreamEventsRequest{ActorId: "order-1"})
	must(t, err)
	if !stream.Receive() || stream.Msg().GetEvent().GetId() != "e-1" || !stream.Receive() || !proto.Equal(stream.Msg().GetError(), want) {
		t.Errorf("streamed %v, want %v", stream.Msg(), want)
	}
	if stream.Receive() {
		t.Errorf("streamed %v after its end", stream.Msg())
	}
	wantRPCError(t, stream.Err(), connect.CodeUnavailable, &eventstorev1.Reason{Code: "unavailable"})
	following, err := r.rpc().Subscribe(ctx, &eventstorev1.SubscribeRequest{})
	must(t, err)
	for range 3 {
		if !following.Receive() {
			t.Fatal(following.Err())
		}
	}
	if !proto.Equal(following.Msg().GetError(), want) || following.Receive() {
		t.Errorf("followed %v, want %v and the end", following.Msg(), want)
	}
	wantRPCError(t, following.Err(), connect.CodeUnavailable, &eventstorev1.Reason{Code: "unavailable"})
}

func TestGRPCHealth(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		check   error
		service string
		want    grpchealth.Status
		code    connect.Code
	}{
		"process":         {nil, "", grpchealth.StatusServing, 0},
		"service":         {nil, "aether.eventstore.v1.EventStoreService", grpchealth.StatusServing, 0},
		"not ready":       {errors.New("no leader"), "", grpchealth.StatusNotServing, 0},
		"unknown service": {nil, "other", grpchealth.StatusUnknown, connect.CodeNotFound},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := serve(t, sidecar.Config{Stores: []sidecar.Store{{Name: "orders", Store: memory.New(), Check: func(context.Context) error { return c.check }}}})
			got, err := grpchealth.NewClient(http2(t), r.api, connect.WithGRPC()).Check(t.Context(), &grpchealth.CheckRequest{Service: c.service})
			if c.code != 0 {
				if connect.CodeOf(err) != c.code {
					t.Errorf("error %v, want %v", err, c.code)
				}
				return
			}
			must(t, err)
			if got.Status != c.want {
				t.Errorf("status %v, want %v", got.Status, c.want)
			}
		})
	}
}

func TestGRPCReflection(t *testing.T) {
	t.Parallel()
	r := serveMemory(t)
	client := grpcreflect.NewClient(http2(t), r.api, connect.WithGRPC())
	stream := client.NewStream(t.Context())
	defer func() { _, _ = stream.Close() }()
	services, err := stream.ListServices()
	must(t, err)
	if len(services) != 1 || services[0] != eventstorev1connect.EventStoreServiceName {
		t.Errorf("services %q", services)
	}
	files, err := stream.FileContainingSymbol(eventstorev1connect.EventStoreServiceName)
	must(t, err)
	if len(files) == 0 {
		t.Error("the service has no description")
	}
}

// What gRPC itself makes of the sidecar, with the client that most use.
func TestGRPCClient(t *testing.T) {
	t.Parallel()
	r := serveMemory(t)
	conn, err := grpc.NewClient(strings.TrimPrefix(r.api, "http://"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	must(t, err)
	defer func() { _ = conn.Close() }()
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	request := &eventstorev1.SaveEventRequest{Event: &eventstorev1.Event{Id: "e-1", EventType: "T", ActorId: "order-1", Version: 2}}
	var response eventstorev1.SaveEventResponse
	must(t, conn.Invoke(ctx, eventstorev1connect.EventStoreServiceSaveEventProcedure, request, &response))
	if response.GetSaved().GetVersion() != 2 {
		t.Errorf("saved %v", &response)
	}
	request.Event.Id = "e-2"
	refused := status.Convert(conn.Invoke(ctx, eventstorev1connect.EventStoreServiceSaveEventProcedure, request, &response))
	if refused.Code() != codes.Aborted || len(refused.Details()) != 1 {
		t.Fatalf("refused with %v", refused)
	}
	if conflict, ok := refused.Details()[0].(*eventstorev1.VersionConflict); !ok || conflict.GetCurrentVersion() != 2 || conflict.GetAttemptedVersion() != 2 {
		t.Errorf("detail %v", refused.Details()[0])
	}
}
