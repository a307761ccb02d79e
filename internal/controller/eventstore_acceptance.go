package controller

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/stream"
)

// acceptHint is how to accept what a token stands for.
func (p *pass) acceptHint(token string) string {
	return fmt.Sprintf("kubectl annotate --overwrite eventstore %s -n %s %s=%s", p.store.Name, p.store.Namespace, v1alpha1.AnnotationAcceptDataLoss, token)
}

// newestAcceptance is the token of the newest acceptance, "" where there is none.
func (p *pass) newestAcceptance() string { return p.acceptanceBefore(0) }

// acceptanceBefore is the token of the newest acceptance but so many.
func (p *pass) acceptanceBefore(newer int) string {
	if len(p.store.Status.Acceptances) <= newer {
		return ""
	}
	return p.store.Status.Acceptances[newer].Token
}

// offer is the token that stands for what a condition tells, and whether a person
// accepted that: the annotation carries it, and the condition has told it before.
func (p *pass) offer(condition string, tokenAfter func(newest string) string) (token string, accepted bool) {
	told := p.toldBefore(condition)
	return stream.Offer(tokenAfter, p.newestAcceptance(), p.store.Annotations[v1alpha1.AnnotationAcceptDataLoss],
		func(token string) bool { return told != nil && strings.Contains(told.Message, "="+token) })
}

// toldBefore is a condition that asks for an acceptance, as the status has it; nil for none.
// Of a change that was edited more than once since it may be about an earlier time.
func (p *pass) toldBefore(condition string) *metav1.Condition {
	if condition == v1alpha1.ConditionDataLossPrevented && p.store.Generation-p.before.Status.ObservedGeneration > 1 {
		return nil
	}
	return meta.FindStatusCondition(p.before.Status.Conditions, condition)
}

// accept puts an acceptance on record before anything is done on its account: what
// happens after that, each is used once and none is forgotten.
func (p *pass) accept(ctx context.Context, accepted v1alpha1.Acceptance, event string) error {
	accepted.Time, accepted.Message = metav1.Now(), clip(accepted.Message)
	stream.AskedFor(&accepted, p.store, p.class)
	// What waited to be carried out is another thing from now on.
	p.endAcceptance()
	status := &p.store.Status
	status.Acceptances = slices.Insert(status.Acceptances, 0, accepted)
	status.Acceptances = status.Acceptances[:min(len(status.Acceptances), v1alpha1.MaxAcceptances)]
	if err := p.commit(ctx); err != nil {
		return err
	}
	p.tell(warning, event, "AcceptDataLoss", "Accepted with the token %s: %s", accepted.Token, accepted.Message)
	p.sendEvents(ctx)
	return nil
}

// commit writes the status in the midst of a pass.
func (p *pass) commit(ctx context.Context) error {
	// What was seen so far in this pass is not all of the generation yet.
	finishConditions(p.store.Status.Conditions, p.store.Status.ObservedGeneration)
	stored := p.store.DeepCopy()
	if err := p.Status().Update(ctx, stored); err != nil {
		return fmt.Errorf("write the status of EventStore %s: %w", client.ObjectKeyFromObject(p.store), err)
	}
	p.store.ResourceVersion, p.before.ResourceVersion = stored.ResourceVersion, stored.ResourceVersion
	p.written = p.store.Status.DeepCopy()
	p.records.wrote(p.store)
	return nil
}

// pending says whether the newest acceptance lets the plans through: it is not carried
// out yet, stands for just that, and that was asked for all the time.
func (p *pass) pending() bool {
	acceptances := p.store.Status.Acceptances
	return len(acceptances) > 0 && acceptances[0].Pending && stream.IsAskedFor(acceptances[0], p.store, p.class) &&
		stream.Accepts(acceptances[0].Token, p.store.UID, p.acceptanceBefore(1), p.plans)
}

// endOutdated ends an acceptance that lets nothing through any more, wherever the pass
// ended; and what asks for one, if the resource was edited and nobody knows what that does.
func (p *pass) endOutdated() {
	if !p.isGuarded && p.store.Generation != p.before.Status.ObservedGeneration {
		meta.RemoveStatusCondition(&p.store.Status.Conditions, v1alpha1.ConditionDataLossPrevented)
	}
	acceptances := p.store.Status.Acceptances
	if len(acceptances) > 0 && p.class != nil && !stream.IsAskedFor(acceptances[0], p.store, p.class) {
		p.endAcceptance()
	}
}

// endAcceptance: no acceptance waits to be carried out any more.
func (p *pass) endAcceptance() {
	for i := range p.store.Status.Acceptances {
		p.store.Status.Acceptances[i].Pending = false
	}
}

// tellUnmatched tells of an annotation that accepts nothing, once for each value.
func (p *pass) tellUnmatched() {
	conditions := &p.store.Status.Conditions
	value, set := p.store.Annotations[v1alpha1.AnnotationAcceptDataLoss]
	if !set || p.isKnownToken(value) {
		meta.RemoveStatusCondition(conditions, v1alpha1.ConditionAcceptanceUnmatched)
		return
	}
	message := fmt.Sprintf("the annotation %s has the value %q, which accepts nothing: no loss and no change that waits has this token. Set the token that the condition %s or %s tells, or remove it: kubectl annotate eventstore %s -n %s %s-",
		v1alpha1.AnnotationAcceptDataLoss, value[:min(len(value), maxQuoted)], v1alpha1.ConditionDataLoss, v1alpha1.ConditionDataLossPrevented,
		p.store.Name, p.store.Namespace, v1alpha1.AnnotationAcceptDataLoss)
	before := meta.FindStatusCondition(*conditions, v1alpha1.ConditionAcceptanceUnmatched)
	if before == nil || before.Message != message {
		p.tell(warning, v1alpha1.ConditionAcceptanceUnmatched, "AcceptDataLoss", "%s", message)
	}
	setCondition(conditions, v1alpha1.ConditionAcceptanceUnmatched, metav1.ConditionTrue, v1alpha1.ReasonTokenUnknown, message)
}

// maxQuoted is how much of a value that a user wrote is told.
const maxQuoted = 100

// isKnownToken: it was used, or is told now and counts with the next pass.
func (p *pass) isKnownToken(value string) bool {
	if len(value) != stream.TokenLength {
		return false
	}
	used := func(a v1alpha1.Acceptance) bool { return a.Token == value }
	told := func(c metav1.Condition) bool {
		return (c.Type == v1alpha1.ConditionDataLoss || c.Type == v1alpha1.ConditionDataLossPrevented) && strings.Contains(c.Message, "="+value)
	}
	return slices.ContainsFunc(p.store.Status.Acceptances, used) || slices.ContainsFunc(p.store.Status.Conditions, told)
}
