package memory_test

import (
	"context"
	"errors"
	"fmt"
	"log"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/memory"
)

func Example() {
	ctx := context.Background()
	store := memory.New()
	follow, err := store.Subscribe(ctx, eventstore.SubscribeOptions{ActorType: "order"})
	if err != nil {
		log.Fatal(err)
	}
	defer follow.Close()

	// All or none, across actors.
	_, err = store.SaveEvents(ctx, []eventstore.Event{
		{ID: "e-1", EventType: "OrderPlaced", ActorID: "order-123"},
		{ID: "e-2", EventType: "ItemReserved", ActorID: "item-9"},
	})
	if err != nil {
		log.Fatal(err)
	}
	event, err := follow.Next(ctx)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(event.Sequence, event.EventType)

	_, err = store.GetLatestSnapshot(ctx, "order-123")
	fmt.Println(errors.Is(err, eventstore.ErrNoSnapshot))
	// Output:
	// 1 OrderPlaced
	// true
}
