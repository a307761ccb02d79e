package eventstore_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/memory"
)

// Read an actor, decide, save with the version that follows. Who comes second is
// told so, and reads again.
func Example() {
	ctx := context.Background()
	// Any Store: memory, jetstream or sidecar.
	var store eventstore.Store = memory.New()

	placed := eventstore.Event{ID: "e-1", EventType: "OrderPlaced", ActorID: "order-123", Version: 1, Data: []byte(`{"total": 9.90}`)}
	saved, err := store.SaveEvent(ctx, placed)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("saved version", saved.Version)

	paid := eventstore.Event{ID: "e-2", EventType: "OrderPaid", ActorID: "order-123", Version: 1}
	_, err = store.SaveEvent(ctx, paid)
	var conflict *eventstore.VersionConflictError
	if errors.As(err, &conflict) {
		fmt.Println("attempted", conflict.AttemptedVersion, "and the actor is at", conflict.CurrentVersion)
	}
	paid.Version = conflict.CurrentVersion + 1
	if _, err := store.SaveEvent(ctx, paid); err != nil {
		log.Fatal(err)
	}

	// After a time-out nobody knows whether an event is stored. Save it again.
	saved, err = store.SaveEvent(ctx, paid)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("saved version", saved.Version, "before:", saved.Duplicate)

	events, err := store.GetEvents(ctx, "order-123", 0)
	if err != nil {
		log.Fatal(err)
	}
	for _, event := range events {
		fmt.Printf("%d %s %s\n", event.Version, event.EventType, event.Data)
	}
	// Output:
	// saved version 1
	// attempted 1 and the actor is at 1
	// saved version 2 before: true
	// 1 OrderPlaced {"total": 9.90}
	// 2 OrderPaid
}

func ExampleExpect() {
	ctx := context.Background()
	store := memory.New()
	// Without a version the store gives the next one. That the actor is new is
	// checked because it is expected.
	open := eventstore.Event{ID: "e-1", EventType: "AccountOpened", ActorID: "account-7"}
	if _, err := store.SaveEvent(ctx, open, eventstore.Expect("account-7", eventstore.ExpectNone)); err != nil {
		log.Fatal(err)
	}
	open.ID = "e-2"
	_, err := store.SaveEvent(ctx, open, eventstore.Expect("account-7", eventstore.ExpectNone))
	fmt.Println(err)
	// Output:
	// save event "e-2" of actor "account-7" in memory: version conflict: actor "account-7" is at version 1, and the save expects none: read the actor again and decide anew
}

func ExampleWithBus() {
	bus := &eventstore.Bus{}
	stored := bus.Subscribe(eventstore.InternalNamespace, 16)
	defer stored.Close()
	metrics := &eventstore.Metrics{}
	store := memory.New(eventstore.WithBus(bus), eventstore.WithMetrics(metrics))

	event := eventstore.Event{ID: "e-1", EventType: "OrderPlaced", ActorID: "order-123"}
	for range 2 {
		if _, err := store.SaveEvent(context.Background(), event); err != nil {
			log.Fatal(err)
		}
	}
	notification := <-stored.C()
	fmt.Println(notification.EventID, notification.ActorID, notification.Version)
	fmt.Println(metrics.EventsSaved.Load(), "saved,", metrics.DuplicatesSaved.Load(), "saved again,", len(stored.C()), "notifications more")
	// Output:
	// e-1 order-123 1
	// 1 saved, 1 saved again, 0 notifications more
}

func ExampleActorType() {
	fmt.Println(eventstore.ActorType("order-123"), eventstore.ActorType("eu-order-123"), eventstore.ActorType("lonely"))
	// Output: order eu unknown
}

// An account that must not be overdrawn: load it, decide, save, and on a
// conflict decide anew.
func ExampleRepository() {
	ctx := context.Background()
	accounts := eventstore.Repository[int]{
		Store: memory.New(),
		Apply: func(balance int, event eventstore.Event) (int, error) {
			var amount int
			err := json.Unmarshal(event.Data, &amount)
			return balance + amount, err
		},
		SnapshotEvery: 100,
	}
	book := func(command string, amount int) {
		account, err := accounts.Update(ctx, "account-7", func(account eventstore.Loaded[int]) ([]eventstore.Event, error) {
			if account.State+amount < 0 {
				return nil, fmt.Errorf("%d is not enough for %d", account.State, -amount)
			}
			return []eventstore.Event{{ID: command, EventType: "Booked", Data: fmt.Append(nil, amount)}}, nil
		})
		fmt.Println(account.State, account.Version, err)
	}
	book("command-1", 100)
	book("command-2", -30)
	book("command-3", -80)
	// Output:
	// 100 1 <nil>
	// 70 2 <nil>
	// 70 2 70 is not enough for 80
}
