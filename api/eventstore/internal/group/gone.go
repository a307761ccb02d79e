package group

import (
	"cmp"
	"slices"
	"time"
)

// Later are events that are the first of a line and due later, each with its actor: some of
// them, in turn. One that is not stored any more need not be waited for, see Gone.
func (m *Machine) Later(most int) []Find {
	var later []Find
	for _, s := range m.shards {
		for a, l := range s.lines {
			if l.task.holder == nil && l.task.due.After(m.now) {
				later = append(later, Find{a.key, l.task.sequence - 1})
			}
		}
	}
	slices.SortFunc(later, func(a, b Find) int { return cmp.Compare(a.After, b.After) })
	at, _ := slices.BinarySearchFunc(later, m.looked, func(f Find, looked uint64) int { return cmp.Compare(f.After, looked) })
	later = append(later[at:], later[:at]...)
	later = later[:min(most, len(later))]
	if len(later) > 0 {
		m.looked = later[len(later)-1].After + 1
	}
	return later
}

// Gone says that an event of Later is not stored any more: its actor goes on.
func (m *Machine) Gone(now time.Time, f Find) {
	m.now = now
	if a := m.actors[f.Actor]; a != nil && a.line != nil && a.line.task.sequence == f.After+1 && a.line.task.holder == nil && !a.line.task.moving {
		m.settle(a.line.task, func() {})
	}
	m.schedule()
}
