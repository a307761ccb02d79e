package controller

import (
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/stream"
)

// What is missing in a status is given back as it was written, to that very store, and
// what is there stays.
func TestRecords(t *testing.T) {
	t.Parallel()
	created, last := metav1.NewMicroTime(time.Date(2026, 11, 1, 12, 0, 0, 123456000, time.UTC)), metav1.NewMicroTime(time.Date(2026, 11, 2, 12, 0, 0, 1000, time.UTC))
	store := &v1alpha1.EventStore{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "orders", UID: "uid-1"}}
	empty := store.DeepCopy()
	store.Status.ClassName = "standard"
	store.Status.Effective = &v1alpha1.EffectiveSpec{Storage: v1alpha1.StorageMemory, Protection: v1alpha1.ProtectionErasable, DeletionPolicy: v1alpha1.DeletionPolicyDelete}
	events := v1alpha1.StreamStatus{Role: v1alpha1.StreamRoleEvents, Name: "shop_orders", Created: &created, LastTime: &last, MaxAge: "30d", NextMaxAge: "7d", Messages: 3, FirstSequence: 2, LastSequence: 4, MaxBytes: 1 << 30, ReplicaCount: 3}
	snapshots := v1alpha1.StreamStatus{Role: v1alpha1.StreamRoleSnapshots, Name: "shop_orders_snapshots", Created: &created, MaxAge: "0"}
	store.Status.Streams = []v1alpha1.StreamStatus{events, snapshots}
	r := newRecords()
	r.recall(empty)
	if !equality.Semantic.DeepEqual(empty.Status, v1alpha1.EventStoreStatus{}) {
		t.Errorf("of nothing it recalls %+v", empty.Status)
	}
	r.wrote(store)
	r.read(empty)
	given := empty.DeepCopy()
	r.recall(given)
	if s := given.Status; s.ClassName != "standard" || !equality.Semantic.DeepEqual(s.Streams, store.Status.Streams) ||
		s.Effective.Storage != v1alpha1.StorageMemory || s.Effective.DeletionPolicy != v1alpha1.DeletionPolicyDelete {
		t.Errorf("it recalls %+v", s)
	}
	if reserved := stream.ReservedBy(given.Status.Streams[:1]); reserved != 3<<30 {
		t.Errorf("what it recalls reserves %d bytes", reserved)
	}
	retained := store.DeepCopy()
	retained.Status.Effective.DeletionPolicy = v1alpha1.DeletionPolicyRetain
	r.wrote(retained)
	asks := empty.DeepCopy()
	asks.Spec.DeletionPolicy = v1alpha1.DeletionPolicyDelete
	if r.recall(asks); asks.Status.Effective.DeletionPolicy != v1alpha1.DeletionPolicyRetain {
		t.Errorf("of a store that retained, and asks for Delete, it recalls %s", asks.Status.Effective.DeletionPolicy)
	}
	r.wrote(store)
	later := store.DeepCopy()
	later.Status.Effective.DeletionPolicy, later.Status.Streams = v1alpha1.DeletionPolicyRetain, []v1alpha1.StreamStatus{snapshots}
	later.Status.Streams[0].LastSequence = 7
	r.recall(later)
	if s := later.Status; s.Effective.DeletionPolicy != v1alpha1.DeletionPolicyRetain || s.Streams[0].LastSequence != 7 || !equality.Semantic.DeepEqual(s.Streams[1], events) {
		t.Errorf("of a part it recalls %+v", s)
	}
	again := empty.DeepCopy()
	again.UID = "uid-2"
	if r.recall(again); again.Status.ClassName != "" || len(again.Status.Streams) > 0 {
		t.Errorf("to another store it gives %+v", again.Status)
	}
	r.forget(client.ObjectKeyFromObject(store))
	if r.recall(empty); len(empty.Status.Streams) > 0 {
		t.Errorf("of one that is gone it recalls %+v", empty.Status)
	}
}
