package controller

import (
	"context"
	"fmt"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/events"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/stream"
)

// +kubebuilder:rbac:groups=aether.flowmade.one,resources=eventstoreclasses/status,verbs=patch

// EventStoreClassReconciler tells whether the NATS system of a class can be used.
type EventStoreClassReconciler struct {
	client.Client
	connector
	recorder events.EventRecorder
	resync   time.Duration
	stores   storeIndex
	sweeper  *sweeper
	callouts *callouts
}

func (r *EventStoreClassReconciler) setup(mgr ctrl.Manager, told notices) error {
	return ctrl.NewControllerManagedBy(mgr).
		Named("eventstoreclass").
		For(&v1alpha1.EventStoreClass{}, builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		Watches(&v1alpha1.EventStore{}, recount, builder.WithPredicates(classChanged)).
		WatchesRawSource(source.Channel(told, handler.TypedEnqueueRequestsFromMapFunc(classOfNotice))).
		WithOptions(controllerOptions()).
		Complete(r)
}

// classChanged: a store came, went, or got its class.
var classChanged = predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
	return classInUse(e.ObjectOld.(*v1alpha1.EventStore)) != classInUse(e.ObjectNew.(*v1alpha1.EventStore))
}}

func classOfNotice(_ context.Context, notice stream.Notice) []reconcile.Request {
	return []reconcile.Request{{NamespacedName: client.ObjectKey{Name: notice.Class}}}
}

// recountPause is how long stores may come and go until they are counted again:
// thousands may come at once, and each count is a look at the class.
const recountPause = 2 * time.Second

// recount looks at the class of a store that came, went, or got it.
var recount = handler.Funcs{
	CreateFunc: func(_ context.Context, e event.CreateEvent, queue recountQueue) { recountClass(e.Object, queue) },
	UpdateFunc: func(_ context.Context, e event.UpdateEvent, queue recountQueue) { recountClass(e.ObjectNew, queue) },
	DeleteFunc: func(_ context.Context, e event.DeleteEvent, queue recountQueue) { recountClass(e.Object, queue) },
}

type recountQueue = workqueue.TypedRateLimitingInterface[reconcile.Request]

func recountClass(store client.Object, queue recountQueue) {
	for _, class := range classOfStore(context.Background(), store) {
		queue.AddAfter(class, recountPause)
	}
}

func classOfStore(_ context.Context, store client.Object) []reconcile.Request {
	name := classInUse(store.(*v1alpha1.EventStore))
	if name == "" {
		return nil
	}
	return []reconcile.Request{{NamespacedName: client.ObjectKey{Name: name}}}
}

// Reconcile connects to the NATS system of one class and tells what is there.
func (r *EventStoreClassReconciler) Reconcile(ctx context.Context, request ctrl.Request) (result ctrl.Result, err error) {
	class := &v1alpha1.EventStoreClass{}
	if err := r.Get(ctx, request.NamespacedName, class); apierrors.IsNotFound(err) {
		r.connections.Forget(request.Name)
		r.sweeper.forget(request.Name)
		return ctrl.Result{}, nil
	} else if err != nil {
		return ctrl.Result{}, err
	}
	before := class.DeepCopy()
	defer func() { result, err = r.report(ctx, before, class, err) }()
	class.Status.EventStores = int32(len(r.stores.ofClass(class.Name)))
	return ctrl.Result{}, r.inspect(ctx, class)
}

// inspect asks the NATS system what it is.
func (r *EventStoreClassReconciler) inspect(ctx context.Context, class *v1alpha1.EventStoreClass) error {
	conn, err := r.connect(ctx, class)
	if err != nil {
		return err
	}
	class.Status.ServerVersion = conn.ServerVersion()
	denied := conn.CheckPermissions(ctx)
	account, err := conn.Account(ctx)
	if err != nil {
		return joined(denied, err)
	}
	servers, err := conn.Servers(ctx)
	if err != nil {
		return joined(denied, err)
	}
	class.Status.APILevel = int32(account.APILevel)
	class.Status.Peers = int32(len(servers))
	class.Status.Servers = serverStatus(servers)
	// None of them waits for another: stores are looked at also while no pod can
	// connect.
	return joined(
		stream.CheckVersions(servers, account.APILevel),
		denied,
		account.CheckStorage(),
		r.sweeper.sweep(ctx, class, conn),
		r.callouts.check(ctx, class),
		checkSelector(class),
	)
}

// checkSelector tells of namespaces that cannot be selected: the class would allow
// none.
func checkSelector(class *v1alpha1.EventStoreClass) error {
	if _, err := selectorOf(class); err != nil {
		return stream.Stalled(v1alpha1.ReasonInvalidSpec, "spec.allowedNamespaces.selector cannot be read, so it allows no namespace: %w: correct it", err)
	}
	return nil
}

// maxServers is how many servers a status has, of clusters of which few have ten.
const maxServers = 64

func serverStatus(servers []stream.Server) []v1alpha1.ServerStatus {
	var statuses []v1alpha1.ServerStatus
	for _, server := range servers {
		known := slices.ContainsFunc(statuses, func(s v1alpha1.ServerStatus) bool { return s.Name == server.Name })
		if !known && len(statuses) < maxServers {
			statuses = append(statuses, v1alpha1.ServerStatus{Name: server.Name, Version: server.Version})
		}
	}
	return statuses
}

// joined is all errors in one text; the first says how they are handled.
func joined(errs ...error) error {
	var all error
	for _, err := range errs {
		switch {
		case err == nil:
		case all == nil:
			all = err
		default:
			all = fmt.Errorf("%w; %w", all, err)
		}
	}
	return all
}

// report is the only writer of the status of a class.
func (r *EventStoreClassReconciler) report(ctx context.Context, before, class *v1alpha1.EventStoreClass, err error) (ctrl.Result, error) {
	if stopping(ctx, err) {
		return ctrl.Result{}, nil
	}
	if stream.WasClosed(err) {
		return ctrl.Result{RequeueAfter: minPause}, nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), reportTimeout)
	defer cancel()
	fault, known := stream.AsFault(err)
	switch {
	case err != nil && !known:
		fault = stream.Retrying(v1alpha1.ReasonProgressingWithRetry, "%w", err)
	case known:
		// There may be more to tell than the fault that decides.
		fault = &stream.Fault{Handling: fault.Handling, Reason: fault.Reason, Err: err}
	}
	setOutcome(&class.Status.Conditions, fault, "JetStream answers")
	finishConditions(class.Status.Conditions, class.Generation)
	class.Status.ObservedGeneration = class.Generation
	if !equality.Semantic.DeepEqual(before.Status, class.Status) {
		patch := client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})
		if werr := r.Status().Patch(ctx, class.DeepCopy(), patch); outdated(werr) {
			return ctrl.Result{RequeueAfter: minPause}, nil
		} else if client.IgnoreNotFound(werr) != nil {
			return ctrl.Result{}, fmt.Errorf("write the status of EventStoreClass %s: %w", class.Name, werr)
		}
		r.tell(before, class)
	}
	if err != nil && !known {
		return ctrl.Result{}, err
	}
	return ctrl.Result{RequeueAfter: pause(class.Status.Conditions, fault, r.resync)}, nil
}

// tell makes an Event of a Ready that became another.
func (r *EventStoreClassReconciler) tell(before, class *v1alpha1.EventStoreClass) {
	ready, changed := readyChange(before.Status.Conditions, class.Status.Conditions)
	if !changed {
		return
	}
	eventType := normal
	if ready.Status != metav1.ConditionTrue {
		eventType = warning
	}
	r.recorder.Eventf(class, nil, eventType, ready.Reason, "Reconcile", "%s", clip(ready.Message))
}
