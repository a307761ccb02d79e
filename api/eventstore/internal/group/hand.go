package group

import (
	"container/heap"
	"time"
)

// schedule hands out what can be.
func (m *Machine) schedule() {
	for !m.closing && len(m.turn) > 0 {
		t := m.turn[0]
		if !m.eligible(t) || t.due.After(m.now) {
			heap.Pop(&m.turn)
			t.queued = false
			m.offer(t)
			continue
		}
		if t.attempts >= m.main.MaxDeliveries {
			// An earlier coordinator did not come to it, or the limit was lowered.
			heap.Pop(&m.turn)
			t.queued = false
			t.due = m.now.Add(held)
			m.park(t, "it was delivered as often as it may be, and never acknowledged")
			continue
		}
		p := m.room(t.expired)
		if p == nil {
			return
		}
		heap.Pop(&m.turn)
		t.queued = false
		m.assign(t, p)
	}
}

// room is the member with the most room, nil where none has any. One is the last
// choice: it has had the event, and let its time pass.
func (m *Machine) room(last string) *peer {
	var best *peer
	most := 0
	for _, p := range m.peers {
		free := p.room - len(p.held)
		if free <= 0 || m.now.Sub(p.heard) > fresh {
			continue
		}
		if best == nil || best.id == last || p.id != last && (free > most || free == most && p.id < best.id) {
			best, most = p, free
		}
	}
	return best
}

// assign chooses a member for a task. It is given to it once that is written.
func (m *Machine) assign(t *task, p *peer) {
	p.take(t)
	t.attempts++
	t.claiming = true
	t.claim++
	claim := t.claim
	var give func()
	give = func() {
		if m.agreed > m.committed {
			// Who follows must know for how long a member may have it.
			m.record.after(give)
			return
		}
		if t.holder == p && t.claim == claim {
			t.claiming = false
			m.deliver(p, t)
		}
	}
	if t.kind == window {
		m.main.Top = max(m.main.Top, t.sequence)
		m.record.dirty = true
		m.record.after(give)
		return
	}
	s := t.actor.shard
	s.dirty = true
	s.after(give)
	if t.kind == waiting {
		m.find(t.actor)
	}
}

// release takes a task from its holder.
func (m *Machine) release(t *task) {
	if t.holder != nil {
		delete(t.holder.held, t.sequence)
	}
	t.holder, t.claiming, t.delivered = nil, false, 0
}

// unstarted takes back what no application has seen.
func (m *Machine) unstarted(t *task) {
	m.release(t)
	t.attempts = max(t.attempts-1, 0)
	t.due = time.Time{}
	if t.kind != window && t.actor != nil {
		t.actor.shard.dirty = true
	}
	m.offer(t)
}

// back takes back what an application has had and did not settle.
func (m *Machine) back(t *task, due time.Time, reason string) bool {
	m.release(t)
	switch {
	case t.actor == nil:
		// It goes on when it is read.
		return true
	case t.attempts >= m.main.MaxDeliveries:
		return m.park(t, reason)
	case t.kind == window && t.actor.line == nil:
		if !m.fitsLine(t.actor) {
			m.offer(t)
			return false
		}
		t.due = due
		m.makeLine(t)
	default:
		t.due = due
		t.actor.shard.dirty = true
		m.offer(t)
	}
	return true
}
