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
	// lines are those of actors with a save under way.
	lines map[string]*line
}

// line is who writes to an actor, and who waits for that.
type line struct {
	// turn counts the saves whose turn it was, and began is when that of the last did.
	turn    int
	began   time.Time
	waiting []chan int
	// late fires when the patience of who waits is over. Nobody waiting, there is none:
	// a timer for each save would wake up a thread for each.
	late *time.Timer
}

func newWriters() *writers { return &writers{lines: map[string]*line{}} }

// enter waits for the turn of a save. What it returns ends the turn.
func (w *writers) enter(ctx context.Context, actorID string) (leave func(), err error) {
	w.mu.Lock()
	l := w.lines[actorID]
	if l == nil {
		l = &line{began: time.Now()}
		w.lines[actorID] = l
		w.mu.Unlock()
		return func() { w.end(actorID, l, 0) }, nil
	}
	own := make(chan int, 1)
	l.waiting = append(l.waiting, own)
	w.watch(actorID, l)
	w.mu.Unlock()
	select {
	case turn := <-own:
		return func() { w.end(actorID, l, turn) }, nil
	case <-ctx.Done():
		w.giveUp(actorID, l, own)
		return nil, ended(ctx)
	}
}

// end ends a turn, unless the others have lost their patience before.
func (w *writers) end(actorID string, l *line, turn int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if l.turn == turn {
		w.next(actorID, l)
	}
}

// next gives the turn to who waits longest. The caller has the lock.
func (w *writers) next(actorID string, l *line) {
	if l.late != nil {
		l.late.Stop()
		l.late = nil
	}
	l.turn++
	if len(l.waiting) == 0 {
		delete(w.lines, actorID)
		return
	}
	l.began = time.Now()
	l.waiting[0] <- l.turn
	l.waiting = l.waiting[1:]
	w.watch(actorID, l)
}

// watch ends the turn in time where somebody waits. The caller has the lock.
func (w *writers) watch(actorID string, l *line) {
	if l.late == nil && len(l.waiting) > 0 {
		turn := l.turn
		l.late = time.AfterFunc(time.Until(l.began.Add(writePatience)), func() { w.end(actorID, l, turn) })
	}
}

// giveUp takes a save out of its line, or passes on the turn that it has got in the
// meantime.
func (w *writers) giveUp(actorID string, l *line, own chan int) {
	w.mu.Lock()
	i := slices.Index(l.waiting, own)
	if i >= 0 {
		l.waiting = slices.Delete(l.waiting, i, i+1)
	}
	w.mu.Unlock()
	if i < 0 {
		w.end(actorID, l, <-own)
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
