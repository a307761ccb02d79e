package sidecar_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/jetstream"
	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/sidecar"
	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/storetest"
	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
	server "git.flowmade.one/flowmade-one/aether-operator/internal/sidecar"
	"git.flowmade.one/flowmade-one/aether-operator/internal/stream"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv/natsserver"
)

// The whole way: client, sidecar, JetStream with the operator's streams.
func TestConformanceOverJetStream(t *testing.T) {
	t.Parallel()
	overJetStream(t, func(t *testing.T, open func(*testing.T, ...eventstore.Option) *sidecar.Store) {
		storetest.Run(t, func(t *testing.T, opts ...eventstore.Option) eventstore.Store { return open(t, opts...) })
	})
}

func TestDurableConformanceOverJetStream(t *testing.T) {
	t.Parallel()
	overJetStream(t, func(t *testing.T, open func(*testing.T, ...eventstore.Option) *sidecar.Store) {
		storetest.RunDurable(t, func(t *testing.T, opts ...eventstore.Option) eventstore.DurableStore { return open(t, opts...) })
	})
}

// overJetStream runs a suite over TCP with one server, and over a socket with a
// cluster.
func overJetStream(t *testing.T, suite func(*testing.T, func(*testing.T, ...eventstore.Option) *sidecar.Store)) {
	for size, transport := range map[int]string{1: "tcp", 3: "socket"} {
		t.Run(fmt.Sprintf("%d servers over %s", size, transport), func(t *testing.T) {
			t.Parallel()
			cluster := natsserver.Run(t, size)
			suite(t, func(t *testing.T, opts ...eventstore.Option) *sidecar.Store {
				nc := cluster.Connect(t, nats.ReconnectBufSize(-1))
				store := jetStreamStore(t, nc, size)
				return open(t, transports[transport](t, server.Config{RequestTimeout: 3 * time.Minute, Stores: []server.Store{store}}), "", opts...)
			})
		})
	}
}

var stores atomic.Int64

// jetStreamStore is a store whose streams no other test has.
func jetStreamStore(t *testing.T, nc *nats.Conn, replicas int) server.Store {
	t.Helper()
	resource := &v1alpha1.EventStore{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: fmt.Sprintf("orders-%d", stores.Add(1)), UID: "1"},
		Spec:       v1alpha1.EventStoreSpec{Replicas: int32(replicas), Retention: v1alpha1.Retention{MaxAge: "0"}},
	}
	js, err := natsjs.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	wanted, err := stream.Desired(resource, stream.Home{}, v1alpha1.Defaults{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for _, w := range wanted {
		if err := natsserver.CreateStream(ctx, js, w.Config); err != nil {
			t.Fatal(err)
		}
	}
	store, err := jetstream.New(nc, jetstream.Config{
		Namespace: "shop", Store: resource.Name, EventsStream: resource.EventsStreamName(), SnapshotsStream: resource.SnapshotsStreamName(),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	return server.Store{Name: resource.Name, Namespace: "shop", Store: store, Check: store.Check}
}
