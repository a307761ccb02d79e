package main

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	rpc "connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"

	eventstorev1 "git.flowmade.one/flowmade-one/aether-operator/api/eventstore/v1"
	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/v1/eventstorev1connect"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv/natsserver"
)

// loop is what a client of any language writes: receive, work, acknowledge. It says
// what it has done.
func loop(ctx context.Context, t *testing.T, client eventstorev1connect.EventStoreServiceClient, name string, did func(id string)) {
	stream, err := client.SubscribeDurable(ctx, &eventstorev1.SubscribeDurableRequest{Name: name, AckWait: durationpb.New(time.Second)})
	if err != nil {
		t.Error(err)
		return
	}
	defer func() { _ = stream.Close() }()
	session := ""
	for stream.Receive() {
		if opened := stream.Msg().GetSession(); opened != nil {
			session = opened.GetSession()
			continue
		}
		event := stream.Msg().GetDelivery().GetEvent()
		select {
		case <-ctx.Done():
			return
		case <-time.After(300 * time.Millisecond): // Its work.
		}
		if _, err := client.Acknowledge(ctx, &eventstorev1.AcknowledgeRequest{Session: session, Sequence: event.GetSequence()}); err != nil {
			t.Errorf("acknowledge: %v", err)
			return
		}
		did(event.GetId())
	}
	if ctx.Err() == nil {
		t.Errorf("the stream ends: %v", stream.Err())
	}
}

// The plain loop does each event once, though all of them take several times as long as
// one may: with two members at two sidecars, over gRPC and over HTTP.
func TestPlainLoopWorksOnce(t *testing.T) {
	t.Parallel()
	cluster := natsserver.Run(t, 1)
	nc, root := cluster.Connect(t), t.TempDir()
	bind(t, cluster, root, "orders", nc, nil)
	sidecars := []*started{startHere(t, map[string]string{"SERVICE_BINDING_ROOT": root}), startHere(t, map[string]string{"SERVICE_BINDING_ROOT": root})}
	const events = 16
	for _, s := range sidecars {
		s.waitReady("")
	}
	for n := range events {
		if status, body := sidecars[0].post("orders", fmt.Sprintf(`{"id":"e-%d","eventType":"Paid","actorId":"order-%d"}`, n, n%8)); status != http.StatusCreated {
			t.Fatalf("save: %d %s", status, body)
		}
	}
	transport := &http.Transport{Protocols: new(http.Protocols)}
	transport.Protocols.SetUnencryptedHTTP2(true)
	t.Cleanup(transport.CloseIdleConnections)
	var protocols sync.WaitGroup
	for name, opts := range map[string][]rpc.ClientOption{"grpc": {rpc.WithGRPC()}, "http": {rpc.WithProtoJSON()}} {
		protocols.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), deadline)
			defer cancel()
			did := make(chan string, 2*events)
			var members sync.WaitGroup
			for _, s := range sidecars {
				client := eventstorev1connect.NewEventStoreServiceClient(&http.Client{Transport: transport}, s.api, opts...)
				members.Go(func() { loop(ctx, t, client, name, func(id string) { did <- id }) })
			}
			times := map[string]int{}
			for len(times) < events {
				select {
				case id := <-did:
					times[id]++
				case <-ctx.Done():
					t.Errorf("%s: %d of %d events are done", name, len(times), events)
					return
				}
			}
			cancel()
			members.Wait()
			for close(did); len(did) > 0; {
				times[<-did]++
			}
			for id, n := range times {
				if n != 1 {
					t.Errorf("%s: event %s was done %d times", name, id, n)
				}
			}
		})
	}
	protocols.Wait()
}
