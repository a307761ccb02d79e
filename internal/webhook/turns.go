package webhook

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"
)

const (
	// lateFor is how long an address is known as late that began a call and did not end it.
	lateFor = time.Minute
	// maxLate bounds how many such addresses are known.
	maxLate = 1000
)

// turns lets a bounded number of calls work at once. Addresses that calls come from are
// served one after the other, a call each, and so are the namespaces of each address. So one
// that sends many calls is late itself and makes nobody else wait for all of them. An
// address that has kept a turn for a call that did not come has one turn at most, when
// nobody else waits.
type turns struct {
	mu   sync.Mutex
	free int
	// held are how many turns an address has.
	held map[string]int
	// waiting are the calls of each address, and order the addresses that have any, the
	// next one first.
	waiting map[string]*line
	order   []string
	// late are until when addresses are late.
	late map[string]time.Time
}

func newTurns(atOnce int) *turns {
	return &turns{free: atOnce, held: map[string]int{}, waiting: map[string]*line{}, late: map[string]time.Time{}}
}

// take waits for a turn, which the caller gives back. Without one it returns the
// error of ctx.
func (t *turns) take(ctx context.Context, address, namespace string) error {
	turn := t.enter(address, namespace)
	select {
	case <-turn:
		return nil
	case <-ctx.Done():
		if !t.leave(address, namespace, turn) {
			// It came in the same moment.
			t.give(address)
		}
		return fmt.Errorf("wait for a turn behind other pods: %w", context.Cause(ctx))
	}
}

func (t *turns) enter(address, namespace string) chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.waiting[address] == nil {
		t.waiting[address] = &line{calls: map[string][]chan struct{}{}}
		t.order = append(t.order, address)
	}
	turn := t.waiting[address].enter(namespace)
	t.serve()
	return turn
}

// leave takes a call out of the line. It says whether the call was still there.
func (t *turns) leave(address, namespace string, turn chan struct{}) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	line := t.waiting[address]
	if line == nil || !line.leave(namespace, turn) {
		return false
	}
	if len(line.order) == 0 {
		delete(t.waiting, address)
		t.order = slices.DeleteFunc(t.order, func(other string) bool { return other == address })
	}
	return true
}

// give hands the turn of an address to the next one that waits.
func (t *turns) give(address string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.free++
	if t.held[address]--; t.held[address] == 0 {
		delete(t.held, address)
	}
	t.serve()
}

// wasLate notes that an address had a turn, and did not send the call that it was for.
func (t *turns) wasLate(address string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	if len(t.late) >= maxLate {
		maps.DeleteFunc(t.late, func(_ string, until time.Time) bool { return until.Before(now) })
	}
	if len(t.late) < maxLate {
		t.late[address] = now.Add(lateFor)
	}
}

// serve gives turns that are free to who is next.
func (t *turns) serve() {
	for t.free > 0 {
		next := t.next()
		if next < 0 {
			return
		}
		address := t.order[next]
		line := t.waiting[address]
		t.order = slices.Delete(t.order, next, next+1)
		turn := line.next()
		if len(line.order) > 0 {
			t.order = append(t.order, address)
		} else {
			delete(t.waiting, address)
		}
		t.free--
		t.held[address]++
		close(turn)
	}
}

// next is the place in the order of who has the next turn, and negative where nobody may.
func (t *turns) next() int {
	now := time.Now()
	if next := slices.IndexFunc(t.order, func(address string) bool { return !t.late[address].After(now) }); next >= 0 {
		return next
	}
	return slices.IndexFunc(t.order, func(address string) bool { return t.held[address] == 0 })
}

// line are the calls of one address that wait: of each namespace, the eldest first, and the
// namespaces that have any, the next one first.
type line struct {
	calls map[string][]chan struct{}
	order []string
}

func (l *line) enter(namespace string) chan struct{} {
	if len(l.calls[namespace]) == 0 {
		l.order = append(l.order, namespace)
	}
	turn := make(chan struct{})
	l.calls[namespace] = append(l.calls[namespace], turn)
	return turn
}

func (l *line) leave(namespace string, turn chan struct{}) bool {
	index := slices.Index(l.calls[namespace], turn)
	if index < 0 {
		return false
	}
	l.calls[namespace] = slices.Delete(l.calls[namespace], index, index+1)
	if len(l.calls[namespace]) == 0 {
		delete(l.calls, namespace)
		l.order = slices.DeleteFunc(l.order, func(other string) bool { return other == namespace })
	}
	return true
}

func (l *line) next() chan struct{} {
	namespace := l.order[0]
	l.order = l.order[1:]
	turn := l.calls[namespace][0]
	if rest := l.calls[namespace][1:]; len(rest) > 0 {
		l.calls[namespace] = rest
		l.order = append(l.order, namespace)
	} else {
		delete(l.calls, namespace)
	}
	return turn
}
