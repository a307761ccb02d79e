package jetstream

import (
	"context"
	"hash/maphash"
	"slices"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
)

// recentEvents is among how many of an actor's newest events the id of one that
// is saved without a version is looked for: the server forgets ids after its
// duplicate window, and only a version tells where to look for more.
const recentEvents = 64

// recentIDs are the ids of an actor's newest events, oldest first, as hashes: a
// match is looked up. They are never changed in place.
type recentIDs []uint64

var seed = maphash.MakeSeed()

func (r recentIDs) contains(id string) bool { return slices.Contains(r, maphash.String(seed, id)) }

// with are the ids after one more event. What is not known stays so.
func (r recentIDs) with(id string) recentIDs {
	if r == nil {
		return nil
	}
	r = r[max(0, len(r)-recentEvents+1):]
	return append(append(make(recentIDs, 0, len(r)+1), r...), maphash.String(seed, id))
}

// findRecent looks for events without a version among the newest of their
// actors.
func (a *attempt) findRecent(ctx context.Context) error {
	for i := range a.events {
		e := &a.events[i]
		now := a.heads[e.ActorID]
		if e.Version != 0 || a.stored[e.ID] != nil {
			continue
		}
		if now.sequence == 0 {
			now.recent = recentIDs{}
			a.heads[e.ActorID] = now
			continue
		}
		if now.recent != nil && !now.recent.contains(e.ID) {
			continue
		}
		if err := a.readRecent(ctx, e.ActorID); err != nil {
			return err
		}
	}
	return nil
}

// readRecent reads the newest events of an actor, and remembers those that the
// save has too. Where some were known before, only what came later is read.
func (a *attempt) readRecent(ctx context.Context, actorID string) error {
	ours := map[string]bool{}
	for i := range a.events {
		ours[a.events[i].ID] = a.events[i].Version == 0
	}
	now, from := a.heads[actorID], int64(0)
	recent := recentIDs{}
	if before := a.before[actorID]; now.recent == nil && before.recent != nil {
		recent, from = before.recent, before.version
	}
	opts := eventstore.ReadOptions{Newest: recentEvents, UpToDate: a.fromLeader}
	for m, err := range a.store.messages(ctx, actorID, from, opts) {
		if err != nil {
			return err
		}
		event, err := decodeEvent(m)
		if err != nil || event.Version <= from {
			continue
		}
		recent = recent.with(event.ID)
		if ours[event.ID] {
			a.found(&event)
		}
	}
	now.recent = recent
	a.heads[actorID] = now
	return nil
}
