package group

import (
	"cmp"
	"maps"
	"slices"
	"time"
)

// ShardWrite is a shard to be written.
type ShardWrite struct {
	Number int
	Shard  Shard
}

// Main is the next write of the record, if there is one. It is to be stored
// under compare-and-set; then Committed is to be called. If another has written
// it, the machine is over.
func (m *Machine) Main() (Main, bool) {
	clean := func() bool {
		return !slices.ContainsFunc(m.shards[:], func(s *shard) bool { return s.dirty || s.inFlight })
	}
	if m.record.inFlight || m.closed {
		// What has changed since is written first.
		m.leaving = m.leaving && clean() && !m.record.dirty
		return Main{}, false
	}
	m.leaving = m.closing && clean()
	if !m.record.dirty && !m.leaving {
		return Main{}, false
	}
	m.main.Revision++
	m.main.Top = max(m.main.Top, m.behindTop)
	if m.live == 0 && len(m.early) == 0 && len(m.open) == 0 {
		m.main.Top = max(m.main.Top, m.read)
	}
	m.main.Out, m.main.Attempts, m.main.Open = map[string]Sequences{}, map[int]Sequences{}, nil
	list := func(t *task) {
		attempts, holder := t.attempts, ""
		switch {
		case t.holder != nil && (t.kind == window || !t.claiming):
			holder = t.holder.id
		case t.claiming:
			// A shard is to have this attempt, and has not.
			attempts--
		}
		if attempts == 0 {
			m.main.Open = append(m.main.Open, t.sequence)
			return
		}
		m.main.Out[holder] = append(m.main.Out[holder], t.sequence)
		if attempts > 1 {
			m.main.Attempts[attempts] = append(m.main.Attempts[attempts], t.sequence)
		}
	}
	for _, t := range m.early {
		list(t)
	}
	for sequence := range m.open {
		if sequence > m.read && m.tasks[sequence] == nil {
			m.main.Open = append(m.main.Open, sequence)
		}
	}
	var pass []*task
	for _, t := range m.window {
		// They are in order.
		if t.sequence > m.main.Top {
			break
		}
		switch {
		case !t.windowed:
		case m.passes(t):
			pass = append(pass, t)
		default:
			list(t)
		}
	}
	for _, t := range pass {
		m.pass(t)
	}
	for holder := range m.main.Out {
		sorted(m.main.Out[holder])
	}
	for attempts := range m.main.Attempts {
		sorted(m.main.Attempts[attempts])
	}
	sorted(m.main.Open)
	m.mainSent = m.now
	m.sentTop, m.sent = m.main.Top, m.main.Shards
	m.record.begin()
	written := m.main
	if m.leaving {
		written.Coordinator = ""
	}
	return written, true
}

// passes says whether a task belongs to a line that is stored.
func (m *Machine) passes(t *task) bool {
	l := t.actor.line
	return l != nil && l.committed && (t == l.task || t.kind == window && !t.moving && t.sequence > l.task.sequence)
}

// pass takes a task out of the window with the write that is being made.
func (m *Machine) pass(t *task) {
	m.leave(t)
	t.passed = m.main.Revision
	if l := t.actor.line; l.task != t {
		l.skip(t.sequence)
		delete(m.tasks, t.sequence)
	}
}

// Committed says that the last write of Main is stored.
func (m *Machine) Committed(now time.Time) {
	m.now = now
	m.committed, m.used = m.main.Revision, m.sent
	m.lease(m.mainSent)
	m.record.committed()
	lines := m.unpassed
	m.unpassed = nil
	for _, l := range lines {
		l.waits = false
		if a := l.task.actor; a.line == l && (l.task.settled || l.task.moving) {
			m.advance(a)
		}
	}
	tasks := m.unparked
	m.unparked = nil
	for _, t := range tasks {
		m.unpark(t)
	}
	m.schedule()
	m.closed = m.leaving
}

// lease notes when a write was sent that is stored: then nobody had followed.
func (m *Machine) lease(sent time.Time) {
	if sent.After(m.leased) {
		m.leased = sent
	}
}

// Shards are the next writes of shards. Those that are not in use yet are
// written once Main says that they are.
func (m *Machine) Shards() []ShardWrite {
	var writes []ShardWrite
	for _, s := range m.shards {
		if !s.dirty || s.inFlight {
			continue
		}
		if !m.used.Has(s.number) {
			m.main.Shards.Add(s.number)
			m.record.dirty = true
			continue
		}
		s.revision++
		writes = append(writes, ShardWrite{s.number, m.encode(s)})
		s.sent = m.now
		s.begin()
	}
	return writes
}

func (m *Machine) encode(s *shard) Shard {
	stored := Shard{Epoch: m.main.Epoch, Revision: s.revision, Key: m.main.Key}
	for a, l := range s.lines {
		due, out := m.whereabouts(l.task)
		stored.Lines = append(stored.Lines, Line{Actor: a.key, First: l.task.sequence, Attempts: l.task.attempts, Due: due, Out: out})
	}
	slices.SortFunc(stored.Lines, func(a, b Line) int { return cmp.Compare(a.First, b.First) })
	for _, sequence := range slices.Sorted(maps.Keys(s.parked)) {
		t := s.parked[sequence]
		due, out := m.whereabouts(t)
		stored.Parked = append(stored.Parked, Parked{
			Sequence: sequence, Actor: t.actor.key, Attempts: t.attempts, Reason: t.reason, At: t.at.UTC().Round(0), Replaying: t.replaying, Request: t.request, Due: due, Out: out,
		})
	}
	return stored
}

func (m *Machine) whereabouts(t *task) (due time.Time, out string) {
	if !t.due.IsZero() && t.holder == nil {
		due = t.due.Add(m.config.Offset).UTC().Round(0)
	}
	if t.holder != nil {
		out = t.holder.id
	}
	return due, out
}

// ShardCommitted says that the last write of a shard is stored.
func (m *Machine) ShardCommitted(now time.Time, number int) {
	m.now = now
	s := m.shards[number]
	m.main.Stored.Add(number)
	s.measure()
	m.lease(s.sent)
	s.committed()
	m.schedule()
}

// Finds are what is to be found.
func (m *Machine) Finds() []Find {
	finds := m.finds
	m.finds = nil
	return finds
}

// Messages are what is to be said, in order.
func (m *Machine) Messages() []ToMember {
	messages := m.messages
	m.messages = nil
	return messages
}
