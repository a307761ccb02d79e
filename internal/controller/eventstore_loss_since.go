package controller

import (
	"context"
	"slices"
	"time"

	"git.flowmade.one/flowmade-one/aether-operator/internal/stream"
)

// lossSince is what was lost of what a stream held since a loss of it was told: pods may
// go on to save to it, and it may be lost again before anybody accepts the first loss.
func (p *pass) lossSince(ctx context.Context, i int) (*stream.Loss, error) {
	recorded := streamStatus(p.store, p.wanted[i].Role)
	place := stream.PlaceSince(recorded)
	if place == nil || stream.WasElsewhere(recorded, p.live[i]) {
		return nil, nil
	}
	raised := p.memory.RaiseSince(p.class.Name, *place)
	compared, err := p.compare(ctx, &raised, p.live[i], "")
	return compared.loss, err
}

// putOnRecord puts what was found on record, and gives what is to be told. A loss since
// another one was told is written before anything else is done: what is remembered of the
// stream counts from where it is now.
func (p *pass) putOnRecord(ctx context.Context, found [2]stream.Found) ([]*stream.Loss, error) {
	var losses []*stream.Loss
	before := slices.Clone(p.store.Status.Streams)
	for i, wanted := range p.wanted {
		if recorded := streamStatus(p.store, wanted.Role); recorded != nil {
			recorded.Since = stream.RecordSince(wanted, recorded, p.live[i], found[i], time.Now(), p.sweeper.tellsAll(p.class.Name))
		}
		loss := stream.Told(p.seen(wanted.Role), p.live[i], found[i])
		if p.lost[i] = loss != nil; loss != nil {
			losses = append(losses, loss)
		}
	}
	if !slices.ContainsFunc(found[:], func(f stream.Found) bool { return f.Again != nil }) {
		return losses, nil
	}
	if err := p.commit(ctx); err != nil {
		p.store.Status.Streams = before
		return nil, err
	}
	for i, f := range found {
		if f.Again != nil {
			p.tell(warning, f.Again.Reason, "Reconcile", "While a loss waits to be accepted more was lost: %s", f.Again.Message)
			p.memory.Forget(p.class.Name, p.wanted[i].Config.Name)
		}
	}
	return losses, nil
}
