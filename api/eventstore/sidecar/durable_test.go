package sidecar_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/memory"
	server "git.flowmade.one/flowmade-one/aether-operator/internal/sidecar"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv/link"
)

// A Next returns when its context ends, and when the membership does, though the sidecar says
// nothing to another of the same member.
func TestNextWhileTheSidecarIsSilent(t *testing.T) {
	t.Parallel()
	endpoint := serve(t, server.Config{Stores: []server.Store{{Name: "orders", Store: memory.New()}}})
	way := link.To(t, strings.TrimPrefix(endpoint, "http://"))
	store := open(t, "http://"+strings.TrimPrefix(way.URL(), "nats://"), "orders")
	member, err := store.SubscribeDurable(t.Context(), eventstore.DurableOptions{Name: "projection"})
	if err != nil {
		t.Fatal(err)
	}
	way.Silence()
	first := make(chan error, 1)
	go func() {
		_, err := member.Next(t.Context())
		first <- err
	}()
	for range 10 {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		if _, err := member.Next(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("next: %v, want the context's error", err)
		}
		cancel()
	}
	select {
	case err := <-first:
		t.Errorf("the first has ended with %v, and the others waited for it", err)
	default:
	}
	if err := member.Close(); err != nil {
		t.Error(err)
	}
	if err := <-first; !errors.Is(err, eventstore.ErrSubscriptionClosed) {
		t.Errorf("the first has ended with %v after Close", err)
	}
	way.Resume()
}
