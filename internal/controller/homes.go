package controller

import (
	"cmp"
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/namespaces"
	"git.flowmade.one/flowmade-one/aether-operator/internal/stream"
)

// homes tells where an EventStore is: in which Kubernetes namespace of which
// cluster, by what never comes again.
type homes struct{ cached, uncached client.Reader }

// of gives the home of the EventStores of a namespace, from the cache.
func (h homes) of(ctx context.Context, namespace string) (stream.Home, error) {
	return h.with(ctx, namespace, h.uid)
}

// now gives it past the cache, which may still have an earlier namespace of that
// name.
func (h homes) now(ctx context.Context, namespace string) (stream.Home, error) {
	return h.with(ctx, namespace, h.uidNow)
}

func (h homes) with(ctx context.Context, namespace string, uid func(context.Context, string) (types.UID, error)) (home stream.Home, err error) {
	if home.Namespace, err = uid(ctx, namespace); err != nil {
		return home, err
	}
	home.Cluster, err = h.cluster(ctx)
	return home, err
}

// cluster is the uid of this cluster.
func (h homes) cluster(ctx context.Context) (types.UID, error) {
	return h.uid(ctx, metav1.NamespaceSystem)
}

func (h homes) uid(ctx context.Context, namespace string) (types.UID, error) {
	found := &metav1.PartialObjectMetadata{}
	found.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Namespace"))
	err := h.cached.Get(ctx, client.ObjectKey{Name: namespace}, found)
	if apierrors.IsNotFound(err) {
		// It may have come a moment ago.
		return h.uidNow(ctx, namespace)
	}
	if err != nil {
		return "", fmt.Errorf("read Namespace %s: %w", namespace, err)
	}
	return found.UID, nil
}

func (h homes) uidNow(ctx context.Context, namespace string) (types.UID, error) {
	found, err := namespaces.Live(ctx, h.uncached, namespace)
	if err != nil {
		return "", err
	}
	return found.UID, nil
}

// standing is what this cluster knows of an EventStore. Of one of another cluster the
// cache may say that it is here, as where kube-system was made anew; of one of this
// cluster the API server alone.
func (h homes) standing(ctx context.Context, stores storeIndex, owner stream.Owner) (stream.Standing, error) {
	cluster, err := h.cluster(ctx)
	if err != nil {
		return stream.Untold, err
	}
	if owner.Home.Cluster != cluster {
		if found := stores.withUID(owner.UID); found != nil {
			return standingOf(found), nil
		}
		return stream.Unknown, nil
	}
	current := &v1alpha1.EventStore{}
	err = h.uncached.Get(ctx, client.ObjectKey{Namespace: owner.Namespace, Name: owner.Name}, current)
	switch {
	case apierrors.IsNotFound(err), err == nil && current.UID != owner.UID:
		return stream.Gone, nil
	case err != nil:
		return stream.Untold, fmt.Errorf("read EventStore %s: %w", owner, err)
	}
	return standingOf(current), nil
}

// standingOf says of an EventStore that is here whether it goes with its streams. One that
// goes without them keeps them, as one that stays does.
func standingOf(store *v1alpha1.EventStore) stream.Standing {
	keeps := !controllerutil.ContainsFinalizer(store, v1alpha1.Finalizer) || store.Spec.DeletionPolicy == v1alpha1.DeletionPolicyRetain ||
		cmp.Or(store.Spec.ManagementPolicy, v1alpha1.ManagementFull) != v1alpha1.ManagementFull
	if store.DeletionTimestamp.IsZero() || keeps {
		return stream.Exists
	}
	return stream.Ending
}
