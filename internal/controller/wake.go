package controller

import (
	"context"

	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/stream"
)

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
func (r *EventStoreReconciler) storesOfNotice(_ context.Context, notice stream.Notice) []reconcile.Request {
	if notice.Stream == "" {
		return requests(r.stores.ofClass(notice.Class))
	}
	events, ours := stream.StoreOfStream(notice.Stream)
	if !ours {
		return nil
	}
	return requests(r.stores.ofStream(events))
}

// storesOfClass are the stores of a class, and those that wait for a default.
func (r *EventStoreReconciler) storesOfClass(_ context.Context, class client.Object) []reconcile.Request {
	return append(requests(r.stores.ofClass(class.GetName())), requests(r.stores.ofClass(""))...)
}

// storesOfNamespace are the stores in a namespace whose labels changed, which
// classes select by. Labels that a namespace came with are seen by its stores
// themselves.
func (r *EventStoreReconciler) storesOfNamespace(_ context.Context, namespace client.Object) []reconcile.Request {
	return requests(r.stores.inNamespace(namespace.GetName()))
}

// contenders are the other stores that name the streams of a store.
func (r *EventStoreReconciler) contenders(_ context.Context, store client.Object) []reconcile.Request {
	var others []reconcile.Request
	for _, request := range requests(r.stores.ofStream(store.(*v1alpha1.EventStore).EventsStreamName())) {
		if request.NamespacedName != client.ObjectKeyFromObject(store) {
			others = append(others, request)
		}
	}
	return others
}

func requests(stores []*v1alpha1.EventStore) []reconcile.Request {
	requests := make([]reconcile.Request, len(stores))
	for i, store := range stores {
		requests[i] = reconcile.Request{NamespacedName: client.ObjectKeyFromObject(store)}
	}
	return requests
}
