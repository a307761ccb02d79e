package controller

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	layout "git.flowmade.one/flowmade-one/aether-operator/api/eventstore/jetstream"
	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/stream"
)

type liveStream = jetstream.StreamInfo

const (
	// replicaPatience is how long a pass waits for replicas that are new, and
	// replicaPause is between two looks. What takes longer is told.
	replicaPatience = time.Second
	replicaPause    = 100 * time.Millisecond
)

// wasSeenSettled says whether a sweep of a moment ago has seen both streams just as
// they should be: then they are not asked for, and nothing is to be done to them.
func (p *pass) wasSeenSettled(ctx context.Context) bool {
	seen, settled := p.sweeper.sawSettled(ctx, p.class, p.conn, p.store)
	p.empty = settled && seen.empty
	// A status that lacks what the sweep went by was taken away since.
	return settled && p.store.Status.Effective != nil && len(p.store.Status.Streams) == len(p.streamNames())
}

// observedSettled ends a pass over settled streams that may only look.
func (p *pass) observedSettled(context.Context) error {
	p.own()
	p.endAcceptance()
	if p.observes() {
		return errObserved
	}
	return nil
}

func (p *pass) streamNames() []string {
	return []string{p.store.EventsStreamName(), p.store.SnapshotsStreamName()}
}

// see looks at both streams.
func (p *pass) see(ctx context.Context) error {
	names := p.streamNames()
	p.live = make([]*liveStream, len(names))
	for i, name := range names {
		var err error
		if p.live[i], err = p.conn.Stream(ctx, name); err != nil {
			return p.lostConnection(err)
		}
		if recorded := streamStatus(p.store, roles[i]); recorded != nil {
			*recorded = stream.WithNextAge(*recorded, p.live[i])
		}
	}
	var err error
	p.home, err = p.homes.of(ctx, p.store.Namespace)
	return err
}

// look sees both streams, and finds what is asked for.
func (p *pass) look(ctx context.Context) error {
	if err := p.see(ctx); err != nil {
		return err
	}
	defaults := stream.DefaultsFor(p.class, p.store, p.live)
	p.asked = stream.Effective(p.store, defaults)
	effective := p.asked
	effective.DeletionPolicy = stream.DeletionPolicyInForce(stream.RecordedDeletionPolicy(p.before), p.asked.DeletionPolicy, p.class.Spec.Limits)
	p.store.Status.Effective = &effective
	var err error
	p.wanted, err = stream.Desired(p.store, p.home, defaults)
	fault, asksTooMuch := stream.AsFault(err)
	if p.invalid = asksTooMuch; !p.invalid {
		return err
	}
	// What the spec asks for cannot be. Losses are told and the binding is kept all the
	// same.
	p.wanted = stream.Named(p.store)
	p.holdBack(fault)
	return nil
}

// wantedOf is what a store asks for, nil where that cannot be.
func wantedOf(store *v1alpha1.EventStore, home stream.Home, class *v1alpha1.EventStoreClass, live []*liveStream) []stream.Wanted {
	wanted, err := stream.Desired(store, home, stream.DefaultsFor(class, store, live))
	if err != nil {
		return nil
	}
	return wanted
}

// lostConnection tells of a connection that was lost after it was found.
func (p *pass) lostConnection(err error) error {
	fault, ok := stream.AsFault(err)
	if ok && slices.Contains([]string{v1alpha1.ReasonUnreachable, v1alpha1.ReasonJetStreamUnavailable, v1alpha1.ReasonNoQuorum, v1alpha1.ReasonPermissionDenied}, fault.Reason) {
		return p.disconnected(err)
	}
	return err
}

// seen is what is known of a stream from before, nil for nothing.
func (p *pass) seen(role v1alpha1.StreamRole) *v1alpha1.StreamStatus {
	return seenOf(p.store, p.class, p.memory, role)
}

// seenOf is what the status records of a stream, and what was seen of it since the
// status was written; nil where the status records nothing.
func seenOf(store *v1alpha1.EventStore, class *v1alpha1.EventStoreClass, memory *stream.Memory, role v1alpha1.StreamRole) *v1alpha1.StreamStatus {
	recorded := streamStatus(store, role)
	if recorded == nil {
		return nil
	}
	raised := memory.Raise(class.Name, *recorded)
	return &raised
}

func streamStatus(store *v1alpha1.EventStore, role v1alpha1.StreamRole) *v1alpha1.StreamStatus {
	for i := range store.Status.Streams {
		if store.Status.Streams[i].Role == role {
			return &store.Status.Streams[i]
		}
	}
	return nil
}

// checkContest leaves streams alone for a while that others change again and
// again. What the spec asks for anew is not held up by that.
func (p *pass) checkContest(context.Context) error {
	contest := p.contests.of(p.store.UID, time.Now())
	drifted := p.drifted()
	if drifted < 0 || time.Now().After(contest.until) {
		return nil
	}
	p.holdBack(stream.Retrying(v1alpha1.ReasonContested,
		"another writer changes stream %s again and again: since %s it was set right %d times, and now it is left alone until %s. What differs: %s. Find who else writes it, such as the operator of another cluster or another tool, and stop that",
		p.plans[drifted].Wanted.Config.Name, contest.first.UTC().Format(time.RFC3339), contest.healed, contest.until.UTC().Format(time.RFC3339), stepsText(p.plans[drifted].Steps)))
	return nil
}

// plan compares both streams with what is asked for, field by field. One that was
// lost has no plan: what becomes of it a person decides; nor has a spec that cannot be.
func (p *pass) plan(ctx context.Context) error {
	now := time.Now()
	p.plans, p.store.Status.Plan = make([]stream.Plan, len(p.wanted)), nil
	for i, wanted := range p.wanted {
		if p.lost[i] || p.invalid {
			p.plans[i] = stream.Plan{Wanted: wanted, Live: p.live[i]}
			continue
		}
		plan := stream.NewPlan(wanted, p.live[i], now)
		if p.adopting[i] {
			plan = plan.Adopting()
		}
		if plan.MustCount() {
			surplus, err := p.conn.Surplus(ctx, plan)
			if err != nil {
				return p.lostConnection(err)
			}
			plan = plan.Counted(surplus)
		}
		p.plans[i] = plan
		p.store.Status.Plan = append(p.store.Status.Plan, plan.Status()...)
	}
	return nil
}

// observed ends a pass that may only look.
func (p *pass) observed(ctx context.Context) error {
	if !p.observes() {
		return nil
	}
	// Nothing is carried out, so nothing is held back, and nothing waits for that.
	p.endAcceptance()
	meta.RemoveStatusCondition(&p.store.Status.Conditions, v1alpha1.ConditionDataLossPrevented)
	if p.hold != nil {
		return p.hold
	}
	if !slices.Contains(p.live, nil) {
		if err := p.recordStreams(ctx); err != nil {
			return err
		}
	}
	steps := p.store.Status.Plan
	switch {
	case len(steps) == 0:
		return errObserved
	case !slices.ContainsFunc(p.plans, func(plan stream.Plan) bool { return !plan.Settled() && !plan.OnlyMarks() }):
		return errOnlyMarks
	}
	return stream.Stalled(v1alpha1.ReasonObserved,
		"spec.managementPolicy is Observe, and %d step(s) are not carried out, the first: %s of stream %s from %s to %s; status.plan has them all: set spec.managementPolicy to Full to carry them out",
		len(steps), steps[0].Field, steps[0].Stream, steps[0].From, steps[0].To)
}

func (p *pass) observes() bool {
	return p.store.Spec.ManagementPolicy == v1alpha1.ManagementObserve
}

// verify looks once more at what was changed, and whether every replica is
// current.
func (p *pass) verify(ctx context.Context) error {
	again := false
	for i, plan := range p.plans {
		// What the server answered to a change is how it took it.
		again = again || !plan.Settled() && !stream.NewPlan(plan.Wanted, p.live[i], time.Now()).Settled()
	}
	if p.live[0].State.LastSeq == 0 {
		watched, err := p.watchFirstEvent()
		if err != nil {
			return err
		}
		again = again || watched
	}
	if again {
		if err := p.lookAgain(ctx); err != nil {
			return err
		}
	}
	if err := p.awaitReplicas(ctx); err != nil {
		return err
	}
	return p.checkReplicas()
}

// awaitReplicas gives replicas that are new a moment to become current: they take
// some ten milliseconds, and to tell of that and to come back costs more.
func (p *pass) awaitReplicas(ctx context.Context) error {
	for deadline := time.Now().Add(replicaPatience); p.makesReplicas() && !p.replicasCurrent() && time.Now().Before(deadline); {
		if err := pauseFor(ctx, replicaPause); err != nil {
			return err
		}
		if err := p.lookAgain(ctx); err != nil {
			return err
		}
	}
	return nil
}

// makesReplicas says whether the plans make replicas or move them.
func (p *pass) makesReplicas() bool {
	return slices.ContainsFunc(p.plans, func(plan stream.Plan) bool { return plan.Create() || plan.Changes(stream.FieldReplicas) })
}

func (p *pass) replicasCurrent() bool {
	return !slices.ContainsFunc(p.live, func(live *liveStream) bool {
		current, _ := stream.ReplicasCurrent(live)
		return !current
	})
}

// lookAgain looks at streams that this pass has seen or made.
func (p *pass) lookAgain(ctx context.Context) error {
	if err := p.look(ctx); err != nil {
		return err
	}
	if slices.Contains(p.live, nil) {
		return stream.Waiting(v1alpha1.ReasonProgressing, "a stream that was just changed is gone: looking again")
	}
	if err := p.recordStreams(ctx); err != nil {
		return err
	}
	return p.held(ctx)
}

// watchEmpty watches for the first event of a store that never had one.
func (p *pass) watchEmpty(context.Context) error {
	if !p.empty {
		return nil
	}
	_, err := p.watchFirstEvent()
	return err
}

// watchFirstEvent says whether nobody watched before.
func (p *pass) watchFirstEvent() (bool, error) {
	events := p.store.EventsStreamName()
	watched, err := p.conn.WatchFirstEvent(events, layout.StoredSubjects(events))
	if err != nil {
		return false, p.lostConnection(err)
	}
	return watched, nil
}

func (p *pass) checkReplicas() error {
	var behind []string
	for _, live := range p.live {
		if current, why := stream.ReplicasCurrent(live); !current {
			behind = append(behind, why)
		}
	}
	if len(behind) == 0 {
		setCondition(&p.store.Status.Conditions, v1alpha1.ConditionReplicasCurrent, metav1.ConditionTrue, v1alpha1.ReasonReplicasCurrent,
			"Every replica of both streams is current")
		return nil
	}
	reason := v1alpha1.ReasonReplicasCatchingUp
	if slices.ContainsFunc(p.live, stream.Leaderless) {
		reason = v1alpha1.ReasonNoQuorum
		behind = append(behind, "a majority of the servers that hold its replicas is not there, and nothing can be saved until they run again")
	}
	fault := stream.Waiting(reason, "%w", errors.New(strings.Join(behind, "; ")))
	setCondition(&p.store.Status.Conditions, v1alpha1.ConditionReplicasCurrent, metav1.ConditionFalse, fault.Reason, fault.Error())
	return fault
}

// recordStreams writes what the streams are now into the status, if they go on from what
// is on record: they were looked at again since the losses.
func (p *pass) recordStreams(ctx context.Context) error {
	var streams []v1alpha1.StreamStatus
	for i, wanted := range p.wanted {
		if stream.IsElsewhere(p.seen(wanted.Role), p.live[i]) {
			loss, err := p.lossOf(ctx, i)
			if err != nil {
				return err
			}
			if loss != nil {
				return stream.Waiting(v1alpha1.ReasonProgressing, "stream %s lost messages at this moment, as it seems: looking again", wanted.Config.Name)
			}
		}
		p.memory.Note(p.class.Name, p.live[i])
		streams = append(streams, stream.RecordOf(wanted, p.live[i], streamStatus(p.store, wanted.Role)))
	}
	p.store.Status.Streams = streams
	p.recordFullness()
	return nil
}

// record keeps the status and the memory of the streams that are ours up to date also
// where the plan will be held back; figures when they have changed by a tenth, as
// anywhere. What was lost stays on record as it was.
func (p *pass) record(context.Context) error {
	if p.partnerLost {
		return nil
	}
	var streams []v1alpha1.StreamStatus
	for i, wanted := range p.wanted {
		recorded := streamStatus(p.store, wanted.Role)
		switch {
		case p.live[i] == nil || p.lost[i]:
			if recorded != nil {
				// It is not about to get another age.
				recorded.NextMaxAge = ""
				streams = append(streams, *recorded)
			}
			p.noteLost(i)
		case p.adopting[i]:
		default:
			p.memory.Note(p.class.Name, p.live[i])
			now := stream.RecordOf(wanted, p.live[i], recorded)
			if recorded != nil && !stream.WorthTelling(*recorded, now, p.sweeper.tellsAll(p.class.Name)) {
				now = *recorded
			} else {
				p.figuresChanged = true
			}
			streams = append(streams, now)
		}
	}
	p.store.Status.Streams = streams
	if p.figuresChanged {
		p.recordFullness()
	}
	return nil
}

// noteLost keeps the figures of what is there of a stream that was lost; those of one
// that is gone are of no use once its loss is on record.
func (p *pass) noteLost(i int) {
	switch told := p.toldLoss() != nil; {
	case p.live[i] != nil && told:
		p.memory.NoteLost(p.class.Name, p.live[i])
	case p.live[i] != nil:
		p.memory.NoteUnjudged(p.class.Name, p.live[i])
	case p.lost[i] && told:
		p.memory.Forget(p.class.Name, p.wanted[i].Config.Name)
	}
}
