package controller

import (
	"context"
	"time"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/stream"
)

// asked is how many stores a sweep asks about at the same time. An answer has a message of
// the stream, a megabyte and a half with its encoding at most; it takes a server a tenth of
// a millisecond.
const asked = 8

// elsewhere is where the streams of a store were last seen, those that were written to
// since. Nothing but the message at that place shows that they go on from there: if a
// server was away for a moment, and came back with less, who is connected to another one
// is not told.
func (l *lookAt) elsewhere(p *pair) (places [2]*v1alpha1.StreamStatus) {
	for i, role := range []v1alpha1.StreamRole{v1alpha1.StreamRoleEvents, v1alpha1.StreamRoleSnapshots} {
		if seen := seenOf(p.store, l.class, l.memory, role); stream.IsElsewhere(seen, p.live[i]) {
			places[i] = seen
		}
	}
	return places
}

// goesOn asks whether the streams of a store go on from those places. If servers do not
// answer, the other stores are not asked about, which takes seconds each: they look for
// themselves, and tell.
func (l *lookAt) goesOn(ctx context.Context, p *pair, places [2]*v1alpha1.StreamStatus) bool {
	for i, seen := range places {
		if seen == nil {
			continue
		}
		if l.unanswered.Load() >= asked {
			return false
		}
		from, err := l.conn.FirstFrom(ctx, seen.Name, uint64(seen.LastSequence))
		if err != nil {
			// The store that is woken asks again, and tells.
			l.unanswered.Add(1)
			return false
		}
		if stream.OvertakenOf(seen, p.live[i], from, "", time.Now()) != nil {
			return false
		}
	}
	return true
}
