package sidecar_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/memory"
	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/sidecar"
	server "git.flowmade.one/flowmade-one/aether-operator/internal/sidecar"
)

// In a pod the endpoint is os.Getenv("AETHER_ENDPOINT").
func Example() {
	endpoint, stop := exampleSidecar()
	defer stop()
	store, err := sidecar.New(endpoint, "orders")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = store.Close() }()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()

	placed := eventstore.Event{ID: "e-1", EventType: "OrderPlaced", ActorID: "order-123", Version: 1, Data: []byte(`{"total":42}`)}
	saved, err := store.SaveEvent(ctx, placed)
	fmt.Println("saved version", saved.Version, err)

	stale := eventstore.Event{ID: "e-2", EventType: "OrderPaid", ActorID: "order-123", Version: 1}
	_, err = store.SaveEvent(ctx, stale)
	var conflict *eventstore.VersionConflictError
	if errors.As(err, &conflict) {
		fmt.Println("conflict: the actor is at version", conflict.CurrentVersion)
	}

	for event, err := range store.Events(ctx, "order-123", 0) {
		fmt.Println(event.Version, event.EventType, string(event.Data), err)
	}
	// Output:
	// saved version 1 <nil>
	// conflict: the actor is at version 1
	// 1 OrderPlaced {"total":42} <nil>
}

// exampleSidecar stands in for the sidecar of a pod.
func exampleSidecar() (endpoint string, stop func()) {
	s, err := server.New(server.Config{Stores: []server.Store{{Name: "orders", Store: memory.New()}}})
	if err != nil {
		panic(err)
	}
	var listeners [2]net.Listener
	for i := range listeners {
		if listeners[i], err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			panic(err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx, listeners[:1], listeners[1]) }()
	return "http://" + listeners[0].Addr().String(), func() { cancel(); <-ended }
}
