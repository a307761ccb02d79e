package group

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"
)

// peer is a member as the coordinator knows it.
type peer struct {
	id   string
	room int
	held map[uint64]*task
	// heard is when it was heard of last, and ping the number of that.
	heard time.Time
	ping  uint64
	// seen is the number of the last message that it has had.
	seen uint64
	// ackWait is how long its application may have an event, 0 where that is not known.
	ackWait time.Duration
	// unstarted is how many events it has that its application was not given.
	unstarted int
	// met: it has pinged this coordinator.
	met bool
	// pending are its requests that are answered once something is written.
	pending map[uint64]bool
}

func (p *peer) take(t *task) {
	t.holder = p
	p.held[t.sequence] = t
}

// peer is a member, which counts as heard of when it is met first.
func (m *Machine) peer(id string) *peer {
	p := m.peers[id]
	if p == nil {
		p = &peer{id: id, held: map[uint64]*task{}, heard: m.now, pending: map[uint64]bool{}}
		m.peers[id] = p
	}
	return p
}

// maxGone bounds how many members that have ended are remembered.
const maxGone = 1024

// part forgets a member that has ended. What its application was given counts as
// delivered: all that it has, where that is not known.
func (m *Machine) part(p *peer, have []Held, unknown bool) {
	started := map[uint64]bool{}
	for _, h := range have {
		started[h.Sequence] = h.Started
	}
	for _, sequence := range slices.Sorted(maps.Keys(p.held)) {
		t := p.held[sequence]
		if did, listed := started[sequence]; !t.claiming && (unknown || did || !listed && t.delivered == 0) {
			if !m.back(t, time.Time{}, "its member ended, and had not acknowledged it") {
				m.release(t)
			}
			continue
		}
		m.unstarted(t)
	}
	delete(m.peers, p.id)
	m.waitLongest()
	if unknown {
		// It may come back.
		return
	}
	if len(m.gone) >= maxGone {
		clear(m.gone)
	}
	m.gone[p.id] = true
}

// Hear takes what a member says.
func (m *Machine) Hear(now time.Time, said ToCoordinator) {
	m.now = now
	if said.Epoch != m.main.Epoch || said.Member == "" || m.gone[said.Member] {
		return
	}
	if said.Request != nil && said.Request.Kind == KindStatus {
		// Who asks need not be a member.
		status := m.Status()
		m.messages = append(m.messages, ToMember{
			Epoch: m.main.Epoch, Coordinator: m.main.Coordinator, Member: said.Member, Answer: &Answer{Request: said.Request.ID, Status: &status},
		})
		return
	}
	p := m.peer(said.Member)
	if said.Ping != nil && said.Ping.Number > p.ping {
		m.pinged(p, said.Ping)
	}
	if said.Request != nil {
		m.requested(p, said.Request)
	}
	m.schedule()
}

func (m *Machine) pinged(p *peer, said *Ping) {
	p.heard, p.ping, p.seen = m.now, said.Number, said.Seen
	p.room = said.Room
	if !p.met {
		p.met = true
		m.agree(p, said)
	}
	for _, gone := range said.Gone {
		if g := m.peers[gone.Member]; g != nil && g != p {
			m.part(g, gone.Have, false)
		}
	}
	var drop []Held
	listed := map[uint64]bool{}
	p.unstarted = 0
	for _, h := range said.Have {
		t := m.tasks[h.Sequence]
		if t == nil || t.holder != p || t.claiming || t.attempts != h.Attempt {
			drop = append(drop, h)
			continue
		}
		listed[h.Sequence] = true
		if !h.Started {
			p.unstarted++
		}
	}
	for _, h := range said.Expired {
		drop = append(drop, h)
		if t := m.tasks[h.Sequence]; t != nil && t.holder == p && !t.claiming && t.attempts == h.Attempt {
			listed[h.Sequence] = true
			t.expired = p.id
			m.back(t, time.Time{}, "it was not acknowledged in time")
		}
	}
	m.say(p, ToMember{Pong: true, Drop: drop, Ask: m.lost(p, said, listed)})
}

// lost takes back what the member was to be given and has not had. Of what an
// earlier coordinator has given it, it is asked.
func (m *Machine) lost(p *peer, said *Ping, listed map[uint64]bool) []Held {
	var ask []Held
	for _, sequence := range slices.Sorted(maps.Keys(p.held)) {
		t := p.held[sequence]
		switch {
		case listed[sequence] || t.claiming:
		case t.delivered == 0 && !slices.Contains(said.Never, sequence):
			ask = append(ask, Held{Sequence: sequence, Attempt: t.attempts})
		case p.seen >= t.delivered:
			// It has had what came after.
			m.unstarted(t)
		}
	}
	return ask
}

// agree takes over what a member wants that is met. The newest says how often an event is
// delivered.
func (m *Machine) agree(p *peer, said *Ping) {
	p.ackWait = said.AckWait
	m.waitLongest()
	if said.MaxDeliveries > 0 && said.MaxDeliveries != m.main.MaxDeliveries {
		m.main.MaxDeliveries = said.MaxDeliveries
		m.record.dirty = true
	}
}

// ackWait is how long a member keeps what it has when it is silent.
func (m *Machine) ackWait(p *peer) time.Duration { return cmp.Or(p.ackWait, m.main.AckWait) }

// waitLongest has the record say the longest AckWait of the members that there are.
func (m *Machine) waitLongest() {
	var longest time.Duration
	for _, p := range m.peers {
		longest = max(longest, m.ackWait(p))
	}
	if longest > 0 && longest != m.main.AckWait {
		m.main.AckWait, m.agreed = longest, m.main.Revision+1
		m.record.dirty = true
	}
}

func (m *Machine) say(p *peer, what ToMember) {
	m.said++
	what.Epoch, what.Coordinator, what.Member = m.main.Epoch, m.main.Coordinator, p.id
	what.Number, what.Ping = m.said, p.ping
	if !m.config.Alone {
		what.Age = max(m.now.Sub(m.leased), 0)
	}
	m.messages = append(m.messages, what)
}

func (m *Machine) deliver(p *peer, t *task) {
	t.delivered = m.said + 1
	m.say(p, ToMember{Deliver: &Deliver{Sequence: t.sequence, Attempt: t.attempts, Actor: t.actor.key, Payload: t.payload}})
}

// requested does what a member asks for. It may be asked again, and does then
// what is missing.
func (m *Machine) requested(p *peer, r *Request) {
	if p.pending[r.ID] {
		// It is said again until it is answered.
		return
	}
	answer := func(code string, count int) {
		delete(p.pending, r.ID)
		m.say(p, ToMember{Answer: &Answer{Request: r.ID, Code: code, Count: count}})
	}
	done := func() { answer(CodeDone, 0) }
	switch r.Kind {
	case KindReplay:
		p.pending[r.ID] = true
		m.replay(fmt.Sprintf("%s %d", p.id, r.ID), r.Sequences, func(count int) { answer(CodeDone, count) })
		return
	case KindLeave:
		m.part(p, r.Have, false)
		done()
		return
	}
	t := m.tasks[r.Sequence]
	if t == nil {
		m.unknown(r, answer)
		return
	}
	switch r.Kind {
	case KindAck:
		if t.settled || t.holder == p || r.Late && t.holder == nil && m.handed(t) {
			p.pending[r.ID] = true
			m.settle(t, done)
			return
		}
	case KindNak, KindPark:
		m.nak(p, t, r, answer)
		return
	case KindExtend:
		if t.holder == p && t.attempts == r.Attempt {
			done()
			return
		}
	}
	answer(CodeNotInHand, 0)
}

// handed says whether an event was given to somebody: it is first of its actor.
func (m *Machine) handed(t *task) bool {
	if t.actor == nil {
		return t.attempts > 0
	}
	return !t.moving && (t.kind == parked && t.replaying || t.kind != parked && t.actor.head() == t)
}

// unknown answers for an event that is not outstanding: it is settled, or nobody
// was given it.
func (m *Machine) unknown(r *Request, answer func(string, int)) {
	switch {
	case r.Kind == KindAck && r.Sequence <= max(m.read, m.loaded) && !m.open[r.Sequence]:
		answer(CodeDone, 0)
	case m.open[r.Sequence]:
		// It is not read yet. It is asked again.
	default:
		answer(CodeNotInHand, 0)
	}
}

// hasRoom says whether an event can be given back or parked. Where it cannot, it stays
// in hand.
func (m *Machine) hasRoom(t *task, r *Request) bool {
	switch {
	case t.kind == parked:
		return true
	case r.Kind == KindPark || t.attempts >= m.main.MaxDeliveries:
		return m.fits(t.actor.shard, parkedBytes(t.actor.key, ClipReason(r.Reason)))
	}
	return t.actor.line != nil || m.fitsLine(t.actor)
}

func (m *Machine) nak(p *peer, t *task, r *Request, answer func(string, int)) {
	written := func() {
		if t.actor != nil {
			p.pending[r.ID] = true
			t.actor.shard.after(func() { answer(CodeDone, 0) })
		}
	}
	switch {
	case t.actor == nil || t.settled:
		// It is not read yet. It is asked again.
	case t.holder == p && t.attempts == r.Attempt && !t.claiming && !m.hasRoom(t, r):
		answer(CodeFull, 0)
	case t.holder == p && t.attempts == r.Attempt && !t.claiming:
		if r.Kind == KindPark {
			m.release(t)
			if m.park(t, r.Reason) {
				written()
			}
			return
		}
		due := time.Time{}
		if r.Delay > 0 {
			due = m.now.Add(r.Delay)
		}
		m.back(t, due, r.Reason)
		written()
	case t.holder == nil && t.attempts == r.Attempt:
		// It was given back already.
		written()
	default:
		answer(CodeNotInHand, 0)
	}
}
