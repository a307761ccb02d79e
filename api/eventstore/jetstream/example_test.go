package jetstream_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"time"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/jetstream"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv/natsserver"
)

func ExampleNew() {
	url, stop := startNATS()
	defer stop()

	nc, err := nats.Connect(url, nats.MaxReconnects(-1))
	if err != nil {
		log.Fatal(err)
	}
	defer nc.Close()
	// The operator has made the streams; their names are in the binding.
	store, err := jetstream.New(nc, jetstream.Config{
		Namespace: "shop", Store: "orders", EventsStream: "shop_orders", SnapshotsStream: "shop_orders_snapshots",
	})
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()

	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	saved, err := store.SaveEvent(ctx, eventstore.Event{ID: "e-1", EventType: "OrderPlaced", ActorID: "order-123", Data: []byte(`{"total": 9.90}`)})
	if err != nil {
		log.Fatal(err)
	}
	events, err := store.GetEvents(ctx, "order-123", 0)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("version %d is %s %s\n", saved.Version, events[0].EventType, events[0].Data)
	// Output: version 1 is OrderPlaced {"total": 9.90}
}

func ExampleEventsSubject() {
	fmt.Println(jetstream.EventsSubject("shop_orders", "order-123"))
	fmt.Println(jetstream.EventsSubject("shop_orders", "v1.5 beta"))
	// Output:
	// shop_orders.events.order.order-123
	// shop_orders.events.unknown.v1%2E5%20beta
}

// startNATS stands for the cluster and for the operator.
func startNATS() (url string, stop func()) {
	dir, err := os.MkdirTemp("", "nats-")
	if err != nil {
		log.Fatal(err)
	}
	server, err := natsserver.Start(dir, 1)
	if err != nil {
		log.Fatal(err)
	}
	nc, err := nats.Connect(server.URL())
	if err != nil {
		log.Fatal(err)
	}
	defer nc.Close()
	js, err := natsjs.New(nc)
	if err != nil {
		log.Fatal(err)
	}
	for _, c := range streamConfigs(jetstream.Config{EventsStream: "shop_orders", SnapshotsStream: "shop_orders_snapshots"}, 1) {
		if _, err := js.CreateStream(context.Background(), c); err != nil {
			log.Fatal(err)
		}
	}
	return server.URL(), func() {
		server.Stop()
		_ = os.RemoveAll(dir)
	}
}
