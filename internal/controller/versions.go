package controller

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	layout "git.flowmade.one/flowmade-one/aether-operator/api/eventstore/jetstream"
	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/stream"
)

const (
	// keepers is of how many stores versions are kept at once. None has its turn for longer
	// than keepSlice, but for a batch that is under way, so that one with very many events
	// keeps no other waiting until its events have expired. keepTimeout bounds a turn in
	// which nobody answers.
	keepers     = 4
	keepSlice   = 2 * time.Second
	keepTimeout = 10 * time.Second
	// keepAgain is how soon a store is tried again that failed, at most, and keepForever
	// how soon one is looked at whose events do not expire: a change of that is told.
	keepAgain   = 15 * time.Second
	keepForever = 6 * time.Hour
)

// VersionReconciler has the EventStores remember the latest versions of actors whose
// events expire. It writes nothing into Kubernetes: what came of it the reconciler of
// EventStores tells.
type VersionReconciler struct {
	client.Reader
	connections *stream.Connections
	// wake wakes the reconciler of EventStores.
	wake func(stream.Notice)
	// hurried wakes this one.
	hurried notices

	mu   sync.Mutex
	kept map[types.NamespacedName]keptStore
}

// keptStore is how far the versions of one store are kept.
type keptStore struct {
	// lower is an age that max_age is to be lowered to, once all is kept that then
	// expires; 0 for none.
	lower time.Duration
	// fault is why nothing can be kept, or not in time; nil for nothing.
	fault *stream.Fault
	// looked: a turn has come to an end. age is then that of events, 0 for ever.
	looked bool
	age    time.Duration
	// due is when there is something to do, zero for never, and behind since when it should
	// have been done, zero for done.
	due, behind time.Time
}

func newVersionReconciler(cached client.Reader, connections *stream.Connections, wake func(stream.Notice)) *VersionReconciler {
	return &VersionReconciler{
		Reader: cached, connections: connections, wake: wake, hurried: make(notices, noticeBuffer), kept: map[types.NamespacedName]keptStore{},
	}
}

func (r *VersionReconciler) setup(mgr ctrl.Manager, stores storeIndex) error {
	options := controllerOptions()
	options.MaxConcurrentReconciles = keepers
	// One after the other: what comes back at once keeps its priority, and those that came
	// with the first listing have the lowest.
	options.UsePriorityQueue = new(false)
	return ctrl.NewControllerManagedBy(mgr).
		Named("eventstore-versions").
		For(&v1alpha1.EventStore{}, builder.WithPredicates(keepingChanged)).
		WatchesRawSource(source.Channel(r.hurried, handler.TypedEnqueueRequestsFromMapFunc(func(_ context.Context, n stream.Notice) []reconcile.Request {
			return requests(stores.ofStream(n.Stream))
		}))).
		WithOptions(options).
		Complete(r)
}

// keepingChanged: what is to be kept may be another than before. Figures, which change all
// the time, do not count.
var keepingChanged = predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
	before, now := e.ObjectOld.(*v1alpha1.EventStore), e.ObjectNew.(*v1alpha1.EventStore)
	was, is := streamStatus(before, v1alpha1.StreamRoleEvents), streamStatus(now, v1alpha1.StreamRoleEvents)
	return keepsVersions(before) != keepsVersions(now) || before.Status.System != now.Status.System ||
		(was == nil) != (is == nil) || was != nil && (was.MaxAge != is.MaxAge || !was.Created.Equal(is.Created))
}}

// keepsVersions says whether the operator is to keep the versions of a store: its streams
// are known to be its own, and the operator may write.
func keepsVersions(store *v1alpha1.EventStore) bool {
	policy := store.Spec.ManagementPolicy
	return policy != v1alpha1.ManagementPaused && policy != v1alpha1.ManagementObserve && store.DeletionTimestamp.IsZero() &&
		meta.IsStatusConditionTrue(store.Status.Conditions, v1alpha1.ConditionStreamsOwned) &&
		streamCreated(store) != nil && streamStatus(store, v1alpha1.StreamRoleSnapshots) != nil
}

// streamCreated is when the stream of events was made, nil where that is not known.
func streamCreated(store *v1alpha1.EventStore) *metav1.MicroTime {
	if recorded := streamStatus(store, v1alpha1.StreamRoleEvents); recorded != nil {
		return recorded.Created
	}
	return nil
}

// Reconcile keeps the versions of one store for a while, and says when to come back.
func (r *VersionReconciler) Reconcile(ctx context.Context, request ctrl.Request) (ctrl.Result, error) {
	store := &v1alpha1.EventStore{}
	if err := r.Get(ctx, request.NamespacedName, store); apierrors.IsNotFound(err) {
		r.forget(request.NamespacedName)
		return ctrl.Result{}, nil
	} else if err != nil {
		return ctrl.Result{}, err
	}
	if !keepsVersions(store) {
		r.forget(request.NamespacedName)
		return ctrl.Result{}, nil
	}
	if away, err := r.isAway(ctx, store); err != nil {
		return ctrl.Result{}, err
	} else if away {
		return ctrl.Result{RequeueAfter: jittered(keepAgain)}, nil
	}
	conn := r.connections.Current(classInUse(store), store.Status.System)
	if conn == nil {
		// The reconciler of EventStores tells of that, and connects.
		return ctrl.Result{RequeueAfter: jittered(keepAgain)}, nil
	}
	opts := layout.KeepOptions{AtMost: keepSlice, MaxAge: r.lowering(request.NamespacedName), Created: streamCreated(store).Time}
	bounded, cancel := context.WithTimeout(ctx, keepTimeout)
	kept, err := conn.KeepVersions(bounded, store, opts)
	cancel()
	if stopping(ctx, err) || stream.WasClosed(err) {
		return ctrl.Result{}, nil
	}
	if r.note(store, opts, kept, err) {
		r.wake(stream.Notice{Class: classInUse(store), Stream: store.EventsStreamName()})
	}
	if err != nil {
		log.FromContext(ctx).V(1).Info("Could not keep the latest versions of actors", "error", err.Error())
	}
	return ctrl.Result{RequeueAfter: untilKept(kept, opts, err)}, nil
}

// isAway says whether the servers of a store, or of its class, are known not to answer:
// then no turn is spent on waiting for them.
func (r *VersionReconciler) isAway(ctx context.Context, store *v1alpha1.EventStore) (bool, error) {
	class := &v1alpha1.EventStoreClass{}
	if err := r.Get(ctx, client.ObjectKey{Name: classInUse(store)}, class); client.IgnoreNotFound(err) != nil {
		return false, fmt.Errorf("read EventStoreClass %s: %w", classInUse(store), err)
	}
	for _, conditions := range [][]metav1.Condition{class.Status.Conditions, store.Status.Conditions} {
		ready := meta.FindStatusCondition(conditions, v1alpha1.ConditionReady)
		if ready != nil && slices.Contains([]string{v1alpha1.ReasonUnreachable, v1alpha1.ReasonJetStreamUnavailable, v1alpha1.ReasonNoQuorum}, ready.Reason) {
			return true, nil
		}
	}
	return false, nil
}

// untilKept is when to come back.
func untilKept(kept layout.KeptVersions, opts layout.KeepOptions, err error) time.Duration {
	switch {
	case err != nil && kept.MaxAge > 0:
		return jittered(min(keepAgain, max(kept.MaxAge/16, minPause)))
	case err != nil:
		return jittered(keepAgain)
	case kept.More, opts.MaxAge != 0:
		return time.Millisecond
	case kept.MaxAge == 0:
		return jittered(keepForever)
	}
	return max(kept.Next, minPause)
}

// note remembers what came of a turn, and says whether the reconciler of EventStores has
// something to do or to tell.
func (r *VersionReconciler) note(store *v1alpha1.EventStore, opts layout.KeepOptions, kept layout.KeptVersions, err error) bool {
	key, now := client.ObjectKeyFromObject(store), time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.kept[key]
	lowered := false
	switch done := err == nil && !kept.More; {
	case done && opts.MaxAge != 0:
		// What is due for the age that the stream has comes next.
		lowered = s.lower == opts.MaxAge
		if lowered {
			s.lower = 0
		}
	case done:
		s = keptStore{lower: s.lower, looked: true, age: kept.MaxAge}
		if kept.MaxAge != 0 {
			s.due = now.Add(kept.Next)
		}
	case opts.MaxAge == 0:
		s = s.unfinished(kept, now)
	}
	if opts.MaxAge == 0 || err != nil {
		s.fault = s.notKept(err, now)
	}
	r.kept[key] = s
	told := meta.FindStatusCondition(store.Status.Conditions, v1alpha1.ConditionVersionsNotKept)
	return lowered || (s.fault != nil) != (told != nil) || s.fault != nil && s.fault.Reason != told.Reason
}

// unfinished is a store of which not all could be kept that was due.
func (s keptStore) unfinished(kept layout.KeptVersions, now time.Time) keptStore {
	if s.looked = true; kept.MaxAge != 0 {
		s.age = kept.MaxAge
	}
	switch {
	case kept.Behind > 0:
		s.behind = now.Add(-kept.Behind)
	case s.behind.IsZero() && s.due.IsZero():
		s.behind = now
	case s.behind.IsZero():
		s.behind = s.due
	}
	return s
}

// notKept is what is told of a store where a turn ended with an error or in the middle. An
// outage that passes is not: Connected and Ready have it.
func (s keptStore) notKept(err error, now time.Time) *stream.Fault {
	if fault, isFault := stream.AsFault(err); isFault && fault.Handling == stream.Stall {
		return fault
	}
	window := layout.KeepWindow(s.age)
	if s.behind.IsZero() || s.age == 0 || now.Sub(s.behind) < window/2 {
		return nil
	}
	return stream.Retrying(v1alpha1.ReasonVersionsBehind,
		"events that expire within %s, or have expired, were not looked at, and the latest versions of their actors go back when they do: see that the NATS servers answer, and are not too busy; the metric aether_eventstore_versions_behind_seconds tells for how long",
		stream.FormatAge(window/2))
}

// outcome is why versions of a store are not kept, nil for nothing, where that is known.
func (r *VersionReconciler) outcome(key types.NamespacedName) (fault *stream.Fault, known bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s, known := r.kept[key]
	return s.fault, known && (s.looked || s.fault != nil)
}

// behind is for how long events of a store have not been looked at that should have been.
func (r *VersionReconciler) behind(key types.NamespacedName, now time.Time) (late time.Duration, known bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s, known := r.kept[key]
	since := s.behind
	if since.IsZero() {
		since = s.due
	}
	if since.IsZero() {
		return 0, known
	}
	return max(now.Sub(since), 0), known
}

// hurry has all kept of a store that expires when max_age is lowered to an age, and wakes
// the reconciler of EventStores then.
func (r *VersionReconciler) hurry(store *v1alpha1.EventStore, age time.Duration) {
	key := client.ObjectKeyFromObject(store)
	r.mu.Lock()
	s := r.kept[key]
	s.lower = age
	r.kept[key] = s
	r.mu.Unlock()
	r.hurried.send(stream.Notice{Stream: store.EventsStreamName()})
}

// calm takes a lowering back.
func (r *VersionReconciler) calm(store *v1alpha1.EventStore) {
	key := client.ObjectKeyFromObject(store)
	r.mu.Lock()
	defer r.mu.Unlock()
	if s, known := r.kept[key]; known {
		s.lower = 0
		r.kept[key] = s
	}
}

// lowering is the age that max_age is to be lowered to, 0 for none.
func (r *VersionReconciler) lowering(key types.NamespacedName) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.kept[key].lower
}

func (r *VersionReconciler) forget(key types.NamespacedName) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.kept, key)
}
