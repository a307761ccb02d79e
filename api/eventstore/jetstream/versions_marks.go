package jetstream

import (
	"context"
	"errors"
	"sync"

	"golang.org/x/sync/errgroup"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
)

// marksAtOnce is how many versions are stored at once where no snapshot is stored with
// them, and snapshotBytes what one takes that is stored once more.
const (
	marksAtOnce   = 16
	snapshotBytes = 1 << 20
)

// errOver says that there was no time to store the versions of all actors of a part.
var errOver = errors.New("there is no time for all")

// marking stores the versions of a part of a pass.
type marking struct {
	pass *versionsPass

	mu sync.Mutex
	// failed: nothing further is begun. copied: a snapshot is stored once more, and late: there
	// was no time to do so with another.
	failed, copied, late bool
}

// mark stores versions that the snapshots of actors do not remember.
func (p *versionsPass) mark(ctx context.Context, actors []actorVersion, snapshots []*message) error {
	var plain, large errgroup.Group
	plain.SetLimit(marksAtOnce)
	large.SetLimit(max(1, p.store.config.ReadAheadBytes/snapshotBytes/2))
	m := &marking{pass: p}
	for i, actor := range actors {
		last := snapshots[i]
		if last != nil && remembered(last) >= actor.Version {
			continue
		}
		group, copies := &plain, last != nil && !isDeletedSnapshot(last)
		if copies {
			group = &large
		}
		group.Go(func() error {
			if !m.begin(copies) {
				return nil
			}
			return m.store(ctx, actor, last)
		})
	}
	err := errors.Join(plain.Wait(), large.Wait())
	if err == nil && m.late {
		err = errOver
	}
	return err
}

// begin says whether one more version is to be stored. Where somebody writes very much, each
// message waits for seconds until it is stored: so after the time of the pass snapshots, of which
// few are stored at once, wait for the next one.
func (m *marking) begin(copies bool) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if copies && m.copied && m.pass.over(0) {
		m.late = true
		return false
	}
	m.copied = m.copied || copies
	return !m.failed
}

func (m *marking) store(ctx context.Context, actor actorVersion, last *message) error {
	ctx, cancel := m.pass.store.timed(ctx)
	defer cancel()
	wrote, err := m.pass.store.remember(ctx, actor.ActorID, actor.Version, last)
	m.mu.Lock()
	defer m.mu.Unlock()
	if wrote {
		m.pass.kept.Marked++
	}
	if errors.Is(err, eventstore.ErrTooLarge) || errors.Is(err, ErrContested) {
		err = m.pass.leave(actor, err)
	}
	m.failed = m.failed || err != nil
	return err
}
