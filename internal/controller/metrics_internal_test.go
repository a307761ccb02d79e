package controller

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus/testutil"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	toolscache "k8s.io/client-go/tools/cache"

	layout "git.flowmade.one/flowmade-one/aether-operator/api/eventstore/jetstream"
	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/stream"
)

// The leader tells of all stores, and of the first few by name what they hold.
func TestStoresCollector(t *testing.T) {
	t.Parallel()
	indexer, memory, leads := toolscache.NewIndexer(toolscache.MetaNamespaceKeyFunc, indexers), stream.NewMemory(), make(chan struct{})
	for _, name := range []string{"c", "a", "b"} {
		store := &v1alpha1.EventStore{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name}, Spec: v1alpha1.EventStoreSpec{ClassName: "standard"}}
		store.Status.Conditions = []metav1.Condition{
			{Type: v1alpha1.ConditionReady, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonReady},
			{Type: v1alpha1.ConditionConnected, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonConnected},
		}
		store.Status.Streams = []v1alpha1.StreamStatus{{Role: v1alpha1.StreamRoleEvents, Name: store.EventsStreamName()}}
		if err := indexer.Add(store); err != nil {
			t.Fatal(err)
		}
		memory.Note("standard", &jetstream.StreamInfo{
			Config: jetstream.StreamConfig{Name: store.EventsStreamName(), MaxBytes: 1000}, State: jetstream.StreamState{Msgs: 3, Bytes: 300, LastSeq: 7},
			Cluster: &jetstream.ClusterInfo{Replicas: []*jetstream.PeerInfo{{Lag: 1}, {Lag: 2}}},
		})
	}
	versions := newVersionReconciler(nil, nil, storeIndex{}, nil)
	known := &v1alpha1.EventStore{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "a"}}
	versions.note(known, layout.KeepOptions{}, layout.KeptVersions{MaxAge: time.Hour, Next: time.Minute}, nil)
	collector := &storesCollector{stores: storeIndex{indexer}, memory: memory, versions: versions, leads: leads, limit: 2}
	if count := testutil.CollectAndCount(collector); count != 0 {
		t.Errorf("a replica that does not lead tells %d metrics", count)
	}
	close(leads)
	// Of the third store, and of streams that were never seen, nothing.
	if err := testutil.CollectAndCompare(collector, strings.NewReader(`
# HELP aether_eventstore_bytes Bytes that a stream of an EventStore takes on each server.
# TYPE aether_eventstore_bytes gauge
aether_eventstore_bytes{name="a",namespace="shop",role="Events"} 300
aether_eventstore_bytes{name="b",namespace="shop",role="Events"} 300
# HELP aether_eventstore_last_sequence The last sequence of a stream of an EventStore.
# TYPE aether_eventstore_last_sequence gauge
aether_eventstore_last_sequence{name="a",namespace="shop",role="Events"} 7
aether_eventstore_last_sequence{name="b",namespace="shop",role="Events"} 7
# HELP aether_eventstore_max_bytes Bytes that a stream of an EventStore may take on each server, 0 for no limit.
# TYPE aether_eventstore_max_bytes gauge
aether_eventstore_max_bytes{name="a",namespace="shop",role="Events"} 1000
aether_eventstore_max_bytes{name="b",namespace="shop",role="Events"} 1000
# HELP aether_eventstore_messages Messages that a stream of an EventStore holds.
# TYPE aether_eventstore_messages gauge
aether_eventstore_messages{name="a",namespace="shop",role="Events"} 3
aether_eventstore_messages{name="b",namespace="shop",role="Events"} 3
# HELP aether_eventstore_replica_lag Operations that the slowest replica of a stream of an EventStore is behind.
# TYPE aether_eventstore_replica_lag gauge
aether_eventstore_replica_lag{name="a",namespace="shop",role="Events"} 2
aether_eventstore_replica_lag{name="b",namespace="shop",role="Events"} 2
# HELP aether_eventstore_versions_behind_seconds For how long events of an EventStore that expire soon have not been looked at, whose actors' latest versions are to be kept; 0 when all have.
# TYPE aether_eventstore_versions_behind_seconds gauge
aether_eventstore_versions_behind_seconds{name="a",namespace="shop"} 0
# HELP aether_operator_eventstores EventStores by class, empty for one that is not known to exist, condition, its status and its reason.
# TYPE aether_operator_eventstores gauge
aether_operator_eventstores{class="standard",condition="Connected",reason="Connected",status="True"} 3
aether_operator_eventstores{class="standard",condition="Ready",reason="Ready",status="True"} 3
# HELP aether_operator_eventstores_without_metrics EventStores beyond --store-metrics-limit, which have no figures of their own.
# TYPE aether_operator_eventstores_without_metrics gauge
aether_operator_eventstores_without_metrics 1
`)); err != nil {
		t.Error(err)
	}
}

// Who writes EventStores chooses no value of the label: also with one that is paused, of
// which nobody looks for the class.
func TestClassesThatAreNotKnownAreNoLabels(t *testing.T) {
	t.Parallel()
	for i := range 10 {
		store := &v1alpha1.EventStore{}
		store.Spec.ClassName, store.Spec.ManagementPolicy = fmt.Sprintf("none-%d", i), v1alpha1.ManagementPaused
		setCondition(&store.Status.Conditions, v1alpha1.ConditionReady, metav1.ConditionUnknown, v1alpha1.ReasonPaused, errPaused.Error())
		if class := knownClass(store); class != "" {
			t.Errorf("class %q is a label", class)
		}
	}
}
