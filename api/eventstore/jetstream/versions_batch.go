package jetstream

import (
	"context"
	"errors"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
)

// actorVersion is a version that an actor has, and the sequence of its event.
type actorVersion struct {
	actorID  string
	version  int64
	sequence uint64
}

// newestVersions are the greatest versions of the actors in a page of messages whose
// subjects begin with a prefix. What is no event has none.
func newestVersions(prefix string, messages []*message) []actorVersion {
	var newest []actorVersion
	at := map[string]int{}
	for _, m := range messages {
		event, err := decodeEvent(m)
		if err != nil || !strings.HasPrefix(m.Subject, prefix) {
			continue
		}
		i, met := at[event.ActorID]
		if !met {
			i = len(newest)
			at[event.ActorID] = i
			newest = append(newest, actorVersion{actorID: event.ActorID})
		}
		if event.Version > newest[i].version {
			newest[i].version, newest[i].sequence = event.Version, m.Sequence
		}
	}
	return newest
}

// outlived says whether the last message of an actor, nil for none, makes it needless to
// remember one of its versions: it is a later event, which has its own turn.
func (v actorVersion) outlived(last *message) bool {
	if last == nil || last.Sequence <= v.sequence {
		return false
	}
	event, err := decodeEvent(last)
	return err == nil && event.Version >= v.version
}

// keep has the versions remembered of those actors that have no later event. A replica
// that is behind has less than there is: then more is remembered than need be.
func (p *versionsPass) keep(ctx context.Context, actors []actorVersion) error {
	s := p.store
	events, err := s.lastOf(ctx, s.config.EventsStream, EventsSubject, actors)
	if err != nil {
		return err
	}
	var ending []actorVersion
	for i, actor := range actors {
		if !actor.outlived(events[i]) {
			ending = append(ending, actor)
		}
	}
	snapshots, err := s.lastOf(ctx, s.config.SnapshotsStream, SnapshotsSubject, ending)
	if err != nil {
		return err
	}
	return p.mark(ctx, ending, snapshots)
}

// lastOf gets the last message of each actor in a stream, without its data.
func (s *Store) lastOf(ctx context.Context, stream string, subject func(stream, actorID string) string, actors []actorVersion) ([]*message, error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	requests := make([]getRequest, len(actors))
	for i, actor := range actors {
		requests[i] = getRequest{LastBySubject: subject(s.config.EventsStream, actor.actorID)}
	}
	return s.getManyFrom(ctx, stream, requests, 1)
}

// marksAtOnce is how many versions are stored at once where no snapshot is stored with
// them, and snapshotBytes what one takes that is stored once more.
const (
	marksAtOnce   = 16
	snapshotBytes = 1 << 20
)

// mark stores versions that the snapshots of actors do not remember.
func (p *versionsPass) mark(ctx context.Context, actors []actorVersion, snapshots []*message) error {
	var plain, large errgroup.Group
	plain.SetLimit(marksAtOnce)
	large.SetLimit(max(1, p.store.config.ReadAheadBytes/snapshotBytes/2))
	var mu sync.Mutex
	for i, actor := range actors {
		last := snapshots[i]
		if last != nil && remembered(last) >= actor.version {
			continue
		}
		group := &plain
		if last != nil && !isDeletedSnapshot(last) {
			group = &large
		}
		group.Go(func() error {
			ctx, cancel := p.store.bounded(ctx)
			defer cancel()
			wrote, err := p.store.remember(ctx, actor.actorID, actor.version, last)
			mu.Lock()
			defer mu.Unlock()
			if wrote {
				p.kept.Marked++
			}
			if errors.Is(err, eventstore.ErrTooLarge) {
				// It will not become smaller, and others must not wait for it.
				p.refused = errors.Join(p.refused, err)
				return nil
			}
			return err
		})
	}
	return errors.Join(plain.Wait(), large.Wait())
}
