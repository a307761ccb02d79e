package group

import (
	"container/heap"
	"strings"
	"time"
)

// kind says which record has a task.
type kind int

const (
	// window: Main has it, as Out or Open.
	window kind = iota
	// waiting: it is the first of the line of its actor.
	waiting
	// parked: it was put aside, and may be replayed.
	parked
)

// never is the revision of what no write has passed yet.
const never = ^uint64(0)

// task is an event that is outstanding, or parked.
type task struct {
	sequence uint64
	// actor is not known of what an earlier coordinator has given out, until it is
	// read.
	actor    *actor
	kind     kind
	attempts int
	due      time.Time
	// holder may have it; claiming: it is not given to it before it is written.
	// claim tells one such hand-out from another, and delivered is the number of the
	// message that it went with.
	holder    *peer
	claiming  bool
	claim     uint64
	delivered uint64
	// expired is the member that has let its time pass last.
	expired string
	payload any
	size    int
	read    time.Time
	// windowed: Main has not passed it. passed is the revision of Main that has.
	windowed bool
	passed   uint64
	// settled: it is done, as soon as it is written; then answers are given.
	settled bool
	answers []func()
	// moving: it is on its way into a shard, to be parked.
	moving bool
	// Of what is parked.
	reason    string
	at        time.Time
	replaying bool
	// request is the last one that had it replayed.
	request string
	// queued: it is among those whose turn it is. listed is the time for which it is
	// among those that wait.
	queued bool
	listed time.Time
}

// actor is the events of one actor.
type actor struct {
	key   string
	shard *shard
	// queue is what was read and Main has not passed, in order.
	queue []*task
	line  *line
	// blocked: its line has ended, and that is not written yet.
	blocked int
	// replays are parked events that are to be delivered again, in order.
	replays []*task
}

// line is an actor that waits for task. What comes after it and was passed is
// found when it is needed.
type line struct {
	task *task
	// committed: its shard has it.
	committed bool
	// next is the first event after task that was passed, 0 for none; searched says
	// that this is known, and finding that it is being asked for. skipped is the
	// first that was passed since.
	searched, finding bool
	next, skipped     uint64
	// waits: it is among those that wait for Main.
	waits bool
}

// head is the task of an actor whose turn it is.
func (a *actor) head() *task {
	switch {
	case a.line != nil:
		return a.line.task
	case a.blocked == 0 && len(a.queue) > 0:
		return a.queue[0]
	}
	return nil
}

func (a *actor) empty() bool {
	return len(a.queue) == 0 && a.line == nil && a.blocked == 0 && len(a.replays) == 0
}

// byTurn orders tasks that may be handed out, and byDue those that wait.
type byTurn []*task

func (h byTurn) Len() int           { return len(h) }
func (h byTurn) Less(i, j int) bool { return h[i].sequence < h[j].sequence }
func (h byTurn) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *byTurn) Push(t any)        { *h = append(*h, t.(*task)) }
func (h *byTurn) Pop() any {
	last := len(*h) - 1
	t := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	return t
}

type delayed struct {
	task *task
	due  time.Time
}

type byDue []delayed

func (h byDue) Len() int           { return len(h) }
func (h byDue) Less(i, j int) bool { return h[i].due.Before(h[j].due) }
func (h byDue) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *byDue) Push(d any)        { *h = append(*h, d.(delayed)) }
func (h *byDue) Pop() any {
	last := len(*h) - 1
	d := (*h)[last]
	(*h)[last] = delayed{}
	*h = (*h)[:last]
	return d
}

// offer puts a task among those that may be handed out, now or when it is due.
func (m *Machine) offer(t *task) {
	if t == nil || !m.eligible(t) {
		return
	}
	if t.due.After(m.now) {
		if !t.listed.Equal(t.due) {
			t.listed = t.due
			heap.Push(&m.late, delayed{t, t.due})
		}
		return
	}
	if !t.queued {
		t.queued = true
		heap.Push(&m.turn, t)
	}
}

// eligible says whether it is the turn of a task, but for its time.
func (m *Machine) eligible(t *task) bool {
	if t.actor == nil || t.holder != nil || t.settled || t.moving {
		return false
	}
	if t.kind == parked {
		return t.replaying && t.actor.replays[0] == t
	}
	return t.actor.head() == t
}

// record is where writes of one record stand: what is to be written with the
// next, and what is done when it has been.
type record struct {
	dirty    bool
	inFlight bool
	next     []func()
	current  []func()
}

// after does something once all that is changed now is written.
func (r *record) after(do func()) {
	switch {
	case r.dirty:
		r.next = append(r.next, do)
	case r.inFlight:
		r.current = append(r.current, do)
	default:
		do()
	}
}

// begin starts a write.
func (r *record) begin() {
	r.dirty, r.inFlight = false, true
	r.current, r.next = r.next, nil
}

// committed ends it.
func (r *record) committed() {
	done := r.current
	r.inFlight, r.current = false, nil
	for _, do := range done {
		do()
	}
}

// shard is a Shard as the coordinator has it.
type shard struct {
	record
	number   int
	revision uint64
	lines    map[*actor]*line
	parked   map[uint64]*task
	// bytes is how large its record is at most, whatever of it is handed out.
	bytes int
	// sent is when its last write was.
	sent time.Time
}

// measure counts what the shard takes.
func (s *shard) measure() {
	s.bytes = 0
	for a, l := range s.lines {
		s.bytes += lineBytes(a.key)
		if l.task.moving {
			s.bytes += parkedBytes(a.key, l.task.reason)
		}
	}
	for _, t := range s.parked {
		s.bytes += parkedBytes(t.actor.key, t.reason)
	}
}

// lineBytes and parkedBytes are what an entry takes at most: its numbers have 20
// digits, its times 35 characters and the member that has it 26, and the names of its
// fields and what separates them are less than 100.
func lineBytes(key string) int { return escaped(key) + 200 }

func parkedBytes(key, reason string) int { return escaped(key) + escaped(reason) + 400 }

// escaped is how long a text is in JSON at most.
func escaped(text string) int {
	n := len(text)
	for i := range len(text) {
		if c := text[i]; c < ' ' || c > '~' || strings.IndexByte("\"\\<>&", c) >= 0 {
			n += 5
		}
	}
	return n
}
