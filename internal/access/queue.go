package access

import (
	"slices"
	"sync"
	"time"
)

// queue works on jobs beside each other, and lets nobody who asks for much hold up
// those who ask for little: each key has its turn, and only so many jobs of one are
// worked on together.
type queue struct {
	limits queueLimits

	mu     sync.Mutex
	closed bool
	// running are the jobs that are worked on, and waiting those that are not yet.
	running, waiting int
	lines            map[string]*line
	// turns are the keys that have a job waiting: whose turn is next comes first.
	turns   []string
	working sync.WaitGroup
}

type queueLimits struct {
	// atOnce is how many jobs are worked on together, and perKey how many of one key.
	atOnce, perKey int
	// waiting is how many wait in all, and waitingPerKey how many of one key; the one
	// that has waited longest is dropped for more.
	waiting, waitingPerKey int
	// patience is how long a job waits at most: who asked has given up by then.
	patience time.Duration
	// lends is after how long a job counts no more among those atOnce, though among those
	// of its key: it waits for something that is slow for that key alone. 0 is never.
	lends time.Duration
}

// line are the jobs of one key.
type line struct {
	running int
	waiting []job
}

type job struct {
	came time.Time
	do   func()
	// dropped is called in the place of do where there is no room.
	dropped func()
}

func newQueue(limits queueLimits) *queue { return &queue{limits: limits, lines: map[string]*line{}} }

// add has a job worked on, or dropped.
func (q *queue) add(key string, do, dropped func()) {
	drop(q.enqueue(key, job{came: time.Now(), do: do, dropped: dropped}))
}

func (q *queue) enqueue(key string, j job) (dropped []job) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return []job{j}
	}
	l := q.lines[key]
	if l == nil {
		l = &line{}
		q.lines[key] = l
	}
	if len(l.waiting) == 0 {
		q.turns = append(q.turns, key)
	}
	l.waiting = append(l.waiting, j)
	q.waiting++
	if len(l.waiting) > q.limits.waitingPerKey {
		dropped = append(dropped, q.dropOldest(l))
	}
	if q.waiting > q.limits.waiting {
		dropped = append(dropped, q.dropOldest(q.longest()))
	}
	return append(dropped, q.start()...)
}

// longest is the line with most that waits. The caller has the lock.
func (q *queue) longest() *line {
	var most *line
	for _, key := range q.turns {
		if l := q.lines[key]; most == nil || len(l.waiting) > len(most.waiting) {
			most = l
		}
	}
	return most
}

func (q *queue) dropOldest(l *line) job {
	oldest := l.waiting[0]
	l.waiting = slices.Delete(l.waiting, 0, 1)
	q.waiting--
	return oldest
}

// start works on what waits, as far as there is room, and answers what has waited
// for too long. The caller has the lock.
func (q *queue) start() (expired []job) {
	for q.running < q.limits.atOnce {
		at := slices.IndexFunc(q.turns, func(key string) bool { return q.lines[key].running < q.limits.perKey })
		if at < 0 {
			return expired
		}
		key := q.turns[at]
		q.turns = slices.Delete(q.turns, at, at+1)
		next, ok, late := q.take(q.lines[key])
		expired = append(expired, late...)
		if len(q.lines[key].waiting) > 0 {
			q.turns = append(q.turns, key)
		}
		if !ok {
			q.forget(key)
			continue
		}
		q.running++
		q.lines[key].running++
		q.working.Go(func() { q.work(key, next) })
	}
	return expired
}

// take answers the job of a line that came last: who came first may have given up,
// and has most surely where more comes than can be done.
func (q *queue) take(l *line) (next job, ok bool, late []job) {
	if len(l.waiting) == 0 {
		return job{}, false, nil
	}
	next = l.waiting[len(l.waiting)-1]
	if time.Since(next.came) > q.limits.patience {
		late, l.waiting = l.waiting, nil
		q.waiting -= len(late)
		return job{}, false, late
	}
	l.waiting = l.waiting[:len(l.waiting)-1]
	q.waiting--
	return next, true, nil
}

// place is that of a job among those that are worked on together.
type place struct{ lent, left bool }

func (q *queue) work(key string, j job) {
	at := &place{}
	if q.limits.lends > 0 {
		lending := time.AfterFunc(q.limits.lends, func() { drop(q.lend(at)) })
		defer lending.Stop()
	}
	j.do()
	drop(q.done(key, at))
}

func drop(late []job) {
	for _, j := range late {
		j.dropped()
	}
}

// lend gives the place of a job to another.
func (q *queue) lend(at *place) (expired []job) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if at.left {
		return nil
	}
	at.lent = true
	q.running--
	if q.closed {
		return nil
	}
	return q.start()
}

func (q *queue) done(key string, at *place) (expired []job) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if at.left = true; !at.lent {
		q.running--
	}
	q.lines[key].running--
	q.forget(key)
	if q.closed {
		return nil
	}
	return q.start()
}

// forget drops the line of a key that has nothing. The caller has the lock.
func (q *queue) forget(key string) {
	if l := q.lines[key]; l != nil && l.running == 0 && len(l.waiting) == 0 {
		delete(q.lines, key)
		q.turns = slices.DeleteFunc(q.turns, func(other string) bool { return other == key })
	}
}

// close starts no job any more. What is worked on has come to its end when the
// channel is closed.
func (q *queue) close() <-chan struct{} {
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
	done := make(chan struct{})
	go func() {
		// Nothing is added to it any more: only who has the lock and sees closed unset
		// does that.
		q.working.Wait()
		close(done)
	}()
	return done
}
