package controller

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/stream"
)

// systemOf stands for the NATS system that a class leads to, as far as its spec says:
// other servers, another domain or other credentials may lead to other streams of the
// same names.
func systemOf(class *v1alpha1.EventStoreClass) string {
	servers := serversOf(class)
	slices.Sort(servers)
	encoded, err := json.Marshal([]any{class.Name, servers, class.Spec.Domain, class.Spec.Credentials})
	if err != nil {
		// Plain data: only a mistake in the code can fail here.
		panic(err)
	}
	sum := sha256.Sum256(encoded)
	return hex.EncodeToString(sum[:16])
}

// disowns says whether a fault says that the streams which a store names are not its
// own, or that it may not use them any more.
func disowns(reason string) bool {
	return slices.Contains([]string{
		v1alpha1.ReasonConflict, v1alpha1.ReasonNotOwned, v1alpha1.ReasonTenancyForbidden, v1alpha1.ReasonNotGivenBack,
		v1alpha1.ReasonOnAnotherClass, v1alpha1.ReasonClassNotAllowed,
	}, reason)
}

// own writes down that the streams are the store's, where the class leads now.
func (p *pass) own() { p.owned("The streams name this EventStore as their owner") }

// owned writes down why pods are to be let into the streams.
func (p *pass) owned(why string) {
	p.store.Status.System = systemOf(p.class)
	setCondition(&p.store.Status.Conditions, v1alpha1.ConditionStreamsOwned, metav1.ConditionTrue, v1alpha1.ReasonOwned, why)
}

// disown writes down that pods are not to be let into the streams.
func (p *pass) disown(reason, message string) {
	p.store.Status.System = systemOf(p.class)
	setCondition(&p.store.Status.Conditions, v1alpha1.ConditionStreamsOwned, metav1.ConditionFalse, reason, message)
}

// isDisowned says whether that is on record of where the class leads now.
func (p *pass) isDisowned() bool {
	return p.store.Status.System == systemOf(p.class) && meta.IsStatusConditionFalse(p.store.Status.Conditions, v1alpha1.ConditionStreamsOwned)
}

// noteOwnership writes down whose the streams are that were seen; why is what kept the
// pass from going on with them, nil for nothing. What it could not find out stays as it
// was: pods are let in by this, and neither an outage nor a pause may change who is. So it
// does where a stream is absent, and where one of another EventStore is given to this one
// and does not name it yet.
func (p *pass) noteOwnership(why error) {
	if fault, isFault := stream.AsFault(why); isFault && disowns(fault.Reason) {
		p.disown(fault.Reason, fault.Error())
		return
	}
	ours, before := 0, 0
	for i, live := range p.live {
		whose := stream.OwnershipOf(p.self(), live, p.seen(p.wanted[i].Role))
		switch {
		case whose == stream.Ours:
			ours++
		case whose == stream.OursBefore && why == nil:
			before++
		case whose == stream.Nobodys, (whose == stream.Anothers || whose == stream.OursElsewhere) && (why != nil || p.lost[i]):
			p.disownAs(whose, live)
			return
		}
	}
	switch len(p.live) {
	case ours:
		p.own()
	case ours + before:
		p.owned("The streams are this EventStore's: what names an earlier one of this name and namespace, which is gone, is to be taken back")
	}
}

// disownAs tells of a stream that is not ours. What was told already says more.
func (p *pass) disownAs(whose stream.Ownership, live *liveStream) {
	if p.isDisowned() {
		return
	}
	owner, _ := stream.RecordedOwner(live.Config.Metadata)
	of := fmt.Sprintf("names EventStore %s with the uid %s as its owner", owner, owner.UID)
	reason := v1alpha1.ReasonConflict
	switch whose {
	case stream.Nobodys:
		reason, of = v1alpha1.ReasonNotOwned, "names no owner"
	case stream.OursElsewhere:
		reason = v1alpha1.ReasonNotGivenBack
	}
	p.disown(reason, fmt.Sprintf("stream %s %s, so no pod is let into it", live.Config.Name, of))
}

// paused does nothing but see whether the class allows the namespace, and whose the
// streams are: a pause keeps no right that a store has not.
func (p *pass) paused(ctx context.Context) error {
	p.endAcceptance()
	class := &v1alpha1.EventStoreClass{}
	err := p.Get(ctx, client.ObjectKey{Name: classInUse(p.store)}, class)
	if apierrors.IsNotFound(err) {
		return errPaused
	}
	if err != nil {
		return fmt.Errorf("read EventStoreClass %s: %w", classInUse(p.store), err)
	}
	p.class, p.wanted = class, stream.Named(p.store)
	err = p.run(ctx, p.checkAllowed, p.connect, p.see)
	fault, isFault := stream.AsFault(err)
	switch {
	case err == nil:
		p.noteOwnership(errPaused)
	case !isFault || disowns(fault.Reason):
		return err
	default:
		// Connected tells of it. It is looked at again soon, since whoever is refused waits.
		p.blind = true
	}
	return errPaused
}
