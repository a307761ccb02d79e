package controller

import (
	"context"
	"errors"
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
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
	layout "git.flowmade.one/flowmade-one/aether-operator/api/eventstore/jetstream"
	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/stream"
)

const (
	// keepers is of how many stores versions are kept at once. None has its turn for longer
	// than keepSlice, but for a batch that is under way, so that one with very many events
	// keeps no other waiting until its events have expired. keepTimeout bounds a turn whose
	// requests are answered late, or not.
	keepers     = 4
	keepSlice   = 2 * time.Second
	keepTimeout = 10 * time.Second
	// keepersOfOne is of how many stores in one Kubernetes namespace at once: one turn is left
	// for others. silentKeepers is of how many stores in all whose servers did not answer, or not
	// in time.
	keepersOfOne, silentKeepers = keepers - 1, keepers / 2
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
	stores      storeIndex
	// wake wakes the reconciler of EventStores.
	wake func(stream.Notice)
	// hurried wakes this one.
	hurried notices
	line    *keepLine

	mu   sync.Mutex
	kept map[types.NamespacedName]keptStore
}

func newVersionReconciler(cached client.Reader, connections *stream.Connections, stores storeIndex, wake func(stream.Notice)) *VersionReconciler {
	r := &VersionReconciler{
		Reader: cached, connections: connections, stores: stores, wake: wake, hurried: make(notices, noticeBuffer), kept: map[types.NamespacedName]keptStore{},
	}
	r.line = newKeepLine(keepLimits{ofOne: keepersOfOne, ofSilent: silentKeepers}, r.facts)
	return r
}

func (r *VersionReconciler) setup(mgr ctrl.Manager) error {
	options := controllerOptions()
	options.MaxConcurrentReconciles = keepers
	options.NewQueue = r.line.queue
	if err := mgr.Add(manager.RunnableFunc(r.watch)); err != nil {
		return fmt.Errorf("add the watch for stores that wait too long: %w", err)
	}
	return ctrl.NewControllerManagedBy(mgr).
		Named("eventstore-versions").
		For(&v1alpha1.EventStore{}, builder.WithPredicates(keepingChanged)).
		WatchesRawSource(source.Channel(r.hurried, handler.TypedEnqueueRequestsFromMapFunc(func(_ context.Context, n stream.Notice) []reconcile.Request {
			return requests(r.stores.ofStream(n.Stream))
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
	defer r.line.done(request)
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
		return ctrl.Result{RequeueAfter: untilTried(ageOnRecord(store))}, nil
	}
	conn := r.connections.Current(classInUse(store), store.Status.System)
	if conn == nil {
		// The reconciler of EventStores tells of that, and connects.
		return ctrl.Result{RequeueAfter: untilTried(ageOnRecord(store))}, nil
	}
	return r.keep(ctx, conn, store)
}

// keep is a turn of a store.
func (r *VersionReconciler) keep(ctx context.Context, conn *stream.Conn, store *v1alpha1.EventStore) (ctrl.Result, error) {
	opts := layout.KeepOptions{AtMost: keepSlice, MaxAge: r.lowering(client.ObjectKeyFromObject(store)), Created: streamCreated(store).Time}
	bounded, cancel := context.WithTimeout(ctx, keepTimeout)
	kept, err := conn.KeepVersions(bounded, store, opts)
	cancel()
	if stopping(ctx, err) || stream.WasClosed(err) {
		return ctrl.Result{}, nil
	}
	r.line.answered(classInUse(store), kept.Answered || !errors.Is(err, eventstore.ErrUnavailable))
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

// untilTried is when to come back to a store of which nothing could be kept, whose events
// expire after an age, 0 where that is not known.
func untilTried(age time.Duration) time.Duration {
	if age == 0 {
		return jittered(keepAgain)
	}
	return jittered(min(keepAgain, max(age/16, minPause)))
}

// untilKept is when to come back.
func untilKept(kept layout.KeptVersions, opts layout.KeepOptions, err error) time.Duration {
	switch {
	case err != nil:
		return untilTried(kept.MaxAge)
	case kept.More, opts.MaxAge != 0:
		return time.Millisecond
	case kept.MaxAge == 0:
		return jittered(keepForever)
	}
	return max(kept.Next, minPause)
}
