package webhook

import (
	"context"
	"fmt"
	"slices"
	"sync"
)

// turns lets a bounded number of calls work at once. Namespaces that wait are
// served one after the other, a call each, so that one that sends many calls is
// late itself and makes nobody else wait for all of them.
type turns struct {
	mu   sync.Mutex
	free int
	// waiting are the calls of each namespace, the eldest first, and order the
	// namespaces that have any, the next one first.
	waiting map[string][]chan struct{}
	order   []string
}

func newTurns(atOnce int) *turns {
	return &turns{free: atOnce, waiting: map[string][]chan struct{}{}}
}

// take waits for a turn, which the caller gives back. Without one it returns the
// error of ctx.
func (t *turns) take(ctx context.Context, namespace string) error {
	t.mu.Lock()
	if t.free > 0 {
		t.free--
		t.mu.Unlock()
		return nil
	}
	turn := make(chan struct{})
	if len(t.waiting[namespace]) == 0 {
		t.order = append(t.order, namespace)
	}
	t.waiting[namespace] = append(t.waiting[namespace], turn)
	t.mu.Unlock()
	select {
	case <-turn:
		return nil
	case <-ctx.Done():
		if !t.leave(namespace, turn) {
			// It came in the same moment.
			t.give()
		}
		return fmt.Errorf("wait for a turn behind other pods: %w", context.Cause(ctx))
	}
}

// leave takes a call out of the line. It says whether the call was still there.
func (t *turns) leave(namespace string, turn chan struct{}) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	index := slices.Index(t.waiting[namespace], turn)
	if index < 0 {
		return false
	}
	t.waiting[namespace] = slices.Delete(t.waiting[namespace], index, index+1)
	if len(t.waiting[namespace]) == 0 {
		delete(t.waiting, namespace)
		t.order = slices.DeleteFunc(t.order, func(other string) bool { return other == namespace })
	}
	return true
}

// give hands the turn to the next namespace that waits.
func (t *turns) give() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.order) == 0 {
		t.free++
		return
	}
	namespace := t.order[0]
	t.order = t.order[1:]
	next := t.waiting[namespace][0]
	if rest := t.waiting[namespace][1:]; len(rest) > 0 {
		t.waiting[namespace] = rest
		t.order = append(t.order, namespace)
	} else {
		delete(t.waiting, namespace)
	}
	close(next)
}
