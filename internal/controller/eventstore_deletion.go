package controller

import (
	"context"
	"errors"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/stream"
)

// releaseRetained takes the finalizer off a store that keeps its streams, before
// anything that needs NATS: its resource, and its namespace, must go at once.
func (p *pass) releaseRetained(ctx context.Context) error {
	policy, err := p.deletionPolicy(ctx)
	if err != nil || policy == v1alpha1.DeletionPolicyDelete {
		return err
	}
	return p.setFinalizer(ctx, controllerutil.RemoveFinalizer)
}

// deletionPolicy is what becomes of the streams, by the spec or else the class, which
// may not exist: then its default deletes nothing. Where the class does not allow
// Delete, a store without the finalizer does not get it.
func (p *pass) deletionPolicy(ctx context.Context) (v1alpha1.DeletionPolicy, error) {
	class := &v1alpha1.EventStoreClass{}
	if name := classInUse(p.store); name != "" {
		if err := p.Get(ctx, client.ObjectKey{Name: name}, class); client.IgnoreNotFound(err) != nil {
			return "", fmt.Errorf("read EventStoreClass %s: %w", name, err)
		}
	}
	policy := stream.DeletionPolicyOf(p.store, class.Spec.Defaults)
	if !stream.AllowsDeletionPolicy(class.Spec.Limits, policy) && !controllerutil.ContainsFinalizer(p.store, v1alpha1.Finalizer) {
		return v1alpha1.DeletionPolicyRetain, nil
	}
	return policy, nil
}

// claim puts the finalizer on a store that deletes its streams, before they are
// made, and only once they are known to be ours to make.
func (p *pass) claim(ctx context.Context) error {
	policy, err := p.deletionPolicy(ctx)
	if err != nil || policy != v1alpha1.DeletionPolicyDelete {
		return err
	}
	return p.setFinalizer(ctx, controllerutil.AddFinalizer)
}

// setFinalizer reads the store past the cache, which has none of the finalizers of others:
// a patch of the list replaces all of it.
func (p *pass) setFinalizer(ctx context.Context, change func(client.Object, string) bool) error {
	if !change(p.store.DeepCopy(), v1alpha1.Finalizer) {
		return nil
	}
	key := client.ObjectKeyFromObject(p.store)
	current := &v1alpha1.EventStore{}
	if err := p.uncached.Get(ctx, key, current); err != nil {
		return fmt.Errorf("read EventStore %s: %w", key, err)
	}
	if current.ResourceVersion != p.store.ResourceVersion {
		return apierrors.NewConflict(v1alpha1.GroupVersion.WithResource("eventstores").GroupResource(), p.store.Name, errors.New("the cache is behind"))
	}
	changed := current.DeepCopy()
	if change(changed, v1alpha1.Finalizer) {
		patch := client.MergeFromWithOptions(current, client.MergeFromWithOptimisticLock{})
		if err := p.Patch(ctx, changed, patch); err != nil {
			return fmt.Errorf("change the finalizers of EventStore %s: %w", key, err)
		}
	}
	p.store.ObjectMeta, p.before.ObjectMeta = *changed.ObjectMeta.DeepCopy(), *changed.ObjectMeta.DeepCopy()
	return nil
}

// remove ends a store that is being deleted: with deletionPolicy Delete its
// streams go first.
func (p *pass) remove(ctx context.Context) error {
	if !controllerutil.ContainsFinalizer(p.store, v1alpha1.Finalizer) {
		p.gone = true
		return nil
	}
	// Who may only look deletes nothing.
	policy, err := p.deletionPolicy(ctx)
	if err != nil {
		return err
	}
	if policy == v1alpha1.DeletionPolicyDelete && !p.observes() {
		if err := p.run(ctx, p.resolveClass, p.connect, p.deleteStreams); err != nil {
			return p.explainDeletion(err)
		}
	}
	if err := p.setFinalizer(ctx, controllerutil.RemoveFinalizer); err != nil && !apierrors.IsNotFound(err) {
		return err
	}
	p.gone = true
	return nil
}

// deleteStreams deletes only what carries our uid.
func (p *pass) deleteStreams(ctx context.Context) error {
	for _, name := range []string{p.store.SnapshotsStreamName(), p.store.EventsStreamName()} {
		live, err := p.conn.Stream(ctx, name)
		if err != nil {
			return p.lostConnection(err)
		}
		if live == nil {
			continue
		}
		if owner, _ := stream.RecordedOwner(live.Config.Metadata); owner.UID != p.store.UID {
			continue
		}
		if err := p.conn.Delete(ctx, name); err != nil {
			return p.lostConnection(err)
		}
		p.tell(normal, "StreamDeleted", "DeleteStream", "Deleted stream %s with %d messages", name, live.State.Msgs)
	}
	return nil
}

// explainDeletion adds how to let the resource go without its streams.
func (p *pass) explainDeletion(err error) error {
	fault, ok := stream.AsFault(err)
	if !ok {
		return err
	}
	return &stream.Fault{Handling: fault.Handling, Reason: fault.Reason, Err: fmt.Errorf(
		"the streams are not deleted yet: %w. The resource goes when they are; to let it go now and keep them: kubectl patch eventstore %s -n %s --type merge -p '{\"spec\":{\"deletionPolicy\":\"Retain\"}}'",
		fault.Err, p.store.Name, p.store.Namespace)}
}
