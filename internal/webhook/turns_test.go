package webhook

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"git.flowmade.one/flowmade-one/aether-operator/internal/openport"
)

// queue has calls wait for turns, and knows who had one.
type queue struct {
	*turns
	mu     sync.Mutex
	served []string
	given  map[string][]*turn
}

func newQueue(atOnce int) *queue {
	return &queue{turns: newTurns(atOnce), given: map[string][]*turn{}}
}

// call takes a turn as soon as there is one.
func (q *queue) call(t *testing.T, address, namespace string) {
	go func() {
		turn, err := q.take(t.Context(), openport.PeerOf(address+":1"), namespace)
		q.mu.Lock()
		defer q.mu.Unlock()
		if err != nil {
			q.served = append(q.served, "refused "+address+" "+namespace)
			return
		}
		q.served = append(q.served, address+" "+namespace)
		q.given[address] = append(q.given[address], turn)
	}()
	synctest.Wait()
}

// end gives the eldest turn of an address back.
func (q *queue) end(t *testing.T, address string) {
	t.Helper()
	if len(q.given[address]) == 0 {
		t.Fatalf("%s has no turn", address)
	}
	eldest := q.given[address][0]
	q.given[address] = q.given[address][1:]
	eldest.give()
	synctest.Wait()
}

func (q *queue) want(t *testing.T, want ...string) {
	t.Helper()
	if !slices.Equal(q.served, want) {
		t.Errorf("served %q, want %q", q.served, want)
	}
	q.served = nil
}

func (q *queue) wantEmpty(t *testing.T) {
	t.Helper()
	if len(q.held) != 0 || q.waiting.size != 0 || len(q.waiting.order) != 0 || len(q.waiting.parts) != 0 {
		t.Errorf("the line is not empty: %+v", q.turns)
	}
}

const first, second, third = "192.0.2.1", "192.0.2.2", "192.0.2.3"

// One namespace sends many calls before another sends one: the one is second.
func TestNamespacesTakeTurns(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(1)
		for _, namespace := range []string{"noisy", "noisy", "noisy", "noisy", "quiet", "other"} {
			q.call(t, first, namespace)
		}
		for range 6 {
			q.end(t, first)
		}
		q.want(t, first+" noisy", first+" noisy", first+" quiet", first+" other", first+" noisy", first+" noisy")
		q.wantEmpty(t)
	})
}

// One address sends calls of many namespaces before another sends one: the one is second. So it
// is with networks, of which one has many addresses.
func TestAddressesTakeTurns(t *testing.T) {
	t.Parallel()
	const one, beside, other = "[2001:db8::1]", "[2001:db8::2]", "[2001:db8:1::1]"
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(1)
		for _, namespace := range []string{"a", "b", "c"} {
			q.call(t, one, namespace)
		}
		q.call(t, beside, "a")
		q.call(t, beside, "b")
		q.call(t, other, "a")
		q.call(t, other, "b")
		for _, address := range []string{one, one, other, beside, other, one, beside} {
			q.end(t, address)
		}
		q.want(t, one+" a", one+" b", other+" a", beside+" a", other+" b", one+" c", beside+" b")
		q.wantEmpty(t)
	})
}

// Who does not wait any longer takes no turn.
func TestTurnOfWhoHasLeft(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(1)
		q.call(t, first, "a")
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := q.take(short, openport.PeerOf(second+":1"), "b"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a wait that has ended: %v", err)
		}
		q.end(t, first)
		q.wantEmpty(t)
	})
}

// await has the eldest turn of an address wait for its caller for so long, or until it is
// stopped.
func (q *queue) await(address string, takes time.Duration) (stopped bool) {
	turn, stop := q.given[address][0], make(chan struct{})
	_ = turn.await(func() { close(stop) }, func() error {
		select {
		case <-stop:
			stopped = true
		case <-time.After(takes):
		}
		return nil
	})
	return stopped
}

// An address that was waited for is late however that has ended: it comes behind others for a
// while, and has one turn at once.
func TestWhoIsLate(t *testing.T) {
	t.Parallel()
	for name, takes := range map[string][]time.Duration{"once": {patience}, "in parts": {patience / 2, patience / 2}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				q := newQueue(2)
				q.call(t, first, "a")
				q.call(t, third, "a")
				for _, one := range takes {
					if q.await(first, one) {
						t.Error("a turn is stopped that nobody waits for")
					}
				}
				q.call(t, first, "b")
				q.call(t, second, "a")
				q.call(t, second, "b")
				q.want(t, first+" a", third+" a")
				q.end(t, first)
				q.end(t, second)
				q.want(t, second+" a", second+" b")
				q.end(t, second)
				q.call(t, first, "c")
				q.want(t, first+" b")
				q.end(t, third)
				// A turn is free, and it has one.
				q.want(t)
				q.call(t, third, "b")
				q.want(t, third+" b")
				time.Sleep(lateFor)
				q.end(t, third)
				q.end(t, first)
				q.end(t, first)
				q.want(t, first+" c")
				q.wantEmpty(t)
			})
		})
	}
}

// Who is late comes in turn again when it has waited for a while: it may be an API server.
func TestWhoIsLateIsServed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(1)
		q.call(t, first, "a")
		q.await(first, patience)
		q.call(t, first, "b")
		for _, namespace := range []string{"a", "b", "c"} {
			q.call(t, second, namespace)
		}
		q.end(t, first)
		q.end(t, second)
		time.Sleep(lateWait)
		q.end(t, second)
		q.end(t, first)
		q.end(t, second)
		q.want(t, first+" a", second+" a", second+" b", first+" b", second+" c")
		q.wantEmpty(t)
	})
}

// Others wait: the caller is not waited for any longer, whoever came first. Those who are late
// end the turn of nobody.
func TestTurnsEndForOthers(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		before, late, stopped bool
	}{
		"who waits already":     {before: true, stopped: true},
		"who comes later":       {stopped: true},
		"who waits and is late": {before: true, late: true},
		"who comes and is late": {late: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				q := newQueue(1)
				q.call(t, first, "a")
				if c.late {
					q.late[second] = time.Now().Add(lateFor)
				}
				if c.before {
					q.call(t, second, "a")
				}
				done := make(chan bool)
				go func() { done <- q.await(first, 2*patience) }()
				if time.Sleep(patience + time.Millisecond); !c.before {
					q.call(t, second, "a")
				}
				if stopped := <-done; stopped != c.stopped {
					t.Errorf("stopped: %t", stopped)
				}
				q.end(t, first)
				q.end(t, second)
				q.wantEmpty(t)
			})
		})
	}
}

// More wait than may: those of who has most are refused, the newest first.
func TestManyWait(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(1)
		q.call(t, second, "a")
		q.want(t, second+" a")
		for range maxWaiting {
			q.call(t, first, "many")
		}
		q.call(t, first, "many")
		q.want(t, "refused "+first+" many")
		q.call(t, first, "few")
		q.want(t, "refused "+first+" many")
		q.call(t, second, "b")
		q.want(t, "refused "+first+" many")
		q.end(t, second)
		q.end(t, first)
		q.want(t, first+" many", second+" b")
		q.end(t, second)
		for range maxWaiting - 2 {
			q.end(t, first)
		}
		q.wantEmpty(t)
	})
}

// However many are known as late, the next one is too: for the eldest.
func TestManyAreLate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		line := newTurns(1)
		for i := range maxLate + 1 {
			line.wasLate(fmt.Sprint(i))
			time.Sleep(time.Millisecond)
		}
		for address, want := range map[string]bool{"0": false, "1": true, fmt.Sprint(maxLate): true} {
			if late := line.isLate(&turn{peer: openport.Peer{Address: address}}); late != want {
				t.Errorf("%s is late: %t, want %t", address, late, want)
			}
		}
	})
}
