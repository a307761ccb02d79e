package jetstream

import (
	"context"
	"slices"
	"sync"
	"time"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
)

// writePatience is how long a save keeps others of its actor waiting. It takes a
// thousandth of that; one that waits for an answer that was lost must not hold up
// those that would get theirs.
const writePatience = 250 * time.Millisecond

// writers makes the saves of a Store that take whatever version is next go one
// after another where they are for one actor. JetStream takes one of those that are
// sent at once and refuses the others, which then look and try again: with n
// writers that is work for n tries for each event. Whose turn it is decides
// nothing: other Stores may write meanwhile.
type writers struct {
	mu sync.Mutex
	// lines are, for each actor with a save under way, those that wait for it.
	lines map[string][]chan struct{}
}

func newWriters() *writers { return &writers{lines: map[string][]chan struct{}{}} }

// enter waits for the turn of a save. What it returns ends the turn.
func (w *writers) enter(ctx context.Context, actorID string) (leave func(), err error) {
	w.mu.Lock()
	line, busy := w.lines[actorID]
	if !busy {
		w.lines[actorID] = nil
		w.mu.Unlock()
		return w.turn(actorID), nil
	}
	own := make(chan struct{}, 1)
	w.lines[actorID] = append(line, own)
	w.mu.Unlock()
	select {
	case <-own:
		return w.turn(actorID), nil
	case <-ctx.Done():
		w.giveUp(actorID, own)
		return nil, ended(ctx)
	}
}

// turn starts the turn of a save, which ends at the latest when others have been
// patient enough.
func (w *writers) turn(actorID string) (leave func()) {
	late := time.AfterFunc(writePatience, func() { w.next(actorID) })
	return func() {
		if late.Stop() {
			w.next(actorID)
		}
	}
}

// next gives the turn to who waits longest.
func (w *writers) next(actorID string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	line := w.lines[actorID]
	if len(line) == 0 {
		delete(w.lines, actorID)
		return
	}
	w.lines[actorID] = line[1:]
	line[0] <- struct{}{}
}

// giveUp takes a save out of its line, or passes on the turn that it has got in the
// meantime.
func (w *writers) giveUp(actorID string, own chan struct{}) {
	w.mu.Lock()
	line := w.lines[actorID]
	i := slices.Index(line, own)
	if i >= 0 {
		w.lines[actorID] = slices.Delete(line, i, i+1)
	}
	w.mu.Unlock()
	if i < 0 {
		w.next(actorID)
	}
}

// takesNext says whether a save takes whatever version its only actor has next.
// Others are left alone: of those that expect a version at most one succeeds, and to
// find out they need not wait.
func takesNext(events []eventstore.Event, opts eventstore.SaveOptions) bool {
	for i := range events {
		if events[i].ActorID != events[0].ActorID || events[i].Version != 0 {
			return false
		}
	}
	return opts.ExpectedOf(events[0].ActorID) == eventstore.ExpectAny
}
