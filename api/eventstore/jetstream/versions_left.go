package jetstream

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

// ErrContested: others write the snapshots of an actor all the time, so that its latest
// version cannot be stored there without undoing what they write.
var ErrContested = errors.New("others write the snapshots of the actor all the time")

const (
	// contestedTries is how often it is tried to store a version where others write the snapshots of
	// its actor meanwhile, some 60 ms in all. What an application saves remembers the version.
	contestedTries = 6
	// mostLeft is how many actors are left out at a time: a pass tries all of them at once.
	mostLeft = batchPart
)

// leave leaves an actor out, so that others do not wait for it. It is on record until its
// version is stored, also when its events have expired, and each pass tries that again.
func (p *versionsPass) leave(actor actorVersion, why error) error {
	if p.refused == nil || !errors.Is(why, ErrContested) {
		p.refused = why
	}
	if !p.record.leave(actor) {
		return fmt.Errorf("%w: %d others are left out already, and no more can be", why, mostLeft)
	}
	return nil
}

// leave says whether there is room for an actor that is left out.
func (r *versionsRecord) leave(actor actorVersion) bool {
	i := slices.IndexFunc(r.Left, func(left actorVersion) bool { return left.ActorID == actor.ActorID })
	switch {
	case i >= 0:
		r.Left[i].Version = max(r.Left[i].Version, actor.Version)
		r.Left[i].Sequence = max(r.Left[i].Sequence, actor.Sequence)
	case len(r.Left) == mostLeft:
		return false
	default:
		r.Left = append(r.Left, actor)
	}
	return true
}

// keepLeft tries again what was left out.
func (p *versionsPass) keepLeft(ctx context.Context) error {
	left := p.record.Left
	p.record.Left = nil
	err := p.keep(ctx, left)
	if err != nil {
		p.record.Left = left
	}
	if errors.Is(err, errOver) {
		return nil
	}
	return err
}

// refusal is why the versions of some actors are not stored, though all else was done; nil where
// none are left out.
func (p *versionsPass) refusal() error {
	if len(p.record.Left) == 0 {
		return nil
	}
	why := p.refused
	if why == nil {
		// There was no time for them, or another keeper has left them out.
		why = ErrContested
	}
	return fmt.Errorf("%d actors are left out, and tried again: %w", len(p.record.Left), why)
}
