package controller

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/stream"
)

// quotas says which of the stores of a namespace there is room for.
type quotas struct {
	mu sync.Mutex
	// admitted is what stores were given room for, by namespace: the cache does not have
	// at once what came of it.
	admitted map[string]map[types.UID]admission
}

// admission is what a store was given room for: so many bytes, of a class.
type admission struct {
	class string
	bytes int64
}

func newQuotas() *quotas { return &quotas{admitted: map[string]map[types.UID]admission{}} }

// admit says, for a person, what there is no room for; empty when there is. wanted is
// what JetStream would reserve for the store, and all are the stores of its namespace.
// What a store has it may keep; of those that wait the oldest comes first, and one
// that does not fit holds up no other.
func (q *quotas) admit(class *v1alpha1.EventStoreClass, store *v1alpha1.EventStore, wanted int64, all []*v1alpha1.EventStore) string {
	q.mu.Lock()
	defer q.mu.Unlock()
	admitted := q.keep(store.Namespace, all)
	used := room{limits: class.Spec.Limits.PerNamespace}
	var waiting []*v1alpha1.EventStore
	for _, other := range all {
		switch {
		case other.UID == store.UID || classNow(other, admitted) != class.Name:
		case has(other, admitted):
			used.take(shareOf(other, admitted))
		case waitsForRoom(other) && elder(other, store) < 0:
			waiting = append(waiting, other)
		}
	}
	more := int32(1)
	if has(store, admitted) {
		if wanted <= shareOf(store, admitted) {
			q.give(store, admission{class.Name, wanted})
			return ""
		}
		more, waiting = 0, nil
	}
	slices.SortFunc(waiting, elder)
	for _, other := range waiting {
		effective := stream.Effective(other, class.Spec.Defaults)
		over, err := stream.OverLimits(stream.RecordedDeletionPolicy(other), effective, class.Spec.Limits, make([]*liveStream, 2))
		if err != nil || len(over) > 0 {
			// It waits for no room.
			continue
		}
		if share, err := stream.Reserved(effective); err == nil && used.missing(1, share) == "" {
			used.take(share)
		}
	}
	missing := used.missing(more, wanted)
	if missing == "" {
		q.give(store, admission{class.Name, wanted})
	}
	return missing
}

// keep forgets what was given to stores that are gone.
func (q *quotas) keep(namespace string, all []*v1alpha1.EventStore) map[types.UID]admission {
	kept := map[types.UID]admission{}
	for _, s := range all {
		if share, given := q.admitted[namespace][s.UID]; given {
			kept[s.UID] = share
		}
	}
	q.admitted[namespace] = kept
	if len(kept) == 0 {
		delete(q.admitted, namespace)
	}
	return kept
}

// give gives a store room.
func (q *quotas) give(store *v1alpha1.EventStore, share admission) {
	if q.admitted[store.Namespace] == nil {
		q.admitted[store.Namespace] = map[types.UID]admission{}
	}
	q.admitted[store.Namespace][store.UID] = share
}

// forget forgets what was given to stores of a namespace but those that are left.
func (q *quotas) forget(namespace string, left []*v1alpha1.EventStore) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.keep(namespace, left)
}

// has says whether a store has streams, or may make them at this moment.
func has(store *v1alpha1.EventStore, admitted map[types.UID]admission) bool {
	_, given := admitted[store.UID]
	return given || len(store.Status.Streams) > 0
}

// classNow is the class of a store. One that left it to the default has it in its status,
// which the cache may not have yet.
func classNow(store *v1alpha1.EventStore, admitted map[types.UID]admission) string {
	return cmp.Or(classInUse(store), admitted[store.UID].class)
}

// shareOf is what is reserved for a store that has streams, or is about to be.
func shareOf(store *v1alpha1.EventStore, admitted map[types.UID]admission) int64 {
	if len(store.Status.Streams) == 0 {
		return admitted[store.UID].bytes
	}
	return max(admitted[store.UID].bytes, stream.ReservedBy(store.Status.Streams))
}

// waitsForRoom says whether a store without streams would be made if there was room.
// One that waits for something else takes its turn when it has that.
func waitsForRoom(store *v1alpha1.EventStore) bool {
	stalled := meta.FindStatusCondition(store.Status.Conditions, v1alpha1.ConditionStalled)
	policy := cmp.Or(store.Spec.ManagementPolicy, v1alpha1.ManagementFull)
	return store.DeletionTimestamp.IsZero() && policy == v1alpha1.ManagementFull &&
		(stalled == nil || stalled.Reason == v1alpha1.ReasonLimitExceeded)
}

// elder orders stores by their age, and those of one second by their uid.
func elder(a, b *v1alpha1.EventStore) int {
	return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), strings.Compare(string(a.UID), string(b.UID)))
}

// room is what the stores of a namespace take of its limits.
type room struct {
	limits v1alpha1.NamespaceLimits
	stores int32
	bytes  int64
}

func (r *room) take(bytes int64) {
	r.stores++
	r.bytes += min(bytes, math.MaxInt64-r.bytes)
}

// missing tells, for a person, what there is no room for.
func (r *room) missing(stores int32, bytes int64) string {
	if limit := r.limits.Stores; limit != 0 && r.stores+stores > limit {
		return fmt.Sprintf("stores is %d, and %d are there", limit, r.stores)
	}
	if r.limits.Bytes == nil {
		return ""
	}
	if limit := r.limits.Bytes.Value(); r.bytes > limit-bytes {
		return fmt.Sprintf("bytes is %s, of which the others have %s, and maxBytes of events and snapshots times replicas is %s here",
			stream.FormatBytes(limit), endlessText(r.bytes), endlessText(bytes))
	}
	return ""
}

func endlessText(bytes int64) string {
	if bytes == math.MaxInt64 {
		return "no end, since a maxBytes is not set"
	}
	return stream.FormatBytes(bytes)
}

// roomMade: a store went, has less than before, or does not wait for room any more.
var roomMade = predicate.Funcs{
	CreateFunc: func(event.CreateEvent) bool { return false },
	UpdateFunc: func(e event.UpdateEvent) bool {
		before, now := e.ObjectOld.(*v1alpha1.EventStore), e.ObjectNew.(*v1alpha1.EventStore)
		return readyReason(before) == v1alpha1.ReasonLimitExceeded && readyReason(now) != v1alpha1.ReasonLimitExceeded ||
			len(before.Status.Streams) > 0 && stream.ReservedBy(now.Status.Streams) < stream.ReservedBy(before.Status.Streams)
	},
}

// waitingForRoom are the stores in the namespace of one that made room that may wait
// for it. One that has no streams may be about to say so, of the time before.
func (r *EventStoreReconciler) waitingForRoom(_ context.Context, made client.Object) []reconcile.Request {
	var waiting []*v1alpha1.EventStore
	for _, store := range r.stores.inNamespace(made.GetNamespace()) {
		if store.UID != made.GetUID() && (readyReason(store) == v1alpha1.ReasonLimitExceeded || len(store.Status.Streams) == 0) {
			waiting = append(waiting, store)
		}
	}
	return requests(waiting)
}

func readyReason(store *v1alpha1.EventStore) string {
	if ready := meta.FindStatusCondition(store.Status.Conditions, v1alpha1.ConditionReady); ready != nil {
		return ready.Reason
	}
	return ""
}
