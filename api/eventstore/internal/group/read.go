package group

import (
	"slices"
	"time"
)

// Arrived takes an event that was read. They come in the order of sequences, from
// Main.First on.
func (m *Machine) Arrived(now time.Time, a Arrival) {
	m.now = now
	if a.Sequence <= m.read {
		return
	}
	m.read = a.Sequence
	m.erased(a.Sequence)
	t := m.tasks[a.Sequence]
	if t == nil && a.Sequence <= m.loaded && !m.open[a.Sequence] || t != nil && t.actor == nil && t.settled {
		return
	}
	delete(m.open, a.Sequence)
	if a.Sequence > m.main.MarkSequence {
		m.main.MarkSequence, m.main.MarkTime = a.Sequence, a.At
	}
	if t != nil && t.actor != nil {
		m.passAhead(a.Sequence)
		return
	}
	if t == nil {
		t = &task{sequence: a.Sequence, windowed: true, passed: never}
		m.tasks[a.Sequence] = t
	} else {
		m.early = m.early[1:]
	}
	m.enter(t, a)
	m.schedule()
}

// Skip says that nothing comes up to a sequence that was not read.
func (m *Machine) Skip(now time.Time, through uint64) {
	m.now = now
	if through <= m.read {
		return
	}
	m.erased(through + 1)
	m.read = through
	m.schedule()
}

// erased drops what is not stored any more: what comes after it was read.
func (m *Machine) erased(read uint64) {
	m.passAhead(read - 1)
	for len(m.early) > 0 && m.early[0].sequence < read {
		t := m.early[0]
		m.early = m.early[1:]
		m.release(t)
		m.settleEarly(t)
	}
	for len(m.unreadOpen) > 0 && m.unreadOpen[0] < read {
		sequence := m.unreadOpen[0]
		m.unreadOpen = m.unreadOpen[1:]
		if m.open[sequence] {
			// Else a line took it for one that is still to be read, and ended before it.
			delete(m.open, sequence)
			m.record.dirty = true
		}
	}
}

// passAhead has the next write of Main pass what shards have, up to a sequence.
func (m *Machine) passAhead(through uint64) {
	for len(m.ahead) > 0 && m.ahead[0].sequence <= through {
		t := m.ahead[0]
		m.ahead = m.ahead[1:]
		m.main.Top = max(m.main.Top, t.sequence)
		m.record.dirty = true
		t.passed = m.main.Revision + 1
	}
}

// enter puts an event into the window.
func (m *Machine) enter(t *task, a Arrival) {
	of := m.actor(a.Actor)
	t.actor, t.read = of, m.now
	if m.bytes+a.Size <= m.config.WindowBytes {
		t.payload, t.size = a.Payload, a.Size
		m.bytes += t.size
	}
	of.queue = append(of.queue, t)
	m.window = append(m.window, t)
	m.live++
	if of.line != nil {
		m.behindTop = max(m.behindTop, t.sequence)
	}
	switch {
	case a.Unreadable != "":
		m.release(t)
		m.park(t, "it is no event: "+a.Unreadable)
	case t.holder == nil && t.attempts > 0:
		// Its member is gone.
		m.back(t, time.Time{}, "its member ended, and had not acknowledged it")
	default:
		m.offer(of.head())
	}
}

// leave takes a task out of the window: the next write of Main passes it.
func (m *Machine) leave(t *task) {
	if !t.windowed {
		return
	}
	t.windowed, t.passed = false, m.main.Revision+1
	m.bytes -= t.size
	t.size, t.payload = 0, nil
	m.live--
	m.main.Top = max(m.main.Top, t.sequence)
	m.record.dirty = true
	a := t.actor
	if at := slices.Index(a.queue, t); at >= 0 {
		a.queue = slices.Delete(a.queue, at, at+1)
	}
	if len(m.window) > 2*m.live+64 {
		m.window = slices.DeleteFunc(m.window, func(t *task) bool { return !t.windowed })
	}
}
