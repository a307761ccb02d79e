package group

import (
	"cmp"
	"slices"
	"time"
)

// makeLine lets the events of an actor wait for its first, in a shard. Once that
// is written, Main passes them all.
func (m *Machine) makeLine(t *task) {
	a := t.actor
	l := &line{task: t}
	t.kind = waiting
	a.line = l
	a.shard.lines[a] = l
	a.shard.dirty = true
	a.shard.bytes += lineBytes(a.key)
	m.main.Shards.Add(a.shard.number)
	if len(a.queue) > 0 {
		m.behindTop = max(m.behindTop, a.queue[len(a.queue)-1].sequence)
	}
	a.shard.after(func() {
		if a.line == l {
			l.committed = true
			m.record.dirty = true
		}
	})
	m.offer(t)
}

// find asks what comes after the first of a line.
func (m *Machine) find(a *actor) {
	if l := a.line; !l.searched && !l.finding {
		l.finding = true
		m.finds = append(m.finds, Find{a.key, l.task.sequence})
	}
}

// Found answers a Find: the first event of the actor after a sequence that the
// group wants, 0 for none. What was stored when it was asked must be seen.
func (m *Machine) Found(now time.Time, key string, after, sequence uint64) {
	m.now = now
	a := m.actors[key]
	if a == nil || a.line == nil || a.line.task.sequence != after || a.line.searched {
		return
	}
	l := a.line
	l.searched, l.finding, l.next = true, false, sequence
	if l.skipped != 0 && (l.next == 0 || l.skipped < l.next) {
		l.next = l.skipped
	}
	if l.task.settled || l.task.moving {
		m.advance(a)
	}
	m.schedule()
}

// skip notes an event behind the first of a line, which Main passes.
func (l *line) skip(sequence uint64) {
	if l.skipped == 0 {
		l.skipped = sequence
	}
	if l.searched && (l.next == 0 || sequence < l.next) {
		l.next = sequence
	}
}

// advance goes on to the next of a line whose first is settled, or to be parked.
// Main must have passed that first: else it came again where the line is gone.
func (m *Machine) advance(a *actor) {
	l := a.line
	if !l.searched {
		m.find(a)
		return
	}
	if !m.isPassed(l.task) {
		if !l.waits {
			l.waits = true
			m.unpassed = append(m.unpassed, l)
		}
		return
	}
	s, t := a.shard, l.task
	s.dirty = true
	if t.moving {
		m.putAside(t)
	} else {
		s.after(func() { m.done(t) })
	}
	if l.next != 0 && l.next <= m.sentTop && !m.open[l.next] && (len(a.queue) == 0 || l.next < a.queue[0].sequence) {
		next := &task{sequence: l.next, actor: a, kind: waiting, passed: m.main.Revision}
		m.tasks[next.sequence] = next
		l.task, l.searched, l.finding, l.next, l.skipped = next, false, false, 0, 0
		m.offer(next)
		return
	}
	a.line = nil
	delete(s.lines, a)
	a.blocked++
	s.after(func() {
		a.blocked--
		m.offer(a.head())
		m.tidy(a)
	})
}

// isPassed says whether Main, as it is stored, has passed a task.
func (m *Machine) isPassed(t *task) bool { return !t.windowed && t.passed <= m.committed }

// settle takes an event as done, and answers once that is written.
func (m *Machine) settle(t *task, answer func()) {
	t.answers = append(t.answers, answer)
	if t.settled {
		return
	}
	m.release(t)
	t.settled = true
	a := t.actor
	switch {
	case a == nil:
		m.settleEarly(t)
	case t.kind == window:
		m.leave(t)
		m.record.after(func() { m.done(t) })
		m.offer(a.head())
		m.tidy(a)
	case t.kind == waiting:
		m.advance(a)
	default:
		m.unpark(t)
	}
}

// settleEarly settles what an earlier coordinator has given out and this one has
// not read.
func (m *Machine) settleEarly(t *task) {
	t.settled, t.windowed = true, false
	m.early = slices.DeleteFunc(m.early, func(e *task) bool { return e == t })
	m.record.dirty = true
	m.record.after(func() { m.done(t) })
}

// done answers for an event once it is written.
func (m *Machine) done(t *task) {
	if m.tasks[t.sequence] == t {
		delete(m.tasks, t.sequence)
	}
	for _, answer := range t.answers {
		answer()
	}
	t.answers = nil
}

// park puts an event aside. It answers false where there is no room for it.
func (m *Machine) park(t *task, reason string) bool {
	reason = ClipReason(reason)
	a, s := t.actor, t.actor.shard
	if t.kind == parked {
		t.replaying, t.reason, t.at, t.due = false, reason, m.now.Add(m.config.Offset), time.Time{}
		s.dirty = true
		m.unlist(t)
		return true
	}
	if !m.fits(s, parkedBytes(a.key, reason)) {
		m.offer(t)
		return false
	}
	t.reason, t.at, t.moving = reason, m.now.Add(m.config.Offset), true
	s.bytes += parkedBytes(a.key, reason)
	if t.kind == waiting {
		m.advance(a)
		return true
	}
	m.putAside(t)
	s.dirty = true
	s.after(func() {
		m.leave(t)
		m.offer(a.head())
		m.tidy(a)
		m.schedule()
	})
	return true
}

// putAside makes a task one that is parked; its shard is written next.
func (m *Machine) putAside(t *task) {
	t.kind, t.moving, t.payload = parked, false, nil
	t.actor.shard.parked[t.sequence] = t
	m.main.Shards.Add(t.actor.shard.number)
	m.parked++
	m.tasks[t.sequence] = t
}

// unpark takes a parked event off the list. Main must have passed it.
func (m *Machine) unpark(t *task) {
	s := t.actor.shard
	m.unlist(t)
	if !m.isPassed(t) {
		m.unparked = append(m.unparked, t)
		return
	}
	delete(s.parked, t.sequence)
	m.parked--
	s.dirty = true
	s.after(func() { m.done(t) })
}

// replays puts a parked event among those of its actor that are to be delivered
// again.
func (m *Machine) replays(t *task) {
	a := t.actor
	at, found := slices.BinarySearchFunc(a.replays, t, func(x, y *task) int { return cmp.Compare(x.sequence, y.sequence) })
	if !found {
		a.replays = slices.Insert(a.replays, at, t)
	}
	m.offer(a.replays[0])
}

func (m *Machine) unlist(t *task) {
	a := t.actor
	if at := slices.Index(a.replays, t); at >= 0 {
		a.replays = slices.Delete(a.replays, at, at+1)
	}
	if len(a.replays) > 0 {
		m.offer(a.replays[0])
	}
	m.tidy(a)
}

// replay marks parked events, all where none is named, and counts them. What the
// same request has marked before it does not mark again: its answer was lost, and
// the event may have been delivered and parked since.
func (m *Machine) replay(request string, sequences []uint64, answer func(int)) {
	var found []*task
	mark := func(t *task) {
		if t != nil && t.kind == parked && !t.settled {
			found = append(found, t)
		}
	}
	for _, sequence := range sequences {
		mark(m.tasks[sequence])
	}
	if len(sequences) == 0 {
		for _, s := range m.shards {
			for _, t := range s.parked {
				mark(t)
			}
		}
	}
	left := 1
	count := len(found)
	wrote := func() {
		if left--; left == 0 {
			answer(count)
		}
	}
	touched := map[*shard]bool{}
	for _, t := range found {
		if !t.replaying && t.request != request {
			t.replaying, t.request, t.attempts, t.due = true, request, 0, time.Time{}
			t.actor.shard.dirty = true
			// An actor of which nothing else is left was forgotten.
			t.actor = m.actor(t.actor.key)
			m.replays(t)
		}
		touched[t.actor.shard] = true
	}
	for s := range touched {
		left++
		s.after(wrote)
	}
	wrote()
}

// Parked is what was put aside, in the order of sequences.
func (m *Machine) Parked() []Parked {
	var list []Parked
	for _, s := range m.shards {
		list = append(list, m.encode(s).Parked...)
	}
	slices.SortFunc(list, func(a, b Parked) int { return cmp.Compare(a.Sequence, b.Sequence) })
	return list
}
