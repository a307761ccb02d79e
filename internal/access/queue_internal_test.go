package access

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// notes keeps what came of jobs.
type notes struct {
	mu            sync.Mutex
	done, dropped []string
}

func (n *notes) add(q *queue, key, name string, until <-chan struct{}) {
	q.add(key, func() {
		<-until
		n.mu.Lock()
		defer n.mu.Unlock()
		n.done = append(n.done, name)
	}, func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.dropped = append(n.dropped, name)
	})
}

// all is what was done until now.
func (n *notes) all() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.done)
}

// Whoever asks for a thousand holds up nobody who asks for one.
func TestQueueIsFair(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(queueLimits{atOnce: 3, perKey: 2, waiting: 100, waitingPerKey: 50, patience: time.Second})
		var n notes
		never, now := make(chan struct{}), make(chan struct{})
		close(now)
		for i := range 1000 {
			n.add(q, "greedy", fmt.Sprint(i), never)
		}
		for i := range 10 {
			n.add(q, fmt.Sprintf("modest-%d", i), "modest", now)
		}
		synctest.Wait()
		if len(n.done) != 10 || len(n.dropped) != 1000-2-50 || n.dropped[0] != "2" {
			t.Errorf("%d were done, and %d dropped, the first of them %s", len(n.done), len(n.dropped), n.dropped[0])
		}
		close(never)
		synctest.Wait()
		if len(n.done) != 10+2+50 || !slices.Contains(n.done, "950") {
			t.Errorf("%d were done in the end, %v", len(n.done), n.done)
		}
		<-q.close()
	})
}

// What is slow for one key takes no place from others for long, and keeps its own.
func TestQueueLends(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(queueLimits{atOnce: 2, perKey: 2, waiting: 100, waitingPerKey: 50, patience: time.Hour, lends: time.Second})
		var n notes
		never, now := make(chan struct{}), make(chan struct{})
		close(now)
		for range 3 {
			n.add(q, "slow", "slow", never)
		}
		for i := range 3 {
			n.add(q, fmt.Sprintf("modest-%d", i), "modest", now)
		}
		synctest.Wait()
		if done := n.all(); len(done) != 0 {
			t.Errorf("done while there was no place: %v", done)
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if done := n.all(); len(done) != 3 || slices.Contains(done, "slow") || q.lines["slow"].running != 2 {
			t.Errorf("done were %v, and of the slow ones %d are worked on", done, q.lines["slow"].running)
		}
		close(never)
		synctest.Wait()
		if len(n.done) != 6 || q.running != 0 {
			t.Errorf("done were %v, and %d count as worked on", n.done, q.running)
		}
		<-q.close()
	})
}

// What has waited for longer than who asked is not worked on, and takes no room.
func TestQueueDropsWhatIsLate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(queueLimits{atOnce: 1, perKey: 1, waiting: 4, waitingPerKey: 4, patience: time.Second})
		var n notes
		first, now := make(chan struct{}), make(chan struct{})
		close(now)
		n.add(q, "a", "first", first)
		n.add(q, "a", "late", now)
		time.AfterFunc(2*time.Second, func() {
			n.add(q, "b", "in time", now)
			close(first)
		})
		time.Sleep(3 * time.Second)
		synctest.Wait()
		if fmt.Sprint(n.done, n.dropped) != "[first in time] [late]" {
			t.Errorf("done were %v, dropped %v", n.done, n.dropped)
		}
		if q.waiting != 0 || q.running != 0 || len(q.lines) != 0 || len(q.turns) != 0 {
			t.Errorf("something is left: %+v", q)
		}
		<-q.close()
		n.add(q, "a", "after the end", now)
		if len(n.dropped) != 2 {
			t.Errorf("after the end, dropped were %v", n.dropped)
		}
	})
}

// Work that is added while the queue ends is either done or dropped.
func TestQueueEnds(t *testing.T) {
	t.Parallel()
	for range 50 {
		q := newQueue(queueLimits{atOnce: 8, perKey: 8, waiting: 8, waitingPerKey: 8, patience: time.Minute})
		var n notes
		now := make(chan struct{})
		close(now)
		var adding sync.WaitGroup
		for range 4 {
			adding.Go(func() {
				for range 20 {
					n.add(q, "a", "x", now)
				}
			})
		}
		done := q.close()
		adding.Wait()
		<-done
		n.mu.Lock()
		if len(n.done)+len(n.dropped) > 80 {
			t.Errorf("%d were done, %d dropped", len(n.done), len(n.dropped))
		}
		n.mu.Unlock()
	}
}
