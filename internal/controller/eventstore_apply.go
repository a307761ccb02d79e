package controller

import (
	"context"
	"slices"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/api/equality"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/stream"
)

// apply carries the plans out. What a person had to accept comes last: when the server
// refuses the rest nothing is destroyed for it. What lets events expire earlier comes after
// the versions of their actors are kept.
func (p *pass) apply(ctx context.Context) error {
	if p.plans[0].Create() {
		// Before the stream is there, so that its first event cannot be missed.
		if _, err := p.watchFirstEvent(); err != nil {
			return err
		}
	}
	accepted := func(plan stream.Plan) bool { return len(plan.Waiting()) > 0 }
	err := p.applyThose(ctx, func(plan stream.Plan) bool { return !accepted(plan) && !plan.ShortensAge() })
	if err == nil {
		// The stream of snapshots is there now, which remembers them.
		err = p.keepVersions(ctx)
	}
	if err == nil {
		err = p.noteNextAges(ctx)
	}
	if err == nil {
		err = p.applyThose(ctx, func(plan stream.Plan) bool { return !accepted(plan) && plan.ShortensAge() })
	}
	if err == nil {
		err = p.applyThose(ctx, accepted)
	}
	if err != nil {
		return p.lostConnection(err)
	}
	p.own()
	p.countContest()
	p.endAcceptance()
	p.store.Status.Plan = nil
	return p.recordStreams(ctx)
}

// noteNextAges puts shorter ages on record before streams have them. If the operator ends
// before it has written down that they do, the next one knows why all has expired. One that
// others made longer a moment ago is on record as it was.
func (p *pass) noteNextAges(ctx context.Context) error {
	noted := false
	for _, plan := range p.plans {
		next := stream.FormatAge(plan.Wanted.Config.MaxAge)
		isWritten := func(s v1alpha1.StreamStatus) bool { return s.Role == plan.Wanted.Role && s.MaxAge == next }
		recorded := streamStatus(p.store, plan.Wanted.Role)
		if recorded == nil || !plan.ShortensAge() || slices.ContainsFunc(p.written.Streams, isWritten) {
			continue
		}
		recorded.NextMaxAge, noted = next, true
	}
	if !noted || equality.Semantic.DeepEqual(p.written.Streams, p.store.Status.Streams) {
		return nil
	}
	return p.commit(ctx)
}

// applyThose carries out some of the plans. It tells what was done also where another of
// them failed.
func (p *pass) applyThose(ctx context.Context, those func(stream.Plan) bool) error {
	var changes errgroup.Group
	done := make([]bool, len(p.plans))
	for i, plan := range p.plans {
		if !those(plan) {
			continue
		}
		changes.Go(func() (err error) {
			switch {
			case plan.Create():
				p.live[i], err = p.conn.Create(ctx, plan.Config())
			case !plan.Settled():
				p.live[i], err = p.conn.Update(ctx, plan.Config())
			}
			done[i] = err == nil
			return err
		})
	}
	err := changes.Wait()
	destroyed := false
	for i, plan := range p.plans {
		if done[i] {
			p.tellApplied(plan)
			destroyed = destroyed || len(plan.Waiting()) > 0
		}
	}
	if destroyed {
		// It cannot be undone, whether the status can be written or not.
		p.sendEvents(ctx)
	}
	return err
}
