package controller

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/stream"
)

// +kubebuilder:rbac:groups=aether.flowmade.one,resources=eventstores,verbs=get;list;watch;patch
// +kubebuilder:rbac:groups=aether.flowmade.one,resources=eventstores/status,verbs=update
// +kubebuilder:rbac:groups=aether.flowmade.one,resources=eventstores/finalizers,verbs=update
// +kubebuilder:rbac:groups=aether.flowmade.one,resources=eventstoreclasses,verbs=list;watch
// +kubebuilder:rbac:groups="",resources=namespaces,verbs=list;watch
// +kubebuilder:rbac:groups="",resources=secrets,verbs=list;watch;create;update
// +kubebuilder:rbac:groups=events.k8s.io,resources=events,verbs=create;patch

// EventStoreReconciler makes the streams and the binding of EventStores.
type EventStoreReconciler struct {
	client.Client
	connector
	recorder events.EventRecorder
	resync   time.Duration
	stores   storeIndex
	sweeper  *sweeper
	memory   *stream.Memory
	records  *records
	metrics  *metrics
	contests *contests
	homes    homes
	quotas   *quotas
	versions *VersionReconciler
	// ahead are the stores, by types.NamespacedName, that come back ahead of others for what
	// other operators answer.
	ahead sync.Map
}

// setup watches what a store depends on; told is what NATS tells.
func (r *EventStoreReconciler) setup(mgr ctrl.Manager, told notices) error {
	// A status that is written wakes nobody.
	spec := predicate.Or(predicate.GenerationChangedPredicate{}, predicate.AnnotationChangedPredicate{})
	// A binding that is new was written by a pass, which knows.
	notNew := predicate.Funcs{CreateFunc: func(event.CreateEvent) bool { return false }}
	// In the cache an annotation stands for labels that are too many to be kept.
	labels := predicate.Or(predicate.LabelChangedPredicate{}, predicate.AnnotationChangedPredicate{})
	cameOrWent := predicate.Funcs{UpdateFunc: func(event.UpdateEvent) bool { return false }}
	return ctrl.NewControllerManagedBy(mgr).
		Named("eventstore").
		For(&v1alpha1.EventStore{}, builder.WithPredicates(spec)).
		Owns(&corev1.Secret{}, builder.WithPredicates(notNew)).
		Watches(&v1alpha1.EventStoreClass{}, handler.EnqueueRequestsFromMapFunc(r.storesOfClass), builder.WithPredicates(spec)).
		WatchesMetadata(&corev1.Namespace{}, handler.EnqueueRequestsFromMapFunc(r.storesOfNamespace), builder.WithPredicates(labels)).
		Watches(&v1alpha1.EventStore{}, handler.EnqueueRequestsFromMapFunc(r.contenders), builder.WithPredicates(cameOrWent)).
		Watches(&v1alpha1.EventStore{}, handler.EnqueueRequestsFromMapFunc(r.waitingForRoom), builder.WithPredicates(roomMade)).
		WatchesRawSource(source.Channel(told, handler.TypedEnqueueRequestsFromMapFunc(r.storesOfNotice))).
		WithOptions(controllerOptions()).
		Complete(r)
}

// Reconcile brings one EventStore's streams and binding to what its spec asks.
func (r *EventStoreReconciler) Reconcile(ctx context.Context, request ctrl.Request) (result ctrl.Result, err error) {
	_, isAhead := r.ahead.LoadAndDelete(request.NamespacedName)
	store := &v1alpha1.EventStore{}
	if err := r.Get(ctx, request.NamespacedName, store); apierrors.IsNotFound(err) {
		r.records.forget(request.NamespacedName)
		r.quotas.forget(request.Namespace, r.stores.inNamespace(request.Namespace))
		return ctrl.Result{}, nil
	} else if err != nil {
		return ctrl.Result{}, err
	}
	p := &pass{EventStoreReconciler: r, store: store, before: store.DeepCopy(), isAhead: isAhead}
	p.written = &p.before.Status
	r.records.recall(store)
	defer func() {
		ended := err
		result, err = p.report(ctx, ended)
		result = p.prioritised(result, ended)
	}()

	if store.Spec.ManagementPolicy == v1alpha1.ManagementPaused {
		return ctrl.Result{}, p.paused(ctx)
	}
	if !store.DeletionTimestamp.IsZero() {
		return ctrl.Result{}, p.remove(ctx)
	}
	if err := p.run(ctx, p.settleFinalizer, p.resolveClass, p.checkAllowed, p.connect); err != nil {
		return ctrl.Result{}, err
	}
	if p.wasSeenSettled(ctx) {
		return ctrl.Result{}, p.run(ctx, p.observedSettled, p.bind, p.watchEmpty)
	}
	return ctrl.Result{}, p.run(ctx,
		p.look,
		p.checkLoss,
		p.checkOwnership,
		p.checkPartner,
		p.checkSchema,
		p.record,
		p.plan,
		p.observed,
		p.checkLimits,
		p.guard,
		p.checkContest,
		p.keepBinding,
		p.preserve,
		p.held,
		p.claim,
		p.apply,
		p.bind,
		p.verify,
	)
}

// pass is what one reconciliation of one store knows.
type pass struct {
	*EventStoreReconciler
	// store carries the status as it grows; before is the object as it was read.
	store, before *v1alpha1.EventStore

	class  *v1alpha1.EventStoreClass
	home   stream.Home
	conn   *stream.Conn
	wanted []stream.Wanted
	// asked is what the spec asks for, with all defaults; not all of it need be in force.
	asked v1alpha1.EffectiveSpec
	// invalid: what the spec asks for cannot be, and wanted has names alone.
	invalid bool
	plans   []stream.Plan
	// live are the streams in the order of wanted, nil for one that is absent.
	live []*liveStream
	// lost are the streams that a loss is told of, in the same order; partnerLost: of
	// one of which nothing is on record.
	lost        [2]bool
	partnerLost bool
	// adopting are the streams that had no owner, and taken what is to be told once
	// streams have a new owner.
	adopting [2]bool
	taken    map[v1alpha1.StreamRole]told
	// hold keeps the plan back, and not the binding; destroys is what the plans would
	// destroy.
	hold     *stream.Fault
	destroys map[v1alpha1.StreamRole]stream.Destroyed
	// isGuarded: it is known what of the plan waits for a person.
	isGuarded bool
	// isAhead: it came ahead of others.
	isAhead bool
	// blind: it is paused, and could not look whose the streams are.
	blind bool
	// isBound: the binding was seen to, with bindingErr.
	isBound    bool
	bindingErr error
	// figuresChanged: by so much that it is told.
	figuresChanged bool
	// empty: there never was an event, as a sweep has just seen.
	empty bool
	// written is the status as it is stored.
	written *v1alpha1.EventStoreStatus
	// told are the Events to send once the status is written.
	told []told
	// gone: the finalizer is off, there is no status to write any more.
	gone bool
}

// How a pass ends that does less than all, by what the spec asks.
var (
	errPaused    = errors.New("spec.managementPolicy is Paused: nothing is done, and nothing is looked at but whose the streams are; the rest of the status is the last that was seen; set it to Full or Observe to go on")
	errObserved  = errors.New("spec.managementPolicy is Observe: both streams are as asked for, and nothing is to be done")
	errOnlyMarks = fmt.Errorf("%w but to write what this version of the operator has in the metadata of streams, which status.plan has", errObserved)
)

// run takes one step after the other until one fails.
func (p *pass) run(ctx context.Context, steps ...func(context.Context) error) error {
	for _, step := range steps {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}
