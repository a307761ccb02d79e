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

func ExampleStore_SubscribeDurable() {
	ctx := context.Background()
	store := memory.New()
	if _, err := store.SaveEvent(ctx, eventstore.Event{ID: "e-1", EventType: "OrderPlaced", ActorID: "order-123"}); err != nil {
		log.Fatal(err)
	}
	// All members of "mailer" share the events, and its place is kept when they go.
	member, err := store.SubscribeDurable(ctx, eventstore.DurableOptions{Name: "mailer", MaxDeliveries: 2})
	if err != nil {
		log.Fatal(err)
	}
	defer member.Close()
	for range 2 {
		delivery, err := member.Next(ctx)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println("attempt", delivery.Attempt)
		// It did not work; after the last attempt it is parked.
		if err := member.Nak(ctx, delivery.Event.Sequence, 0, "no such address"); err != nil {
			log.Fatal(err)
		}
	}
	parked, err := member.Parked(ctx)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(parked[0].ActorID, parked[0].Reason)
	if _, err := member.Replay(ctx); err != nil {
		log.Fatal(err)
	}
	delivery, err := member.Next(ctx)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(delivery.Event.EventType, "again")
	if err := member.Ack(ctx, delivery.Event.Sequence); err != nil {
		log.Fatal(err)
	}
	// Output:
	// attempt 1
	// attempt 2
	// order-123 no such address
	// OrderPlaced again
}
