package group

import (
	"slices"
	"time"
)

// attempt is that of an event that the application has or had.
func (m *Member) attempt(sequence uint64) (attempt int, late, had bool) {
	if d := m.hand[sequence]; d != nil {
		return d.Attempt, false, true
	}
	attempt, had = m.late[sequence]
	return attempt, true, had
}

// Ask sends a request about an event or the group. The answer comes later, or at
// once where the member knows it. It answers the number of the request.
func (m *Member) Ask(now time.Time, r Request, answer func(Answer)) uint64 {
	switch r.Kind {
	case KindAck, KindNak, KindExtend, KindPark:
		attempt, late, had := m.attempt(r.Sequence)
		if _, acked := m.acked[r.Sequence]; r.Kind == KindAck && acked {
			answer(Answer{})
			return 0
		}
		if !had || late && r.Kind != KindAck {
			answer(Answer{Code: CodeNotInHand})
			return 0
		}
		r.Attempt, r.Late = attempt, late
		if d := m.hand[r.Sequence]; d != nil {
			d.asking++
		}
	}
	m.last++
	r.ID = m.last
	m.asked[r.ID] = &asked{request: r, answer: answer, began: now}
	return r.ID
}

// maxForgotten bounds the requests of a member while it asks on for what was given up.
const maxForgotten = 256

// acknowledges says whether an acknowledgement of an event is not answered. It may be
// done by it, though another delivery of it is here.
func (m *Member) acknowledges(sequence uint64) bool {
	for _, a := range m.asked {
		if a.request.Kind == KindAck && a.request.Sequence == sequence {
			return true
		}
	}
	return false
}

// Forget gives up a request. An acknowledgement is asked for on, up to so many, since
// it may have been done.
func (m *Member) Forget(id uint64) {
	a := m.asked[id]
	if a == nil {
		return
	}
	a.answer, a.forgotten = func(Answer) {}, true
	if a.request.Kind != KindAck || len(m.asked) > maxForgotten {
		delete(m.asked, id)
	}
	if d := m.hand[a.request.Sequence]; d != nil && d.Attempt == a.request.Attempt {
		d.asking = max(d.asking-1, 0)
	}
}

func (m *Member) answered(now time.Time, answer Answer) {
	a := m.asked[answer.Request]
	if a == nil {
		return
	}
	delete(m.asked, answer.Request)
	r := a.request
	d := m.hand[r.Sequence]
	if d != nil && d.Attempt == r.Attempt && r.Sequence != 0 {
		if !a.forgotten {
			d.asking = max(d.asking-1, 0)
		}
		switch {
		case answer.Code == CodeDone && r.Kind == KindExtend:
			// The answer may be about an earlier delivery, which did not count.
			if until := a.began.Add(m.ackWait); until.After(d.until) {
				d.until = until
			}
		case answer.Code != CodeFull:
			// Acknowledged after all, it is done as long as nobody else has it.
			delete(m.hand, r.Sequence)
			m.late.add(r.Sequence, r.Attempt)
		}
	}
	if r.Kind == KindAck && answer.Code == CodeDone {
		m.acked.add(r.Sequence, r.Attempt)
		delete(m.late, r.Sequence)
		// It may have been given to this member once more before it was heard of.
		m.line = slices.DeleteFunc(m.line, func(d *Delivery) bool { return d.Sequence == r.Sequence })
		delete(m.hand, r.Sequence)
	}
	a.answer(answer)
}

// maxRecent bounds what a member remembers of what it had.
const maxRecent = 4096

// recent are attempts by sequence, some of the newest.
type recent map[uint64]int

func (r recent) add(sequence uint64, attempt int) {
	if len(r) >= maxRecent {
		for old := range r {
			delete(r, old)
			if len(r) < maxRecent/2 {
				break
			}
		}
	}
	r[sequence] = attempt
}
