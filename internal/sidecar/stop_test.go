package sidecar_test

import (
	"context"
	"net/http"
	"testing"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/memory"
	eventstorev1 "git.flowmade.one/flowmade-one/aether-operator/api/eventstore/v1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/sidecar"
)

// slow is a Store in which a save waits until it may go on.
type slow struct {
	eventstore.Store
	began, goOn chan struct{}
}

func (s *slow) SaveEvents(ctx context.Context, events []eventstore.Event, opts ...eventstore.SaveOption) ([]eventstore.Saved, error) {
	close(s.began)
	<-s.goOn
	return s.Store.SaveEvents(ctx, events, opts...)
}

// A stop answers what is under way, ends streams and tells readiness.
func TestStop(t *testing.T) {
	t.Parallel()
	store := &slow{Store: memory.New(), began: make(chan struct{}), goOn: make(chan struct{})}
	r := serve(t, sidecar.Config{Stores: []sidecar.Store{{Name: "orders", Store: store}}})
	follower := r.follow("")
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	stream, err := r.rpc().Subscribe(ctx, &eventstorev1.SubscribeRequest{})
	must(t, err)
	if !stream.Receive() {
		t.Fatal(stream.Err())
	}
	saved := make(chan answer, 1)
	go func() { saved <- r.do("POST "+ordersEvents, `{"id":"e-1","eventType":"T","actorId":"order-1"}`) }()
	<-store.began
	r.stop()

	if e, ok := follower.event(); ok {
		t.Errorf("got %+v after the stop", e)
	}
	if stream.Receive() {
		t.Errorf("got %v after the stop", stream.Msg())
	}
	if got := r.healthOf("/readyz"); got.status != http.StatusServiceUnavailable {
		t.Errorf("readiness while the server stops: %d", got.status)
	}
	select {
	case err := <-r.ended:
		t.Fatalf("the server ended while a save was under way: %v", err)
	default:
	}
	close(store.goOn)
	if got := <-saved; got.status != http.StatusCreated {
		t.Errorf("a save under way was answered %d %s", got.status, got.body)
	}
	if err := <-r.ended; err != nil {
		t.Errorf("the server ended with %v", err)
	}
}
