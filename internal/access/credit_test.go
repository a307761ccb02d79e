package access_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/jetstream"
	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/access"
	"git.flowmade.one/flowmade-one/aether-operator/internal/stream"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv/callout"
)

// Pods that send the largest messages there are to where consumers are asked for, as fast as
// they can, hold up no others: their subscriptions begin, and their events are saved. They end
// the connection of the operator once at most, until they are known for it.
func TestFloodOfLargeRequests(t *testing.T) {
	for _, c := range []struct{ servers, pods, stores, namespaces int }{{1, 8, 1, 0}, {1, 8, 8, 0}, {3, 8, 2, 1}} {
		t.Run(fmt.Sprintf("%d servers, %d pods, %d stores of %d namespaces", c.servers, c.pods, c.stores, c.namespaces), func(t *testing.T) {
			f := newFloodBench(t, c.servers, c.stores, c.namespaces)
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			defer cancel()
			stop := f.flood(ctx, t, c.pods)
			const subscriptions, flooded = 16, 256 << 20
			sub, err := f.victim.Subscribe(ctx, eventstore.SubscribeOptions{})
			for i := 0; err == nil && (i < subscriptions || f.sent.Load() < flooded); i++ {
				if i < subscriptions {
					sub, err = f.victim.Subscribe(ctx, eventstore.SubscribeOptions{FromSequence: uint64(i + 1)})
				}
				if err == nil {
					_, err = f.victim.SaveEvent(ctx, eventstore.Event{ID: fmt.Sprint(i), EventType: "Ordered", ActorID: "order-1"})
				}
				if err != nil {
					break
				}
				event, failure := sub.Next(ctx)
				if err = failure; err == nil && event.ID != fmt.Sprint(i) {
					t.Fatalf("the subscription was handed %+v, want event %d", event, i)
				}
			}
			if err != nil {
				t.Fatalf("after %d MiB of the flood: %v", f.sent.Load()>>20, err)
			}
			stop()
			ended := 0
			for i := range c.servers {
				ended += int(f.servers.Node(i).NumSlowConsumers())
			}
			if ended > 1 {
				t.Errorf("the servers ended %d connections that read too slowly", ended)
			}
		})
	}
}

// floodBench is a NATS system with a store whose pods behave, and some whose pods flood.
type floodBench struct {
	*bench
	victim *jetstream.Store
	// flooders are the streams of events of the others, and sent is what their pods sent
	// in bytes.
	flooders []string
	sent     atomic.Int64
	// gone: the stores of the flooders are deleted. asked is how often it was asked which
	// stores there are.
	gone  atomic.Bool
	asked atomic.Int64
}

// streams are what the EventStores of the class name now.
func (f *floodBench) streams(victim string) []string {
	f.asked.Add(1)
	if f.gone.Load() {
		return []string{victim}
	}
	return append([]string{victim}, f.flooders...)
}

// Who floods may delete its stores and apply them again, or make others in the same
// namespace: what is known of it is not forgotten with them.
func TestFloodOfStoresThatComeAndGo(t *testing.T) {
	const stores, rounds, flooded = 8, 8, 64 << 20
	f := newFloodBench(t, 1, stores, 0)
	ctx, cancel := context.WithTimeout(t.Context(), 2*limit)
	defer cancel()
	defer f.flood(ctx, t, stores)()
	for round := range rounds {
		grown(t, "a flood", &f.sent, flooded)
		if _, err := f.victim.Subscribe(ctx, eventstore.SubscribeOptions{}); err != nil {
			t.Errorf("round %d: %v", round, err)
		}
		f.gone.Store(true)
		grown(t, "the stores to be left", &f.asked, 2)
		f.gone.Store(false)
		grown(t, "the stores to be there again", &f.asked, 2)
	}
	if ended := f.servers.Node(0).NumSlowConsumers(); ended > 1 {
		t.Errorf("the servers ended the connection of the operator %d times", ended)
	}
}

// However many stores of a namespace send large messages, all at once and as fast as they can,
// they end the connection of the operator once at most, and then subscriptions of others
// begin: what they have on their way together is bounded.
func TestFloodOfManyStores(t *testing.T) {
	const stores, rounds, flooded = 64, 3, 512 << 20
	f := newFloodBench(t, 1, stores, 1)
	ctx, cancel := context.WithTimeout(t.Context(), 3*limit)
	defer cancel()
	defer f.flood(ctx, t, stores)()
	for range rounds {
		grown(t, "a flood", &f.sent, flooded)
		testenv.Eventually(t, limit, "a subscription of another", func() error {
			_, err := f.victim.Subscribe(ctx, eventstore.SubscribeOptions{})
			return err
		})
	}
	if ended := f.servers.Node(0).NumSlowConsumers(); ended > 1 {
		t.Errorf("the servers ended the connection of the operator %d times", ended)
	}
}

// grown waits until a figure is so much more than now.
func grown(t *testing.T, what string, figure *atomic.Int64, by int64) {
	t.Helper()
	before := figure.Load()
	testenv.Eventually(t, limit, what, func() error {
		if more := figure.Load() - before; more < by {
			return fmt.Errorf("%d more of %d", more, by)
		}
		return nil
	})
}

// newFloodBench has the flooders be of so many namespaces, or where these are none of that
// of the store whose pods behave.
func newFloodBench(t *testing.T, servers, stores, namespaces int) *floodBench {
	t.Helper()
	var all []v1alpha1.EventStore
	for i := range stores + 1 {
		store := numbered(i)
		if i > 0 && namespaces > 0 {
			store.Namespace = fmt.Sprintf("flooders-%d", i%namespaces)
		}
		all = append(all, *store)
	}
	setup, err := callout.New()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "nats-")
	if err != nil {
		t.Fatal(err)
	}
	cluster, err := setup.Start(dir, servers, withAdministrator, withMembers(all))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cluster.Stop()
		_ = os.RemoveAll(dir)
	})
	f := &floodBench{bench: &bench{system: &system{servers: cluster, setup: setup}}}
	js, err := natsjs.New(f.administrator(t))
	if err != nil {
		t.Fatal(err)
	}
	for i := range all {
		createStreams(t, js, &all[i])
		f.flooders = append(f.flooders, all[i].EventsStreamName())
	}
	f.flooders = f.flooders[1:]
	consumers, err := access.ServeConsumers(
		stream.Login{Name: "test", Servers: cluster.URLs(), Credentials: secretData(setup.Operator), Field: "spec.credentials"},
		access.ConsumersConfig{
			Class: "bench", System: here, Stores: func(context.Context, []string) ([]v1alpha1.EventStore, error) { return all, nil },
			Streams: func() []string { return f.streams(all[0].EventsStreamName()) },
		}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(consumers.Close)
	f.victim, err = jetstream.New(f.member(t, 0), jetstream.Config{
		Namespace: all[0].Namespace, Store: all[0].Name, EventsStream: all[0].EventsStreamName(), SnapshotsStream: all[0].SnapshotsStreamName(),
		Domain: callout.Domain, OperatorMakesConsumers: true, Timeout: limit,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.victim.Close() })
	return f
}

// withMembers lets a user in for each store, who may do what a pod of it may.
func withMembers(stores []v1alpha1.EventStore) func(*server.Options) {
	return func(o *server.Options) {
		for i := range stores {
			name := userName(i)
			permissions := access.PermissionsFor(name, callout.Domain, []access.Grant{{
				Stream: stores[i].EventsStreamName(), SnapshotStream: stores[i].SnapshotsStreamName(), Role: v1alpha1.RoleWriter}})
			o.Users = append(o.Users, &server.User{
				Username: name, Password: "p", Account: accountOf(o, callout.Account),
				Permissions: &server.Permissions{
					Publish: &server.SubjectPermission{Allow: permissions.Publish}, Subscribe: &server.SubjectPermission{Allow: permissions.Subscribe},
				},
			})
			o.AuthCallout.AuthUsers = append(o.AuthCallout.AuthUsers, name)
		}
	}
}

func (f *floodBench) member(t *testing.T, store int) *nats.Conn {
	t.Helper()
	return f.servers.Connect(t, nats.UserInfo(userName(store), "p"), nats.CustomInboxPrefix(access.InboxPrefix(userName(store))))
}

// flood sends from so many pods until stop is called.
func (f *floodBench) flood(ctx context.Context, t *testing.T, pods int) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(ctx)
	var flood sync.WaitGroup
	// All are connected before the first sends.
	connected := make(chan struct{})
	defer close(connected)
	for i := range pods {
		store := i % len(f.flooders)
		nc := f.member(t, store+1)
		msg := &nats.Msg{Subject: jetstream.MakeConsumerSubject(f.flooders[store]), Data: make([]byte, nc.MaxPayload()-1024)}
		if i%2 == 0 {
			msg.Reply = nc.NewInbox()
		}
		flood.Go(func() {
			<-connected
			for ctx.Err() == nil {
				if err := nc.PublishMsg(msg); err != nil && !errors.Is(err, nats.ErrConnectionReconnecting) {
					return
				}
				f.sent.Add(int64(len(msg.Data)))
			}
		})
	}
	return func() {
		cancel()
		flood.Wait()
	}
}
