package controller

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"
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

// observe sees both streams. Where a sweep of a moment ago has seen them just as
// they should be, they are not asked for, and nothing is to be done to them.
func (p *pass) observe(ctx context.Context) error {
	seen, settled := p.sweeper.sawSettled(ctx, p.class, p.conn, p.store)
	if p.settled = settled; settled {
		p.empty = seen.empty
		return nil
	}
	return p.look(ctx)
}

func (p *pass) look(ctx context.Context) error {
	names := []string{p.store.EventsStreamName(), p.store.SnapshotsStreamName()}
	p.live = make([]*liveStream, len(names))
	for i, name := range names {
		var err error
		if p.live[i], err = p.conn.Stream(ctx, name); err != nil {
			return p.lostConnection(err)
		}
	}
	var err error
	if p.home, err = p.homes.of(ctx, p.store.Namespace); err != nil {
		return err
	}
	defaults := stream.DefaultsFor(p.class, p.live[0])
	effective := stream.Effective(p.store, defaults)
	p.store.Status.Effective = &effective
	p.wanted, err = stream.Desired(p.store, p.home, defaults)
	return err
}

// settle makes the streams what is asked for.
func (p *pass) settle(ctx context.Context) error {
	if !p.settled {
		return p.run(ctx, p.checkLoss, p.checkOwnership, p.checkSchema, p.plan, p.observed, p.checkLimits, p.guard, p.checkContest, p.claim, p.apply)
	}
	if p.observes() {
		return errObserved
	}
	return nil
}

// wantedOf is what a store asks for, nil where that cannot be.
func wantedOf(store *v1alpha1.EventStore, home stream.Home, class *v1alpha1.EventStoreClass, live []*liveStream) []stream.Wanted {
	wanted, err := stream.Desired(store, home, stream.DefaultsFor(class, live[0]))
	if err != nil {
		return nil
	}
	return wanted
}

// isSettled says whether the streams of a store are just as they should be.
func isSettled(store *v1alpha1.EventStore, home stream.Home, class *v1alpha1.EventStoreClass, wanted []stream.Wanted, live []*liveStream, memory *stream.Memory) bool {
	if wanted == nil || slices.Contains(live, nil) {
		return false
	}
	now := time.Now()
	for i, w := range wanted {
		seen := seenOf(store, class, memory, w.Role)
		current, _ := stream.ReplicasCurrent(live[i])
		if !current || stream.OwnershipOf(stream.OwnerOf(store, home), live[i], seen) != stream.Ours ||
			stream.LossOf(seen, live[i], now) != nil || !stream.NewPlan(w, live[i], now).Settled() {
			return false
		}
	}
	return true
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
	return stream.Retrying(v1alpha1.ReasonContested,
		"another writer changes stream %s again and again: since %s it was set right %d times, and now it is left alone until %s. What differs: %s. Find who else writes it, such as the operator of another cluster or another tool, and stop that",
		p.plans[drifted].Wanted.Config.Name, contest.first.UTC().Format(time.RFC3339), contest.healed, contest.until.UTC().Format(time.RFC3339), stepsText(p.plans[drifted].Steps))
}

// plan compares both streams with what is asked for, field by field.
func (p *pass) plan(context.Context) error {
	now := time.Now()
	p.plans, p.store.Status.Plan = make([]stream.Plan, len(p.wanted)), nil
	for i, wanted := range p.wanted {
		p.plans[i] = stream.NewPlan(wanted, p.live[i], now)
		p.store.Status.Plan = append(p.store.Status.Plan, p.plans[i].Status()...)
	}
	if !slices.ContainsFunc(p.plans, func(plan stream.Plan) bool { return len(plan.With(stream.DestroysData)) > 0 }) {
		meta.RemoveStatusCondition(&p.store.Status.Conditions, v1alpha1.ConditionDataLossPrevented)
	}
	return nil
}

// observed ends a pass that may only look.
func (p *pass) observed(context.Context) error {
	if !p.observes() {
		return nil
	}
	if !slices.Contains(p.live, nil) {
		p.recordStreams()
	}
	if steps := p.store.Status.Plan; len(steps) > 0 {
		return stream.Stalled(v1alpha1.ReasonObserved,
			"spec.managementPolicy is Observe, and %d step(s) are not carried out, the first: %s of stream %s from %s to %s; status.plan has them all: set spec.managementPolicy to Full to carry them out",
			len(steps), steps[0].Field, steps[0].Stream, steps[0].From, steps[0].To)
	}
	return errObserved
}

func (p *pass) observes() bool {
	return p.store.Spec.ManagementPolicy == v1alpha1.ManagementObserve
}

// guard holds the whole plan back when any of it is impossible, or would destroy
// what is stored: nothing is half done.
func (p *pass) guard(ctx context.Context) error {
	if err := p.guardImpossible(); err != nil {
		return err
	}
	if err := p.guardPeers(ctx); err != nil {
		return err
	}
	return p.guardData(ctx)
}

func (p *pass) guardImpossible() error {
	for _, plan := range p.plans {
		if steps := plan.With(stream.Impossible); len(steps) > 0 {
			return stream.Stalled(v1alpha1.ReasonImpossibleChange,
				"stream %s cannot be changed: %s: %s", plan.Wanted.Config.Name, steps[0], steps[0].WayOut())
		}
	}
	return nil
}

func (p *pass) guardPeers(ctx context.Context) error {
	replicas := p.wanted[0].Config.Replicas
	if replicas == 1 || !p.makesReplicas() {
		return nil
	}
	peers, err := p.conn.Peers(ctx, replicas)
	if err != nil {
		return p.lostConnection(err)
	}
	// None answers where the account may not ask: then the server decides.
	if peers == 0 || peers >= replicas {
		return nil
	}
	return stream.Stalled(v1alpha1.ReasonInsufficientPeers,
		"%d replicas are asked for and the NATS system of EventStoreClass %s has %d server(s) with JetStream: set spec.replicas to %d at most, or add servers",
		replicas, p.class.Name, peers, peers)
}

func (p *pass) guardData(ctx context.Context) error {
	var held []string
	for _, plan := range p.plans {
		steps := plan.With(stream.DestroysData)
		if len(steps) == 0 || p.accepted() {
			continue
		}
		var keepFrom uint64
		if plan.Changes(stream.FieldMaxAge) {
			var err error
			if keepFrom, err = p.conn.FirstSince(ctx, plan.Live, time.Now().Add(-plan.Wanted.Config.MaxAge)); err != nil {
				return p.lostConnection(err)
			}
		}
		held = append(held, fmt.Sprintf("%s of stream %s %s", steps[0], plan.Wanted.Config.Name, plan.Destroys(keepFrom)))
	}
	if len(held) == 0 {
		meta.RemoveStatusCondition(&p.store.Status.Conditions, v1alpha1.ConditionDataLossPrevented)
		return nil
	}
	fault := stream.Stalled(v1alpha1.ReasonWouldDestroyEvents,
		"not applied: changing %s. Take the change back; or let it through: %s", strings.Join(held, "; "), p.acceptHint())
	setCondition(&p.store.Status.Conditions, v1alpha1.ConditionDataLossPrevented, metav1.ConditionTrue, fault.Reason, fault.Error())
	return fault
}

// apply carries the plans out.
func (p *pass) apply(ctx context.Context) error {
	if p.plans[0].Create() {
		// Before the stream is there, so that its first event cannot be missed.
		if _, err := p.watchFirstEvent(); err != nil {
			return err
		}
	}
	var changes errgroup.Group
	for i, plan := range p.plans {
		changes.Go(func() (err error) {
			switch {
			case plan.Create():
				p.live[i], err = p.conn.Create(ctx, plan.Config())
			case !plan.Settled():
				p.live[i], err = p.conn.Update(ctx, plan.Config())
			}
			return err
		})
	}
	if err := changes.Wait(); err != nil {
		return p.lostConnection(err)
	}
	p.tellApplied()
	p.store.Status.Plan = nil
	p.recordStreams()
	return nil
}

// tellApplied tells of what nobody asked for just now.
func (p *pass) tellApplied() {
	p.countContest()
	for _, plan := range p.plans {
		p.metrics.countPlan(plan, p.isDrift())
		switch {
		case plan.Create():
			p.tellMissing(plan)
		case !plan.Settled():
			p.tellChanged(plan)
		}
	}
}

// drifted is which plan sets a stream right that others have changed, below 0 for
// none.
func (p *pass) drifted() int {
	if !p.isDrift() {
		return -1
	}
	return slices.IndexFunc(p.plans, func(plan stream.Plan) bool { return !plan.Create() && !plan.Settled() })
}

func (p *pass) countContest() {
	if p.drifted() < 0 {
		return
	}
	now := time.Now()
	contest := p.contests.healed(p.store.UID, now)
	if contest.healed == contestTold {
		p.tell(warning, "StreamContested", "UpdateStream",
			"The streams of this EventStore were set right %d times since %s: another writer changes them again and again", contest.healed, contest.first.UTC().Format(time.RFC3339))
	}
	if contest.until.After(now) {
		p.metrics.contests.Inc()
	}
}

// tellMissing tells of a stream that is made again; see created for those that
// are new.
func (p *pass) tellMissing(plan stream.Plan) {
	if p.seen(plan.Wanted.Role) != nil {
		p.tell(warning, "StreamMissing", "CreateStream", "Stream %s was gone and is created again; it held no message when last seen", plan.Wanted.Config.Name)
	}
}

// created are the streams that this pass has made for a store that had none.
func (p *pass) created() []string {
	var names []string
	for i, plan := range p.plans {
		if plan.Create() && p.live[i] != nil && streamStatus(p.before, plan.Wanted.Role) == nil {
			names = append(names, plan.Wanted.Config.Name)
		}
	}
	return names
}

// tellChanged tells of a change that nobody asked for just now: what comes of an
// edit of the spec is in the status, as who edited it expects.
func (p *pass) tellChanged(plan stream.Plan) {
	if p.isDrift() {
		p.tell(normal, "StreamUpdated", "UpdateStream", "Changed %s of stream %s", stepsText(plan.Steps), plan.Wanted.Config.Name)
	}
}

// isDrift says that the spec has been carried out before: what differs was changed
// by others.
func (p *pass) isDrift() bool { return p.before.Status.ObservedGeneration == p.store.Generation }

func stepsText(steps []stream.Step) string {
	texts := make([]string, len(steps))
	for i, step := range steps {
		texts[i] = step.String()
	}
	return strings.Join(texts, ", ")
}

// verify looks once more at what was changed, and whether every replica is
// current.
func (p *pass) verify(ctx context.Context) error {
	if p.settled {
		if p.empty {
			_, err := p.watchFirstEvent()
			return err
		}
		return nil
	}
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
	p.recordStreams()
	return nil
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

// recordStreams writes what the streams are now into the status.
func (p *pass) recordStreams() {
	p.store.Status.Streams = nil
	for i, wanted := range p.wanted {
		p.memory.Note(p.class.Name, p.live[i])
		p.store.Status.Streams = append(p.store.Status.Streams, stream.StatusOf(wanted.Role, p.live[i]))
	}
	p.recordFullness()
}
