package controller

import (
	"slices"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	toolscache "k8s.io/client-go/tools/cache"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
)

func TestQuotas(t *testing.T) {
	t.Parallel()
	limit := resource.MustParse("10")
	class := &v1alpha1.EventStoreClass{ObjectMeta: metav1.ObjectMeta{Name: "standard"}}
	class.Spec.Limits.Replicas = 3
	class.Spec.Limits.PerNamespace = v1alpha1.NamespaceLimits{Stores: 3, Bytes: &limit}
	// of is a store that waits, of so many bytes, created in a second.
	of := func(uid string, second, bytes int64) *v1alpha1.EventStore {
		store := &v1alpha1.EventStore{ObjectMeta: metav1.ObjectMeta{
			Namespace: "shop", Name: uid, UID: types.UID(uid), CreationTimestamp: metav1.NewTime(time.Unix(second, 0)),
		}}
		store.Spec.ClassName = class.Name
		store.Spec.Retention.MaxBytes = resource.NewQuantity(bytes-1, resource.BinarySI)
		store.Spec.Snapshots.MaxBytes = resource.NewQuantity(1, resource.BinarySI)
		return store
	}
	there := func(store *v1alpha1.EventStore, bytes int64) *v1alpha1.EventStore {
		store.Status.Streams = []v1alpha1.StreamStatus{{MaxBytes: bytes, ReplicaCount: 1}}
		return store
	}
	stalled := func(store *v1alpha1.EventStore, reason string) *v1alpha1.EventStore {
		store.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionStalled, Status: metav1.ConditionTrue, Reason: reason}}
		return store
	}
	replicated := func(store *v1alpha1.EventStore) *v1alpha1.EventStore {
		store.Spec.Replicas = 4
		return store
	}
	elsewhere := func(store *v1alpha1.EventStore) *v1alpha1.EventStore {
		store.Spec.ClassName = "other"
		return store
	}
	for name, test := range map[string]struct {
		self   *v1alpha1.EventStore
		wanted int64
		others []*v1alpha1.EventStore
		want   bool
	}{
		"alone":                           {of("a", 1, 10), 10, nil, true},
		"too large":                       {of("a", 1, 11), 11, nil, false},
		"beside one that is there":        {of("b", 2, 4), 4, []*v1alpha1.EventStore{there(of("a", 1, 6), 6)}, true},
		"beside one that is larger there": {of("b", 2, 4), 4, []*v1alpha1.EventStore{there(of("a", 1, 1), 7)}, false},
		"before a younger that waits":     {of("a", 1, 6), 6, []*v1alpha1.EventStore{of("b", 2, 6)}, true},
		"after an older that waits":       {of("b", 2, 6), 6, []*v1alpha1.EventStore{of("a", 1, 6)}, false},
		"after an older of its second":    {of("b", 1, 6), 6, []*v1alpha1.EventStore{of("a", 1, 6)}, false},
		"after one that never fits":       {of("b", 2, 6), 6, []*v1alpha1.EventStore{of("a", 1, 11)}, true},
		"after one that waits for a room": {of("b", 2, 6), 6, []*v1alpha1.EventStore{stalled(of("a", 1, 6), v1alpha1.ReasonLimitExceeded)}, false},
		"after one that is never made":    {of("b", 2, 2), 2, []*v1alpha1.EventStore{there(of("0", 0, 1), 1), stalled(replicated(of("a", 1, 2)), v1alpha1.ReasonLimitExceeded)}, true},
		"after one that is forbidden":     {of("b", 2, 6), 6, []*v1alpha1.EventStore{stalled(of("a", 1, 6), v1alpha1.ReasonTenancyForbidden)}, true},
		"beside one of another class":     {of("b", 2, 6), 6, []*v1alpha1.EventStore{elsewhere(there(of("a", 1, 6), 6))}, true},
		"one store too many":              {of("d", 4, 2), 2, []*v1alpha1.EventStore{there(of("a", 1, 1), 1), there(of("b", 2, 1), 1), of("c", 3, 2)}, false},
		"there, and over the limit":       {there(of("a", 1, 12), 12), 12, []*v1alpha1.EventStore{there(of("b", 2, 6), 6)}, true},
		"there, and asks for less":        {there(of("a", 1, 12), 12), 11, []*v1alpha1.EventStore{there(of("b", 2, 6), 6)}, true},
		"there, and asks for more":        {there(of("a", 1, 4), 4), 5, []*v1alpha1.EventStore{there(of("b", 2, 6), 6)}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			missing := newQuotas().admit(class, test.self, test.wanted, append(test.others, test.self))
			if (missing == "") != test.want {
				t.Errorf("missing: %q", missing)
			}
		})
	}

	t.Run("what the cache does not have yet", func(t *testing.T) {
		t.Parallel()
		given := newQuotas()
		late, early := of("b", 1, 6), of("a", 1, 6)
		if missing := given.admit(class, late, 6, []*v1alpha1.EventStore{late}); missing != "" {
			t.Fatal(missing)
		}
		// The other is seen later, and of its second it is the elder.
		if given.admit(class, early, 6, []*v1alpha1.EventStore{late, early}) == "" {
			t.Error("two stores have room for one")
		}
		if missing := given.admit(class, early, 6, []*v1alpha1.EventStore{early}); missing != "" {
			t.Errorf("the room of a store that is gone is not given: %s", missing)
		}
		given.forget("shop", []*v1alpha1.EventStore{late})
		if len(given.admitted) != 0 {
			t.Errorf("of a namespace whose stores are gone it keeps %v", given.admitted)
		}
		// Neither has its class in what the cache has.
		byDefault := func(s *v1alpha1.EventStore) *v1alpha1.EventStore {
			s.Spec.ClassName, s.Status.ClassName = "", ""
			return s
		}
		given = newQuotas()
		late, early = byDefault(of("b", 1, 6)), byDefault(of("a", 1, 6))
		if missing := given.admit(class, late, 6, []*v1alpha1.EventStore{late, early}); missing != "" {
			t.Fatal(missing)
		}
		if given.admit(class, early, 6, []*v1alpha1.EventStore{late, early}) == "" {
			t.Error("two stores of the default class have room for one")
		}
	})
}

// A store that is just being told that there is no room has not been told in the cache
// yet. When there is room it is woken all the same, or it would wait for the next time.
func TestRoomIsToldToAllThatMayWait(t *testing.T) {
	t.Parallel()
	index := storeIndex{toolscache.NewIndexer(toolscache.MetaNamespaceKeyFunc, toolscache.Indexers{toolscache.NamespaceIndex: toolscache.MetaNamespaceIndexFunc})}
	of := func(name string, streams int, reason string) *v1alpha1.EventStore {
		store := &v1alpha1.EventStore{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: types.UID(name)}}
		store.Status.Streams = make([]v1alpha1.StreamStatus, streams)
		store.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionReady, Status: metav1.ConditionFalse, Reason: reason}}
		if err := index.indexer.Add(store); err != nil {
			t.Fatal(err)
		}
		return store
	}
	gone := of("gone", 2, v1alpha1.ReasonReady)
	of("made", 2, v1alpha1.ReasonReady)
	of("grows", 2, v1alpha1.ReasonLimitExceeded)
	of("waits", 0, v1alpha1.ReasonLimitExceeded)
	of("new", 0, "")
	var woken []string
	for _, request := range (&EventStoreReconciler{stores: index}).waitingForRoom(t.Context(), gone) {
		woken = append(woken, request.Name)
	}
	slices.Sort(woken)
	if want := []string{"grows", "new", "waits"}; !slices.Equal(woken, want) {
		t.Errorf("woken are %v, want %v", woken, want)
	}
}
