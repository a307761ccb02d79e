package controller

import (
	"context"
	"reflect"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/predicate"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/stream"
)

// +kubebuilder:rbac:groups=authentication.k8s.io,resources=tokenreviews,verbs=create

const (
	// sweepInterval is how often it is looked who is connected and should not be.
	// Changes are acted on at once; this is for what was missed, and keeps the promise
	// that nobody stays for longer than a minute.
	sweepInterval = 30 * time.Second
	// calloutRetry is how soon a callout that cannot be served is tried again.
	calloutRetry = 5 * time.Second
)

// CalloutReconciler answers the NATS servers of each class who ask what a pod may
// do, and ends connections whose access has changed. It runs on every replica of
// the operator: each answers what it is asked, and none keeps anything that the
// others would need.
type CalloutReconciler struct {
	client.Client
	callouts *callouts
}

func (r *CalloutReconciler) setup(mgr ctrl.Manager) error {
	options := controllerOptions()
	options.NeedLeaderElection = new(false)
	return ctrl.NewControllerManagedBy(mgr).
		Named("callout").
		For(&v1alpha1.EventStoreClass{}, builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		Watches(&v1alpha1.EventStore{}, handler.EnqueueRequestsFromMapFunc(classOfStore), builder.WithPredicates(accessChanged)).
		WithOptions(options).
		Complete(r)
}

// accessChanged: a store may grant something else than before. Its figures, which
// change all the time, do not count.
var accessChanged = predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
	before, now := e.ObjectOld.(*v1alpha1.EventStore), e.ObjectNew.(*v1alpha1.EventStore)
	return ownedStatus(before) != ownedStatus(now) || before.Status.System != now.Status.System ||
		!reflect.DeepEqual(before.Spec.Access, now.Spec.Access) ||
		before.DeletionTimestamp.IsZero() != now.DeletionTimestamp.IsZero() ||
		(before.Status.Binding == nil) != (now.Status.Binding == nil) ||
		classInUse(before) != classInUse(now)
}}

func ownedStatus(store *v1alpha1.EventStore) metav1.ConditionStatus {
	if owned := meta.FindStatusCondition(store.Status.Conditions, v1alpha1.ConditionStreamsOwned); owned != nil {
		return owned.Status
	}
	return metav1.ConditionUnknown
}

// Reconcile serves the callouts of one class, and cuts off who has no access any
// more.
func (r *CalloutReconciler) Reconcile(ctx context.Context, request ctrl.Request) (ctrl.Result, error) {
	class := &v1alpha1.EventStoreClass{}
	if err := r.Get(ctx, request.NamespacedName, class); apierrors.IsNotFound(err) {
		r.callouts.forget(request.Name)
		return ctrl.Result{}, nil
	} else if err != nil {
		return ctrl.Result{}, err
	}
	server, err := r.callouts.serve(ctx, class)
	if server == nil && err == nil {
		return ctrl.Result{}, nil
	}
	if err == nil {
		_, err = server.CutOff(ctx)
		if stopping(ctx, err) {
			return ctrl.Result{}, nil
		}
		r.callouts.noteSweep(class.Name, err)
	}
	if err == nil {
		return ctrl.Result{RequeueAfter: jittered(sweepInterval)}, nil
	}
	if _, known := stream.AsFault(err); !known {
		return ctrl.Result{}, err
	}
	// The replica that leads tells it in the conditions of the class as well.
	log.FromContext(ctx).Error(err, "Could not serve the callouts of the class, or not cut off who has no access any more")
	return ctrl.Result{RequeueAfter: jittered(calloutRetry)}, nil
}
