package controller

import (
	"context"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/stream"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv/natsserver"
)

// A store that is changed between two sweeps is woken by what is told of it, and may
// be looked at while the second sweep is under way: what the first has seen of it does
// not hold then.
func TestSweepHidesNothing(t *testing.T) {
	t.Parallel()
	servers := natsserver.Run(t, 1)
	connections := stream.NewConnections(func(stream.Notice) {}, func(string, time.Duration, error) {}, func(context.Context, stream.Owner) stream.Standing { return stream.Exists })
	t.Cleanup(connections.Close)
	conn, err := connections.Get(t.Context(), stream.Target{Class: "standard", Servers: servers.URLs()})
	if err != nil {
		t.Fatal(err)
	}
	class := &v1alpha1.EventStoreClass{}
	class.Name = "standard"
	store := settledOn(t, conn, class)
	index := storeIndex{toolscache.NewIndexer(toolscache.MetaNamespaceKeyFunc, indexers)}
	if err := index.indexer.Add(store); err != nil {
		t.Fatal(err)
	}
	// The wake is in the middle of the sweep, and stands for a pass.
	var sweeps *sweeper
	woken, believed := false, false
	sweeps = newSweeper(connector{}, index, homesOf(home), stream.NewMemory(), time.Hour, func(stream.Notice) {
		woken = true
		_, believed = sweeps.sawSettled(t.Context(), class, conn, store)
	})
	if _, settled := sweeps.sawSettled(t.Context(), class, conn, store); !settled || woken {
		t.Fatal("the first sweep has not seen the store as settled")
	}
	api, err := jetstream.New(servers.Connect(t))
	if err != nil {
		t.Fatal(err)
	}
	changed := stream.Wanted{}
	for _, wanted := range wantedOf(store, home, class, make([]*liveStream, 2)) {
		if wanted.Role == v1alpha1.StreamRoleEvents {
			changed = wanted
		}
	}
	changed.Config.Description = "another's"
	if _, err := api.UpdateStream(t.Context(), changed.Config); err != nil {
		t.Fatal(err)
	}
	if err := sweeps.look(t.Context(), class, conn); err != nil {
		t.Fatal(err)
	}
	if !woken || believed {
		t.Errorf("woken: %t; what the sweep before had seen was believed: %t", woken, believed)
	}
}

// home is where the stores of these tests are.
var home = stream.Home{Namespace: "uid of shop", Cluster: "uid of the cluster"}

// homesOf are homes that know the namespace shop alone, without an API server.
func homesOf(home stream.Home) homes {
	namespace := func(name string, uid types.UID) *corev1.Namespace {
		return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, UID: uid}}
	}
	reader := fake.NewClientBuilder().WithScheme(Scheme()).
		WithObjects(namespace("shop", home.Namespace), namespace(metav1.NamespaceSystem, home.Cluster)).Build()
	return homes{cached: reader, uncached: reader}
}

// settledOn makes a store with its streams, as one pass after another leaves it.
func settledOn(t *testing.T, conn *stream.Conn, class *v1alpha1.EventStoreClass) *v1alpha1.EventStore {
	t.Helper()
	store := &v1alpha1.EventStore{}
	store.Namespace, store.Name, store.UID, store.Generation = "shop", "orders", "uid", 1
	store.Spec.ClassName = class.Name
	setOutcome(&store.Status.Conditions, nil, "all is well")
	for _, wanted := range wantedOf(store, home, class, make([]*liveStream, 2)) {
		live, err := conn.Create(t.Context(), wanted.Config)
		if err != nil {
			t.Fatal(err)
		}
		store.Status.Streams = append(store.Status.Streams, stream.StatusOf(wanted.Role, live))
	}
	return store
}
