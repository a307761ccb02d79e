package controller

import (
	"slices"
	"strings"
	"time"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/stream"
)

// tellApplied tells of what nobody asked for just now.
func (p *pass) tellApplied(plan stream.Plan) {
	if taken, ok := p.taken[plan.Wanted.Role]; ok {
		p.told = append(p.told, taken)
	}
	p.metrics.countPlan(plan, p.isDrift())
	switch {
	case plan.Create():
		p.tellMissing(plan)
	case !plan.Settled():
		p.tellChanged(plan)
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
	name := plan.Wanted.Config.Name
	switch {
	case p.seen(plan.Wanted.Role) != nil:
		p.tell(warning, string(plan.Wanted.Role)+"StreamMissing", "CreateStream", "Stream %s was gone and is created again; it held no message when last seen", name)
	case plan.Wanted.Role == v1alpha1.StreamRoleSnapshots && p.live[0] != nil && p.live[0].State.Msgs > 0:
		p.tell(warning, "SnapshotsStreamMissing", "CreateStream",
			"Stream %s was gone, while the stream of %d events is there, and is created again, empty: snapshots can be made again of events, and what durable subscriptions had parked there is lost", name, p.live[0].State.Msgs)
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

// tellChanged tells of a change that nobody asked for just now, and of every one that
// destroys messages or reaches others: what else comes of an edit of the spec is in
// the status, as who edited it expects.
func (p *pass) tellChanged(plan stream.Plan) {
	name := plan.Wanted.Config.Name
	switch {
	case len(plan.With(stream.DestroysData)) > 0:
		p.tell(warning, "DataDestroyed", "UpdateStream", "Changed %s of stream %s, which %s", stepsText(plan.Steps), name, p.destroys[plan.Wanted.Role].Did())
	case len(plan.With(stream.ReachesOthers)) > 0:
		p.tell(warning, "OthersReached", "UpdateStream", "Changed %s of stream %s, which others use", stepsText(plan.Steps), name)
	case p.isDrift():
		p.tell(normal, string(plan.Wanted.Role)+"StreamUpdated", "UpdateStream", "Changed %s of stream %s", stepsText(plan.Steps), name)
	}
}

// isDrift says that the spec has been carried out before, and no person has accepted
// what differs: it was changed by others.
func (p *pass) isDrift() bool {
	return p.before.Status.ObservedGeneration == p.store.Generation && !p.pending()
}

func stepsText(steps []stream.Step) string {
	texts := make([]string, len(steps))
	for i, step := range steps {
		texts[i] = step.String()
	}
	return strings.Join(texts, ", ")
}
