package controller

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/stream"
)

// settleFinalizer takes the finalizer off a store that keeps its streams, before
// anything that needs NATS: its resource, and its namespace, must go at once. And it
// puts it on one that deletes them and has some, whatever keeps it from being Ready,
// unless the class is not found: what its limits would say nobody knows.
func (p *pass) settleFinalizer(ctx context.Context) error {
	class, err := p.classOfDeletion(ctx)
	if err != nil {
		return err
	}
	switch {
	case p.deletionPolicy(class) != v1alpha1.DeletionPolicyDelete:
		return p.letGo(ctx)
	case class != nil && len(p.store.Status.Streams) > 0:
		return p.setFinalizer(ctx, controllerutil.AddFinalizer)
	}
	return nil
}

// letGo takes the finalizer off, and tells where that is because the class is gone whose
// default the store had: from then on nothing sees it go.
func (p *pass) letGo(ctx context.Context) error {
	had := controllerutil.ContainsFinalizer(p.store, v1alpha1.Finalizer)
	if err := p.setFinalizer(ctx, controllerutil.RemoveFinalizer); err != nil || !had {
		return err
	}
	// It is not told again, also where this pass writes nothing.
	defer p.sendEvents(ctx)
	if recorded := p.store.Status.Effective; p.store.Spec.DeletionPolicy != "" || recorded == nil || recorded.DeletionPolicy != v1alpha1.DeletionPolicyDelete {
		return nil
	}
	err := p.Get(ctx, client.ObjectKey{Name: classInUse(p.store)}, &v1alpha1.EventStoreClass{})
	if apierrors.IsNotFound(err) {
		p.tell(warning, v1alpha1.ReasonStreamsNotDeleted, "KeepStreams",
			"EventStoreClass %s is gone, and with it the default that the streams are deleted with this resource: from now on they stay; create the class again, or set spec.deletionPolicy", classInUse(p.store))
		return nil
	}
	return err
}

// classOfDeletion is the class that says what becomes of the streams, nil where it does
// not exist.
func (p *pass) classOfDeletion(ctx context.Context) (*v1alpha1.EventStoreClass, error) {
	name := classInUse(p.store)
	if name == "" {
		return nil, nil
	}
	class := &v1alpha1.EventStoreClass{}
	err := p.Get(ctx, client.ObjectKey{Name: name}, class)
	switch {
	case apierrors.IsNotFound(err):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("read EventStoreClass %s: %w", name, err)
	}
	return class, nil
}

// deletionPolicy is what becomes of the streams, by the spec or else the class: that of
// one which is nil, as it does not exist, deletes nothing. Where the class does not allow
// Delete, a store that did not have it does not get it, whatever its finalizers are.
func (p *pass) deletionPolicy(class *v1alpha1.EventStoreClass) v1alpha1.DeletionPolicy {
	if class == nil {
		return stream.DeletionPolicyOf(p.store, v1alpha1.Defaults{})
	}
	return stream.DeletionPolicyInForce(stream.RecordedDeletionPolicy(p.before), stream.DeletionPolicyOf(p.store, class.Spec.Defaults), class.Spec.Limits)
}

// claim puts the finalizer on a store that deletes its streams, before they are
// made, and only once they are known to be ours to make.
func (p *pass) claim(ctx context.Context) error {
	// By the class that this pass goes by, whose limits it has checked.
	if p.deletionPolicy(p.class) != v1alpha1.DeletionPolicyDelete {
		return nil
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
	class, err := p.classOfDeletion(ctx)
	if err != nil {
		return err
	}
	switch {
	case p.deletionPolicy(class) != v1alpha1.DeletionPolicyDelete:
	case p.observes():
		p.tellNotDeleted("spec.managementPolicy is Observe, under which nothing is deleted: streams " +
			p.store.EventsStreamName() + " and " + p.store.SnapshotsStreamName() + " stay as they are")
	default:
		if err := p.run(ctx, p.resolveClass, p.connect, p.awaitTurn, p.deleteStreams); err != nil {
			return p.explainDeletion(err)
		}
	}
	if err := p.letGo(ctx); err != nil && !apierrors.IsNotFound(err) {
		return err
	}
	p.gone = true
	return nil
}

// tellNotDeleted tells that what was to be deleted is not: whoever must erase data
// has to know.
func (p *pass) tellNotDeleted(why string) {
	p.tell(warning, v1alpha1.ReasonStreamsNotDeleted, "DeleteStreams", "The resource goes and deletionPolicy is Delete, but: %s", why)
}

// deleteStreams deletes only what carries our uid, and nothing that is immutable.
func (p *pass) deleteStreams(ctx context.Context) error {
	d, err := p.sortForDeletion(ctx)
	if err != nil {
		return err
	}
	if err := p.checkKept(ctx, d.ours); err != nil {
		return err
	}
	if err := p.forgetDeleted(ctx, d.ours); err != nil {
		return err
	}
	for _, s := range d.ours {
		if err := p.conn.Delete(ctx, s.live.Config.Name); err != nil {
			return p.lostConnection(err)
		}
		eventType := normal
		if s.live.State.Msgs > 0 {
			eventType = warning
		}
		p.tell(eventType, string(s.role)+"StreamDeleted", "DeleteStream", "Deleted stream %s with %d messages", s.live.Config.Name, s.live.State.Msgs)
	}
	if len(d.missing) > 0 {
		return stream.Stalled(v1alpha1.ReasonStreamsNotDeleted,
			"%s not on the NATS system of EventStoreClass %s, and may be on another: see that spec.servers of the class lead to where they are", strings.Join(d.missing, "; "), p.class.Name)
	}
	if len(d.kept) > 0 {
		p.tellNotDeleted(strings.Join(d.kept, "; "))
	}
	return nil
}

// deletion is what becomes of the streams of a store that goes.
type deletion struct {
	ours []deletedStream
	// kept says which are left alone and why; missing those on record that are not
	// there.
	kept, missing []string
}

type deletedStream struct {
	role v1alpha1.StreamRole
	live *liveStream
}

func (p *pass) sortForDeletion(ctx context.Context) (deletion, error) {
	var d deletion
	immutable := false
	// Snapshots first: without their events they are of no use.
	for _, s := range []deletedStream{{role: v1alpha1.StreamRoleSnapshots}, {role: v1alpha1.StreamRoleEvents}} {
		name := p.store.EventsStreamName()
		if s.role == v1alpha1.StreamRoleSnapshots {
			name = p.store.SnapshotsStreamName()
		}
		var err error
		if s.live, err = p.conn.Stream(ctx, name); err != nil {
			return d, p.lostConnection(err)
		}
		recorded := streamStatus(p.store, s.role)
		switch {
		case s.live == nil && recorded != nil && recorded.LastSequence > 0:
			d.missing = append(d.missing, fmt.Sprintf("stream %s, which held %d messages when last seen, is", name, recorded.Messages))
		case s.live == nil:
		case !p.carriesUID(s.live):
			d.kept = append(d.kept, fmt.Sprintf("stream %s with %d messages does not carry the uid of this EventStore, and stays", name, s.live.State.Msgs))
		case p.store.Spec.DeletionPolicy == "" && stream.Retained(p.store, s.live):
			d.kept = append(d.kept, fmt.Sprintf("stream %s with %d messages is marked to be retained, and spec.deletionPolicy does not say otherwise, so it stays", name, s.live.State.Msgs))
		default:
			immutable = immutable || stream.Immutable(s.live)
			d.ours = append(d.ours, s)
		}
	}
	if immutable {
		for _, s := range d.ours {
			d.kept = append(d.kept, fmt.Sprintf("stream %s with %d messages is of an Immutable store, and stays", s.live.Config.Name, s.live.State.Msgs))
		}
		d.ours = nil
	}
	return d, nil
}

func (p *pass) carriesUID(live *liveStream) bool {
	owner, _ := stream.RecordedOwner(live.Config.Metadata)
	return owner.UID == p.store.UID
}

// forgetDeleted takes streams off the record before they are deleted: when the pass
// ends in the midst of that, the next one does not miss them.
func (p *pass) forgetDeleted(ctx context.Context, streams []deletedStream) error {
	if len(streams) == 0 || len(p.store.Status.Streams) == 0 {
		return nil
	}
	p.store.Status.Streams = slices.DeleteFunc(p.store.Status.Streams, func(recorded v1alpha1.StreamStatus) bool {
		return slices.ContainsFunc(streams, func(s deletedStream) bool { return s.role == recorded.Role })
	})
	return p.commit(ctx)
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
