package jetstream

import (
	"context"
	"hash/maphash"
	"slices"

	"golang.org/x/sync/errgroup"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/internal/versioning"
)

// recentIDs are the ids of an actor's newest events, oldest first, as hashes: a
// match is looked up. They are never changed in place. 32 bits are enough: of 64 ids one
// in 67 million others has the hash of one, and is read for in vain.
type recentIDs []uint32

var seed = maphash.MakeSeed()

func recentID(id string) uint32 { return uint32(maphash.String(seed, id)) }

func (r recentIDs) contains(id string) bool { return slices.Contains(r, recentID(id)) }

// with are the ids after one more event. What is not known stays so.
func (r recentIDs) with(id string) recentIDs {
	if r == nil {
		return nil
	}
	r = r[max(0, len(r)-versioning.RecentEvents+1):]
	return append(append(make(recentIDs, 0, len(r)+1), r...), recentID(id))
}

// findRecent looks for the events of the save among the newest of their actors: for
// those without a version always, and for others where the ids are known without a
// read. What it has learned of an actor the next try knows, and the next save.
func (a *attempt) findRecent(ctx context.Context) error {
	var actors []string
	reading := map[string]bool{}
	for i := range a.events {
		e := &a.events[i]
		now := a.heads[e.ActorID]
		if now.sequence == 0 && now.recent == nil {
			now.recent = recentIDs{}
		}
		unknown, suspect := now.recent == nil && e.Version == 0, now.recent.contains(e.ID)
		if a.stored[e.ID] == nil && (unknown || suspect) && !reading[e.ActorID] {
			reading[e.ActorID] = true
			actors = append(actors, e.ActorID)
		}
	}
	if len(actors) == 0 {
		return nil
	}
	found := make([]recentEvents, len(actors))
	asking, askCtx := errgroup.WithContext(ctx)
	asking.SetLimit(looks)
	for i, actorID := range actors {
		asking.Go(func() (err error) {
			found[i], err = a.readRecent(askCtx, actorID)
			return err
		})
	}
	err := asking.Wait()
	for i, actorID := range actors {
		a.learn(actorID, found[i])
	}
	return err
}

// recentEvents are the ids of an actor's newest events; nil where they were not read.
// Sequence is that of the newest, and ours are those that the save has too.
type recentEvents struct {
	sequence uint64
	ids      recentIDs
	ours     []*storedEvent
}

// learn takes over what was read of an actor.
func (a *attempt) learn(actorID string, read recentEvents) {
	if read.ids == nil {
		return
	}
	for _, stored := range read.ours {
		if a.stored == nil {
			a.stored = map[string]*storedEvent{}
		}
		a.stored[stored.ID] = stored
	}
	now := a.heads[actorID]
	if now.sequence == read.sequence {
		now.recent = read.ids
	}
	a.store.heads.learn(actorID, read.sequence, read.ids)
}

// readRecent reads the newest events of an actor, and keeps their ids, not their
// data. Where some were known before, only what came later is read.
func (a *attempt) readRecent(ctx context.Context, actorID string) (recentEvents, error) {
	now, from, known := a.heads[actorID], int64(0), recentIDs{}
	if before := a.before[actorID]; now.recent == nil && before.recent != nil {
		known, from = before.recent, before.version
	}
	done, err := a.store.reading(ctx)
	if err != nil {
		return recentEvents{}, err
	}
	defer done()
	last, err := a.store.last(ctx, actorID, a.fromLeader)
	if err != nil || last == nil {
		return recentEvents{ids: recentIDs{}}, err
	}
	if newest, err := decodeEvent(last); err == nil && newest.Version <= from {
		return recentEvents{sequence: last.Sequence, ids: known}, nil
	}
	ours := a.idsOf(actorID)
	for n := uint64(versioning.RecentEvents); ; n *= 4 {
		read, met := recentEvents{sequence: last.Sequence, ids: known}, 0
		all, err := a.store.newHistory(last).readAfter(ctx, from, n, func(m *message) bool {
			met++
			if event, err := decodeEvent(m); err == nil && event.Version > from {
				read.ids = read.ids.with(event.ID)
				if ours[event.ID] {
					read.ours = append(read.ours, newStoredEvent(m, event))
				}
			}
			return true
		})
		if err != nil {
			return recentEvents{}, err
		}
		// The index counts those that were erased too.
		if all || met >= versioning.RecentEvents {
			return read, nil
		}
	}
}
