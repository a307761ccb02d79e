package sidecar_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/jetstream"
	eventstorev1 "git.flowmade.one/flowmade-one/aether-operator/api/eventstore/v1"
	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/v1/eventstorev1connect"
	server "git.flowmade.one/flowmade-one/aether-operator/internal/sidecar"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv/natsserver"
)

// Stored messages that are no events are paged over, however large and however many,
// by a client that takes messages of 4 MiB and a sidecar with little memory.
func TestPagesOfMalformedMessages(t *testing.T) {
	t.Parallel()
	nc := natsserver.Run(t, 1).Connect(t)
	served := jetStreamStore(t, nc, 1)
	events := "shop_" + served.Name
	listener := listen(t, "tcp", "127.0.0.1:0")
	endpoint := "http://" + listener.Addr().String()
	start(t, server.Config{Memory: 26 << 20, Stores: []server.Store{served}}, listener)
	store := open(t, endpoint, "")
	js, err := natsjs.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	var want []uint64
	malformed := func(count, size int) {
		t.Helper()
		for range count {
			ack, err := js.PublishMsg(t.Context(), &nats.Msg{Subject: jetstream.EventsSubject(events, "order-1"), Data: []byte(strings.Repeat("x", size))})
			if err != nil {
				t.Fatal(err)
			}
			want = append(want, ack.Sequence)
		}
	}
	event := func(version int64) {
		t.Helper()
		saved, err := store.SaveEvent(t.Context(), eventstore.Event{ID: fmt.Sprint(version), EventType: "T", ActorID: "order-1", Version: version})
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, saved.Sequence)
	}
	malformed(6, 900<<10)
	event(1)
	malformed(1010, 10)
	event(2)
	malformed(4, 900<<10)

	var got []uint64
	for e, err := range store.Events(t.Context(), "order-1", 0) {
		var replay *eventstore.ReplayError
		switch {
		case errors.As(err, &replay):
			got = append(got, replay.Sequence)
		case err != nil:
			t.Fatal(err)
		default:
			got = append(got, e.Sequence)
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("%d messages over the client, want %d", len(got), len(want))
	}
	client := eventstorev1connect.NewEventStoreServiceClient(http.DefaultClient, endpoint, connect.WithReadMaxBytes(4<<20))
	for _, limit := range []int32{0, 100} {
		wantPages(t, client, limit, want)
	}
	response, err := http.Get(endpoint + "/v1/stores/" + served.Name + "/actors/order-1/events?fromVersion=1")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	if body, err := io.ReadAll(response.Body); err != nil || response.StatusCode != http.StatusOK || len(body) > 5<<20 || !strings.Contains(string(body), `"nextFromSequence":`) {
		t.Errorf("HTTP answers %s with %d bytes, %v", response.Status, len(body), err)
	}
}

func wantPages(t *testing.T, client eventstorev1connect.EventStoreServiceClient, limit int32, want []uint64) {
	t.Helper()
	var from uint64
	for {
		page, err := client.GetEvents(t.Context(), &eventstorev1.GetEventsRequest{ActorId: "order-1", FromSequence: from, Limit: limit})
		if err != nil {
			t.Fatalf("limit %d, from sequence %d: %v", limit, from, err)
		}
		var got []uint64
		for _, event := range page.GetEvents() {
			got = append(got, event.GetSequence())
		}
		for _, replay := range page.GetErrors() {
			got = append(got, replay.GetSequence())
		}
		slices.Sort(got)
		if len(got) == 0 || limit > 0 && len(got) > int(limit) || len(got) > len(want) || !slices.Equal(got, want[:len(got)]) {
			t.Fatalf("limit %d, from sequence %d: %d messages %v", limit, from, len(got), got)
		}
		if want = want[len(got):]; len(want) == 0 {
			return
		}
		if from = page.GetNextFromSequence(); from != want[0] {
			t.Fatalf("limit %d: the next page is from %d, want %d", limit, from, want[0])
		}
	}
}
