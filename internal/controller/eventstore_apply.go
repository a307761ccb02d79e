package controller

import (
	"context"
	"slices"

	"golang.org/x/sync/errgroup"
)

// apply carries the plans out. What a person had to accept comes last: when the server
// refuses the rest nothing is destroyed for it.
func (p *pass) apply(ctx context.Context) error {
	if p.plans[0].Create() {
		// Before the stream is there, so that its first event cannot be missed.
		if _, err := p.watchFirstEvent(); err != nil {
			return err
		}
	}
	for _, accepted := range []bool{false, true} {
		if err := p.applyThose(ctx, accepted); err != nil {
			return p.lostConnection(err)
		}
	}
	p.own()
	p.countContest()
	p.carriedOut()
	p.store.Status.Plan = nil
	p.recordStreams()
	return nil
}

// applyThose carries out the plans that a person accepted, or all others. It tells what
// was done also where another of them failed.
func (p *pass) applyThose(ctx context.Context, accepted bool) error {
	var changes errgroup.Group
	done := make([]bool, len(p.plans))
	for i, plan := range p.plans {
		if accepted != (len(plan.Waiting()) > 0) {
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
	for i, plan := range p.plans {
		if done[i] {
			p.tellApplied(plan)
		}
	}
	if accepted && slices.Contains(done, true) {
		// It cannot be undone, whether the status can be written or not.
		p.sendEvents(ctx)
	}
	return err
}
