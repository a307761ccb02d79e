package webhook

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"git.flowmade.one/flowmade-one/aether-operator/internal/openport"
	"git.flowmade.one/flowmade-one/aether-operator/internal/ports"
)

const (
	// patience is how long a turn is for a caller that others wait for: an API server has sent
	// its review when the turn comes, and reads the answer.
	patience = 250 * time.Millisecond
	// lateFor is how long an address is known as late that took longer, whether others waited
	// or not.
	lateFor = time.Minute
	// lateWait is for how long one that is late lets others go before. An API server for which
	// this machine was too slow is answered all the same.
	lateWait = 2 * time.Second
	// maxLate bounds how many such addresses are known.
	maxLate = 1000
	// maxWaiting bounds how many calls wait: less than there are connections, so that those who
	// wait hold out nobody who comes.
	maxWaiting = ports.MaxCalls - 64
)

// turns lets a bounded number of calls have their bodies in memory. Networks that calls come
// from are served one after the other, a call each, and so are the addresses of each network
// and the namespaces of each address. So one that sends many calls is late itself and makes
// nobody else wait for all of them. An address that has made others wait for its body has one
// turn at most, behind others.
type turns struct {
	mu      sync.Mutex
	atOnce  int
	held    map[*turn]struct{}
	waiting line
	// late are until when addresses are late.
	late map[string]time.Time
}

// turn is that of one call.
type turn struct {
	of        *turns
	peer      openport.Peer
	namespace string
	since     time.Time
	// begins is closed when the turn begins, or there is none since others have fewer: refused.
	begins  chan struct{}
	refused bool
	// While the caller is waited for, stop ends that, which began at asked. Before, it was
	// waited for as long as took.
	stop  func()
	asked time.Time
	took  time.Duration
}

func (t *turn) path() []string { return []string{t.peer.Network, t.peer.Address, t.namespace} }

var errCrowded = fmt.Errorf("%d wait already, and more from the same address than from others", maxWaiting)

func newTurns(atOnce int) *turns {
	return &turns{atOnce: atOnce, held: map[*turn]struct{}{}, late: map[string]time.Time{}}
}

// take waits for a turn, which the caller gives back. Without one it returns the
// error of ctx, or errCrowded.
func (t *turns) take(ctx context.Context, peer openport.Peer, namespace string) (*turn, error) {
	call := &turn{of: t, peer: peer, namespace: namespace, since: time.Now(), begins: make(chan struct{})}
	t.enter(call)
	select {
	case <-call.begins:
	case <-ctx.Done():
		t.leave(call)
		return nil, fmt.Errorf("wait for a turn behind other pods: %w", context.Cause(ctx))
	}
	if call.refused {
		return nil, errCrowded
	}
	return call, nil
}

func (t *turns) enter(call *turn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.waiting.enter(call, call.path())
	t.serve()
	if t.waiting.size > maxWaiting {
		last := t.waiting.last()
		t.waiting.leave(last, last.path())
		last.refused = true
		close(last.begins)
	}
	t.hurry()
}

// leave takes a call out of the line, or gives its turn back that came in the same moment.
func (t *turns) leave(call *turn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.waiting.leave(call, call.path()) {
		delete(t.held, call)
		t.serve()
	}
}

// give hands the turn to the next one that waits.
func (t *turn) give() { t.of.leave(t) }

// serve gives turns that are free to who is next.
func (t *turns) serve() {
	for len(t.held) < t.atOnce {
		call := t.waiting.next(t.mayGoBefore)
		if call == nil {
			call = t.waiting.next(t.isAlone)
		}
		if call == nil {
			return
		}
		t.held[call] = struct{}{}
		close(call.begins)
	}
}

func (t *turns) isLate(call *turn) bool { return t.late[call.peer.Address].After(time.Now()) }

// isAlone: no other call of its address has a turn.
func (t *turns) isAlone(call *turn) bool {
	for other := range t.held {
		if other.peer.Address == call.peer.Address {
			return false
		}
	}
	return true
}

func (t *turns) mayGoBefore(call *turn) bool {
	return !t.isLate(call) || time.Since(call.since) >= lateWait && t.isAlone(call)
}

// await does what takes as long as the caller wants, such as to read from it. Where others wait,
// stop is called after patience, and is to end it.
func (t *turn) await(stop func(), do func() error) error {
	t.of.mu.Lock()
	t.stop, t.asked = stop, time.Now()
	t.of.mu.Unlock()
	timer := time.AfterFunc(patience-t.took, func() {
		t.of.mu.Lock()
		defer t.of.mu.Unlock()
		t.of.hurry()
	})
	err := do()
	timer.Stop()
	t.of.mu.Lock()
	defer t.of.mu.Unlock()
	t.stop, t.took = nil, t.took+time.Since(t.asked)
	// However it has ended: one that ends a moment before it is ended is as late.
	if t.took >= patience {
		t.of.wasLate(t.peer.Address)
	}
	return err
}

// hurry stops the turns whose callers are waited for too long, where others wait that are not
// late.
func (t *turns) hurry() {
	if !t.waiting.has(func(call *turn) bool { return !t.isLate(call) }) {
		return
	}
	for call := range t.held {
		if call.stop != nil && call.took+time.Since(call.asked) >= patience {
			call.stop()
			call.stop = nil
		}
	}
}

// wasLate notes that an address has had others wait for it.
func (t *turns) wasLate(address string) {
	if _, known := t.late[address]; !known && len(t.late) >= maxLate {
		delete(t.late, slices.MinFunc(slices.Collect(maps.Keys(t.late)), func(a, b string) int { return t.late[a].Compare(t.late[b]) }))
	}
	t.late[address] = time.Now().Add(lateFor)
}
