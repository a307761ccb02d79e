package sidecar_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/memory"
	eventstorev1 "git.flowmade.one/flowmade-one/aether-operator/api/eventstore/v1"
	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/v1/eventstorev1connect"
	"git.flowmade.one/flowmade-one/aether-operator/internal/sidecar"
)

// joined is a session and its stream.
type joined struct {
	*testing.T
	stream  *connect.ServerStreamForClient[eventstorev1.SubscribeDurableResponse]
	session string
	leave   context.CancelFunc
}

func join(ctx context.Context, t *testing.T, client eventstorev1connect.EventStoreServiceClient, request *eventstorev1.SubscribeDurableRequest) *joined {
	t.Helper()
	ctx, leave := context.WithCancel(ctx)
	stream, err := client.SubscribeDurable(ctx, request)
	must(t, err)
	t.Cleanup(func() { leave(); _ = stream.Close() })
	if !stream.Receive() || stream.Msg().GetSession().GetSession() == "" {
		t.Fatalf("the first message is %v, want the session: %v", stream.Msg(), stream.Err())
	}
	return &joined{T: t, stream: stream, session: stream.Msg().GetSession().GetSession(), leave: leave}
}

// want wants these events to come next, and answers the sequence of the last.
func (j *joined) want(ids ...string) (sequence uint64) {
	j.Helper()
	for _, id := range ids {
		if !j.stream.Receive() || j.stream.Msg().GetDelivery().GetEvent().GetId() != id {
			j.Fatalf("got %v, want event %s: %v", j.stream.Msg(), id, j.stream.Err())
		}
		sequence = j.stream.Msg().GetDelivery().GetEvent().GetSequence()
	}
	return sequence
}

func saveEach(ctx context.Context, t *testing.T, client eventstorev1connect.EventStoreServiceClient, actors ...string) {
	t.Helper()
	for i, actorID := range actors {
		_, err := client.SaveEvent(ctx, &eventstorev1.SaveEventRequest{Event: &eventstorev1.Event{Id: fmt.Sprintf("e-%d", i+1), EventType: "T", ActorId: actorID}})
		must(t, err)
	}
}

func TestDurable(t *testing.T) {
	t.Parallel()
	for name, opts := range protocols {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			client := serveMemory(t).rpc(opts...)
			ctx, cancel := context.WithTimeout(t.Context(), deadline)
			defer cancel()
			saveEach(ctx, t, client, "order-1", "order-1", "order-2", "order-3")
			j := join(ctx, t, client, &eventstorev1.SubscribeDurableRequest{Name: "p", MaxInHand: 2, MaxDeliveries: 2, AckWait: durationpb.New(time.Minute)})
			// Two at once, and of an actor only the first.
			second := j.want("e-1", "e-3")
			acknowledge := func(sequence uint64) {
				_, err := client.Acknowledge(ctx, &eventstorev1.AcknowledgeRequest{Session: j.session, Sequence: sequence})
				must(t, err)
			}
			acknowledge(second)
			j.want("e-4")
			acknowledge(4)
			giveBack := func(delay time.Duration) {
				_, err := client.NegativeAcknowledge(ctx, &eventstorev1.NegativeAcknowledgeRequest{Session: j.session, Sequence: 1, Delay: durationpb.New(delay), Reason: "no stock"})
				must(t, err)
			}
			giveBack(time.Millisecond)
			j.want("e-1")
			if attempt := j.stream.Msg().GetDelivery().GetAttempt(); attempt != 2 {
				t.Errorf("attempt %d, want 2", attempt)
			}
			_, err := client.ExtendDelivery(ctx, &eventstorev1.ExtendDeliveryRequest{Session: j.session, Sequence: 1})
			must(t, err)
			giveBack(0)
			// Parked, and the next of its actor comes.
			acknowledge(j.want("e-2"))
			parked, err := client.ListParked(ctx, &eventstorev1.ListParkedRequest{Session: j.session})
			must(t, err)
			if got := parked.GetParked(); len(got) != 1 || got[0].GetSequence() != 1 || got[0].GetReason() != "no stock" || got[0].GetAttempts() != 2 || got[0].GetParkedAt() == nil {
				t.Errorf("parked %v", parked)
			}
			replayed, err := client.ReplayParked(ctx, &eventstorev1.ReplayParkedRequest{Session: j.session})
			must(t, err)
			if replayed.GetMarked() != 1 {
				t.Errorf("replayed %v", replayed)
			}
			acknowledge(j.want("e-1"))
			_, err = client.DeleteDurable(ctx, &eventstorev1.DeleteDurableRequest{Name: "p"})
			must(t, err)
			if j.stream.Receive() {
				t.Errorf("got %v from what was deleted", j.stream.Msg())
			}
			wantRPCError(t, j.stream.Err(), connect.CodeNotFound, &eventstorev1.Reason{Code: "no_durable"})
		})
	}
}

// What a member has in hand goes to another when its stream ends, and its
// session is over.
func TestDurableStreamThatEnds(t *testing.T) {
	t.Parallel()
	client := serveMemory(t).rpc(connect.WithGRPC())
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	saveEach(ctx, t, client, "order-1")
	first := join(ctx, t, client, &eventstorev1.SubscribeDurableRequest{Name: "p"})
	first.want("e-1")
	paused := join(ctx, t, client, &eventstorev1.SubscribeDurableRequest{Name: "p", Paused: true})
	other := join(ctx, t, client, &eventstorev1.SubscribeDurableRequest{Name: "p"})
	first.leave()
	other.want("e-1")
	_, err := client.Acknowledge(ctx, &eventstorev1.AcknowledgeRequest{Session: first.session, Sequence: 1})
	wantRPCError(t, err, connect.CodeNotFound, &eventstorev1.Reason{Code: "no_session"})
	_, err = client.Acknowledge(ctx, &eventstorev1.AcknowledgeRequest{Session: paused.session, Sequence: 1})
	wantRPCError(t, err, connect.CodeFailedPrecondition, &eventstorev1.Reason{Code: "not_in_hand"})
	_, err = client.Acknowledge(ctx, &eventstorev1.AcknowledgeRequest{Session: other.session, Sequence: 1})
	must(t, err)
	for range 2 {
		_, err = client.StartDeliveries(ctx, &eventstorev1.StartDeliveriesRequest{Session: paused.session})
		must(t, err)
	}
}

// A pause that is late behind the start of deliveries, as where a client has given it up and
// asked for events again, pauses nothing, and takes nothing back.
func TestDurablePauseThatIsLate(t *testing.T) {
	t.Parallel()
	client := serveMemory(t).rpc(connect.WithGRPC())
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	saveEach(ctx, t, client, "order-1", "order-1")
	j := join(ctx, t, client, &eventstorev1.SubscribeDurableRequest{Name: "p", Paused: true})
	start := func(number uint64) {
		t.Helper()
		_, err := client.StartDeliveries(ctx, &eventstorev1.StartDeliveriesRequest{Session: j.session, Number: number})
		must(t, err)
	}
	pause := func(number uint64, sequences ...uint64) {
		t.Helper()
		_, err := client.ReleaseDeliveries(ctx, &eventstorev1.ReleaseDeliveriesRequest{Session: j.session, Sequences: sequences, Pause: true, Number: number})
		must(t, err)
	}
	start(2)
	pause(1)
	first := j.want("e-1")
	pause(1, first)
	_, err := client.Acknowledge(ctx, &eventstorev1.AcknowledgeRequest{Session: j.session, Sequence: first})
	must(t, err)
	second := j.want("e-2")
	// In time, it does both. So does one without a number.
	pause(3, second)
	start(4)
	pause(0, j.want("e-2"))
	start(0)
	j.want("e-2")
}

func TestDurableRefuses(t *testing.T) {
	t.Parallel()
	client := serveMemory(t).rpc()
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	refused := func(request *eventstorev1.SubscribeDurableRequest) error {
		stream, err := client.SubscribeDurable(ctx, request)
		must(t, err)
		defer func() { _ = stream.Close() }()
		if stream.Receive() {
			t.Errorf("%v was accepted", request)
		}
		return stream.Err()
	}
	for field, c := range map[string]struct {
		request *eventstorev1.SubscribeDurableRequest
		reason  string
	}{
		"durable":   {&eventstorev1.SubscribeDurableRequest{Name: "a.b"}, `is "a.b": give 1 to 64 letters, digits, '-' and '_'`},
		"maxInHand": {&eventstorev1.SubscribeDurableRequest{Name: "a", MaxInHand: 1001}, "is 1001: give at most 1000"},
		"ackWait": {&eventstorev1.SubscribeDurableRequest{Name: "a", AckWait: &durationpb.Duration{Nanos: -1, Seconds: 1}},
			"is more than 10,000 years, or its nanoseconds are out of range"},
	} {
		wantRPCError(t, refused(c.request), connect.CodeInvalidArgument, &eventstorev1.FieldViolation{Field: field, Description: c.reason})
	}
	wantRPCError(t, refused(&eventstorev1.SubscribeDurableRequest{Name: "a", Store: "nowhere"}), connect.CodeNotFound, &eventstorev1.Reason{Code: "unknown_store"})
	plain := serve(t, sidecar.Config{Stores: []sidecar.Store{{Name: "orders", Store: struct{ eventstore.Store }{memory.New()}}}})
	_, err := plain.rpc().DeleteDurable(ctx, &eventstorev1.DeleteDurableRequest{Name: "a"})
	wantRPCError(t, err, connect.CodeUnimplemented, &eventstorev1.Reason{Code: "no_durable_subscriptions"})
}
