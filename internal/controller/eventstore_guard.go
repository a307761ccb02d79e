package controller

import (
	"context"
	"fmt"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/stream"
)

// holdBack keeps the plan back, and lets the pass go on to what does not wait for it.
// What was first is told.
func (p *pass) holdBack(fault *stream.Fault) {
	if p.hold == nil {
		p.hold = fault
	}
}

// held ends a pass whose plan is held back.
func (p *pass) held(context.Context) error {
	if p.hold != nil {
		return p.hold
	}
	return nil
}

// guard holds the whole plan back when any of it is impossible, or would destroy
// what is stored or reach others: nothing is half done.
func (p *pass) guard(ctx context.Context) error {
	if fault := p.guardImpossible(); fault != nil {
		p.holdBack(fault)
	} else if fault, err := p.guardPeers(ctx); err != nil {
		return err
	} else if fault != nil {
		p.holdBack(fault)
	}
	return p.guardData(ctx)
}

func (p *pass) guardImpossible() *stream.Fault {
	for _, plan := range p.plans {
		if steps := plan.With(stream.Impossible); len(steps) > 0 {
			return stream.Stalled(v1alpha1.ReasonImpossibleChange,
				"stream %s cannot be changed: %s: %s", plan.Wanted.Config.Name, steps[0], steps[0].WayOut())
		}
	}
	return nil
}

func (p *pass) guardPeers(ctx context.Context) (*stream.Fault, error) {
	replicas := p.wanted[0].Config.Replicas
	if replicas == 1 || !p.makesReplicas() {
		return nil, nil
	}
	peers, err := p.conn.Peers(ctx, replicas)
	if err != nil {
		return nil, p.lostConnection(err)
	}
	// None answers where the account may not ask: then the server decides.
	if peers == 0 || peers >= replicas {
		return nil, nil
	}
	return stream.Stalled(v1alpha1.ReasonInsufficientPeers,
		"%d replicas are asked for and the NATS system of EventStoreClass %s has %d server(s) with JetStream: set spec.replicas to %d at most, or add servers",
		replicas, p.class.Name, peers, peers), nil
}

// guardData lets through what a person accepted, and holds back what else would
// destroy messages or reach others.
func (p *pass) guardData(ctx context.Context) error {
	what, reason, err := p.waiting(ctx)
	if err != nil {
		return err
	}
	p.isGuarded = true
	switch {
	case what == "":
		p.endAcceptance()
	case p.pending():
		stream.AskedFor(&p.store.Status.Acceptances[0], p.store, p.class)
	default:
		p.endAcceptance()
		return p.ask(ctx, what, reason)
	}
	meta.RemoveStatusCondition(&p.store.Status.Conditions, v1alpha1.ConditionDataLossPrevented)
	return nil
}

// ask holds back what waits for a person, until a person has accepted just that.
func (p *pass) ask(ctx context.Context, what, reason string) error {
	conditions := &p.store.Status.Conditions
	if p.hold != nil {
		// One thing after the other, so that nobody accepts two at once.
		setCondition(conditions, v1alpha1.ConditionDataLossPrevented, metav1.ConditionTrue, reason,
			"not applied: changing "+what+". How to let it through is told once what Ready tells is mended or accepted")
		return nil
	}
	token, accepted := p.offer(v1alpha1.ConditionDataLossPrevented, func(newest string) string { return stream.PlanToken(p.store.UID, newest, p.plans) })
	if accepted {
		acceptance := v1alpha1.Acceptance{Token: token, Reason: reason, Message: "changing " + what, Pending: true}
		if err := p.accept(ctx, acceptance, acceptedEvents[reason]); err != nil {
			return err
		}
		meta.RemoveStatusCondition(conditions, v1alpha1.ConditionDataLossPrevented)
		return nil
	}
	fault := stream.Stalled(reason, "not applied: changing %s. Take the change back; or let it through: %s", what, p.acceptHint(token))
	told := p.toldBefore(v1alpha1.ConditionDataLossPrevented)
	if told != nil && told.Reason == reason && strings.Contains(told.Message, "="+token) && !p.figuresChanged {
		// What it would destroy grows with what is saved: it is told with the figures.
		fault = stream.Stalled(reason, "%s", told.Message)
	}
	setCondition(conditions, v1alpha1.ConditionDataLossPrevented, metav1.ConditionTrue, fault.Reason, fault.Error())
	p.holdBack(fault)
	return nil
}

// acceptedEvents are the Events that tell of an accepted change.
var acceptedEvents = map[string]string{
	v1alpha1.ReasonWouldDestroyEvents: "DataDestructionAccepted", v1alpha1.ReasonWouldReachOthers: "ReachingOthersAccepted",
}

// waiting says which steps wait for a person, and what they would do; "" when none
// does.
func (p *pass) waiting(ctx context.Context) (what, reason string, err error) {
	var texts []string
	reason = v1alpha1.ReasonWouldReachOthers
	p.destroys = map[v1alpha1.StreamRole]stream.Destroyed{}
	for _, plan := range p.plans {
		steps := plan.Waiting()
		if len(steps) == 0 {
			continue
		}
		var would []string
		if len(plan.With(stream.DestroysData)) > 0 {
			destroyed, err := p.destroyed(ctx, plan)
			if err != nil {
				return "", "", err
			}
			p.destroys[plan.Wanted.Role], reason = destroyed, v1alpha1.ReasonWouldDestroyEvents
			would = append(would, destroyed.Would())
		}
		if len(plan.With(stream.ReachesOthers)) > 0 {
			would = append(would, "would redirect what others send to the stream or get from it, which had no owner")
		}
		texts = append(texts, fmt.Sprintf("%s of stream %s %s", stepsText(steps), plan.Wanted.Config.Name, strings.Join(would, " and ")))
	}
	return clip(strings.Join(texts, "; ")), reason, nil
}

func (p *pass) destroyed(ctx context.Context, plan stream.Plan) (stream.Destroyed, error) {
	var keepFrom uint64
	if plan.Changes(stream.FieldMaxAge) {
		var err error
		if keepFrom, err = p.conn.FirstSince(ctx, plan.Live, stream.LatestTime(plan.Live, time.Now()).Add(-plan.Wanted.Config.MaxAge)); err != nil {
			return stream.Destroyed{}, p.lostConnection(err)
		}
	}
	return plan.Destroys(keepFrom), nil
}
