package controller

import (
	"context"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	layout "git.flowmade.one/flowmade-one/aether-operator/api/eventstore/jetstream"
	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/stream"
)

// keepInPass is how long a pass keeps versions itself at most.
const keepInPass = time.Second

// keepVersions goes on once the latest versions are kept of all actors whose last event
// expires when max_age is lowered. What takes long the reconciler of versions does.
func (p *pass) keepVersions(ctx context.Context) error {
	plan := p.plans[0]
	if !plan.ShortensAge() {
		p.versions.calm(p.store)
		return nil
	}
	if err := p.makeReadable(ctx); err != nil {
		return err
	}
	age := plan.Wanted.Config.MaxAge
	// A few are kept here: a pass of one store is not to take a worker from others for long.
	bounded, cancel := context.WithTimeout(ctx, keepInPass)
	defer cancel()
	kept, err := p.conn.KeepVersions(bounded, p.store, layout.KeepOptions{MaxAge: age, AtMost: 1, Created: plan.Live.Created})
	late := err != nil && isLate(ctx, bounded, kept)
	left := late || tooMuchLeft(kept, age)
	if left {
		p.versions.hurry(p.store, age)
	}
	switch {
	case err != nil && !late:
		return err
	case left:
		return stream.Waiting(v1alpha1.ReasonProgressing,
			"before events expire after %s the latest versions of their actors are stored, which takes a while: the operator goes on by itself", stream.FormatAge(age))
	}
	p.versions.calm(p.store)
	return nil
}

// isLate says whether the time that a pass has for keeping was over, though somebody answers.
func isLate(pass, bounded context.Context, kept layout.KeptVersions) bool {
	return kept.Answered && bounded.Err() != nil && pass.Err() == nil
}

// tooMuchLeft says whether events could expire before their turn comes if max_age were
// lowered to an age now. Where events are saved all the time some are always left: those
// that came into their window just now are kept while it lasts.
func tooMuchLeft(kept layout.KeptVersions, age time.Duration) bool {
	return kept.More && kept.Behind > layout.KeepWindow(age)/4
}

// makeReadable lets replicas answer reads of streams of which they may not yet, as of one
// that is adopted: that is how versions are kept.
func (p *pass) makeReadable(ctx context.Context) (err error) {
	for i, live := range p.live {
		if live == nil || live.Config.AllowDirect {
			continue
		}
		if p.live[i], err = p.conn.Update(ctx, stream.Readable(live)); err != nil {
			return err
		}
	}
	return nil
}

// tellVersions tells that the latest versions of actors are not kept, as the reconciler of
// versions has found.
func (p *pass) tellVersions() {
	conditions := &p.store.Status.Conditions
	fault, known := p.versions.outcome(client.ObjectKeyFromObject(p.store))
	switch {
	case p.observes(), known && fault == nil:
		meta.RemoveStatusCondition(conditions, v1alpha1.ConditionVersionsNotKept)
	case known:
		told := meta.FindStatusCondition(*conditions, v1alpha1.ConditionVersionsNotKept)
		if told == nil || told.Reason != fault.Reason {
			p.tell(warning, fault.Reason, "KeepVersions", "%s", fault.Error())
		}
		setCondition(conditions, v1alpha1.ConditionVersionsNotKept, metav1.ConditionTrue, fault.Reason, fault.Error())
	}
}
