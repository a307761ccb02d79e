package controller

import (
	"context"

	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/stream"
)

const (
	// indexStream finds EventStores by the name of their stream of events.
	indexStream = "eventsStream"
	// indexClass finds EventStores by the class in use, "" while there is none.
	indexClass = "class"
)

var indexes = map[string]client.IndexerFunc{
	indexStream: func(o client.Object) []string { return []string{o.(*v1alpha1.EventStore).EventsStreamName()} },
	indexClass:  func(o client.Object) []string { return []string{classInUse(o.(*v1alpha1.EventStore))} },
}

// classInUse is the class that a store names, or else the default class that it
// was given when it was first seen: its streams stay there when another class
// becomes the default.
func classInUse(store *v1alpha1.EventStore) string {
	if store.Spec.ClassName != "" {
		return store.Spec.ClassName
	}
	return store.Status.ClassName
}

// storesOfNotice are the stores that a notice of NATS is about.
func (r *EventStoreReconciler) storesOfNotice(ctx context.Context, notice stream.Notice) []reconcile.Request {
	if notice.Stream == "" {
		return r.requests(ctx, client.MatchingFields{indexClass: notice.Class})
	}
	events, ours := stream.StoreOfStream(notice.Stream)
	if !ours {
		return nil
	}
	return r.requests(ctx, client.MatchingFields{indexStream: events})
}

// storesOfClass are the stores of a class, and those that wait for a default.
func (r *EventStoreReconciler) storesOfClass(ctx context.Context, class client.Object) []reconcile.Request {
	return append(r.requests(ctx, client.MatchingFields{indexClass: class.GetName()}),
		r.requests(ctx, client.MatchingFields{indexClass: ""})...)
}

// storesOfNamespace are the stores in a namespace whose labels changed, which
// classes select by. Labels that a namespace came with are seen by its stores
// themselves.
func (r *EventStoreReconciler) storesOfNamespace(ctx context.Context, namespace client.Object) []reconcile.Request {
	return r.requests(ctx, client.InNamespace(namespace.GetName()))
}

// contenders are the other stores that name the streams of a store.
func (r *EventStoreReconciler) contenders(ctx context.Context, store client.Object) []reconcile.Request {
	var others []reconcile.Request
	for _, request := range r.requests(ctx, client.MatchingFields{indexStream: store.(*v1alpha1.EventStore).EventsStreamName()}) {
		if request.NamespacedName != client.ObjectKeyFromObject(store) {
			others = append(others, request)
		}
	}
	return others
}

func (r *EventStoreReconciler) requests(ctx context.Context, matching client.ListOption) []reconcile.Request {
	var stores v1alpha1.EventStoreList
	if err := r.List(ctx, &stores, matching, client.UnsafeDisableDeepCopy); err != nil {
		// Only a cache that has stopped cannot list.
		log.FromContext(ctx).Error(err, "Could not list EventStores", "matching", matching)
		return nil
	}
	requests := make([]reconcile.Request, len(stores.Items))
	for i := range stores.Items {
		requests[i] = reconcile.Request{NamespacedName: types.NamespacedName{Namespace: stores.Items[i].Namespace, Name: stores.Items[i].Name}}
	}
	return requests
}
