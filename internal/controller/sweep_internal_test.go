package controller

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"k8s.io/apimachinery/pkg/types"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/stream"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv/natsserver"
)

// A store that is changed between two sweeps is woken by what is told of it, and may
// be looked at while the second sweep is under way: what the first has seen of it does
// not hold then.
func TestSweepHidesNothing(t *testing.T) {
	t.Parallel()
	servers := natsserver.Run(t, 1)
	conn := connectionTo(t, servers)
	class := &v1alpha1.EventStoreClass{}
	class.Name = "standard"
	store := settledOn(t, conn, class)
	index := storeIndex{toolscache.NewIndexer(toolscache.MetaNamespaceKeyFunc, indexers)}
	if err := index.indexer.Add(store); err != nil {
		t.Fatal(err)
	}
	// The wake is in the middle of the sweep, and stands for a pass.
	var sweeps *sweeper
	changing, woken, believed := false, false, false
	sweeps = newSweeper(connector{}, index, homes{cached: anyNamespace{}}, stream.NewMemory(), time.Hour, func(stream.Notice) {
		if !changing {
			// A notice of the creation of the streams, perhaps inside the first sweep.
			return
		}
		woken = true
		_, believed = sweeps.sawSettled(t.Context(), class, conn, store)
	})
	testenv.Eventually(t, time.Minute, "the first sweep", func() error {
		// The notices that the streams were created may still come.
		if _, settled := sweeps.sawSettled(t.Context(), class, conn, store); settled {
			return nil
		}
		return errors.Join(errors.New("it has not seen the store as settled"), sweeps.look(t.Context(), class, conn))
	})
	api, err := jetstream.New(servers.Connect(t))
	if err != nil {
		t.Fatal(err)
	}
	changed := stream.Wanted{}
	for _, wanted := range wantedOf(store, homeOf(t, store), class, make([]*liveStream, 2)) {
		if wanted.Role == v1alpha1.StreamRoleEvents {
			changed = wanted
		}
	}
	changed.Config.Description = "another's"
	if _, err := api.UpdateStream(t.Context(), changed.Config); err != nil {
		t.Fatal(err)
	}
	changing = true
	if err := sweeps.look(t.Context(), class, conn); err != nil {
		t.Fatal(err)
	}
	if !woken || believed {
		t.Errorf("woken: %t; what the sweep before had seen was believed: %t", woken, believed)
	}
}

// connectionTo is the connection of the class "standard" to servers.
func connectionTo(t *testing.T, servers *natsserver.Cluster) *stream.Conn {
	t.Helper()
	connections := stream.NewConnections(func(stream.Notice) {}, func(string, time.Duration, error) {}, stream.Self{
		Cluster:  func(context.Context) (types.UID, error) { return "cluster", nil },
		Standing: func(context.Context, stream.Owner) stream.Standing { return stream.Unknown },
	})
	t.Cleanup(connections.Close)
	conn, err := connections.Get(t.Context(), stream.Target{Class: "standard", Servers: servers.URLs()})
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

// anyNamespace is a cache in which every namespace is, with a uid of its own.
type anyNamespace struct{ client.Reader }

func (anyNamespace) Get(_ context.Context, key client.ObjectKey, found client.Object, _ ...client.GetOption) error {
	found.SetUID("of-" + types.UID(key.Name))
	return nil
}

func homeOf(t *testing.T, store *v1alpha1.EventStore) stream.Home {
	t.Helper()
	home, err := homes{cached: anyNamespace{}}.of(t.Context(), store.Namespace)
	if err != nil {
		t.Fatal(err)
	}
	return home
}

// settledOn makes a store with its streams, as one pass after another leaves it.
func settledOn(t *testing.T, conn *stream.Conn, class *v1alpha1.EventStoreClass) *v1alpha1.EventStore {
	t.Helper()
	store := &v1alpha1.EventStore{}
	store.Namespace, store.Name, store.UID, store.Generation = "shop", "orders", "uid", 1
	store.Spec.ClassName = class.Name
	setOutcome(&store.Status.Conditions, nil, "all is well")
	effective := stream.Effective(store, class.Spec.Defaults)
	store.Status.Effective = &effective
	for _, wanted := range wantedOf(store, homeOf(t, store), class, make([]*liveStream, 2)) {
		live, err := conn.Create(t.Context(), wanted.Config)
		if err != nil {
			t.Fatal(err)
		}
		store.Status.Streams = append(store.Status.Streams, stream.StatusOf(wanted.Role, live))
	}
	return store
}
