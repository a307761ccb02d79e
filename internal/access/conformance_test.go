package access_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/jetstream"
	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/storetest"
	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv/callout"
)

// Every call of the API can be made with the permissions of a writer.
func TestWriterPassesTheConformanceSuite(t *testing.T) {
	t.Parallel()
	for size, system := range systems {
		t.Run(fmt.Sprintf("%d servers", size), func(t *testing.T) {
			t.Parallel()
			namespace := newNamespace(t)
			open := func(t *testing.T, opts ...eventstore.Option) *jetstream.Store {
				store := system.newStore(t, namespace)
				return system.open(t, store, newPod(t, namespace, "writer"), opts...)
			}
			storetest.Run(t, func(t *testing.T, opts ...eventstore.Option) eventstore.Store { return open(t, opts...) })
			storetest.RunDurable(t, func(t *testing.T, opts ...eventstore.Option) eventstore.DurableStore { return open(t, opts...) })
		})
	}
}

// open opens a store as the sidecar of a pod does.
func (s *system) open(t *testing.T, store *v1alpha1.EventStore, p pod, opts ...eventstore.Option) *jetstream.Store {
	t.Helper()
	return s.openOn(t, store, s.connect(t, p, store.EventsStreamName()), opts...)
}

func (s *system) openOn(t *testing.T, store *v1alpha1.EventStore, nc *nats.Conn, opts ...eventstore.Option) *jetstream.Store {
	t.Helper()
	opened, err := jetstream.New(nc, jetstream.Config{
		Namespace: store.Namespace, Store: store.Name, EventsStream: store.EventsStreamName(),
		SnapshotsStream: store.SnapshotsStreamName(), Domain: callout.Domain, OperatorMakesConsumers: true, Timeout: time.Minute,
	}, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = opened.Close() })
	return opened
}
