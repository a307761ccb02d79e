package group

import (
	"cmp"
	"slices"
	"time"
)

// Member is what a member knows. It is for one goroutine at a time.
type Member struct {
	id            string
	ackWait       time.Duration
	maxDeliveries int
	room          int
	// active: the application asks for events. waiting is how many times it does just
	// now, and asking when it did last.
	active  bool
	waiting int
	asking  time.Time
	// releases: it has given back what it had not begun, and not asked since.
	releases bool
	// epoch and coordinator are those of the record.
	epoch       uint64
	coordinator string
	// seen is the number of the last message of it, heard when it came, and sent when
	// the last pings were sent, by number.
	seen  uint64
	heard time.Time
	ping  uint64
	sent  [16]time.Time
	// pinged is when, and hurry that there is something to tell at once.
	pinged time.Time
	hurry  bool
	line   []*Delivery
	hand   map[uint64]*Delivery
	// expired are those whose time was over, until the coordinator has heard; late
	// those that can still be acknowledged, and acked those that were.
	expired     []*Delivery
	late, acked recent
	never       []uint64
	asked       map[uint64]*asked
	last        uint64
	departed    []Leave
	// ended: it hands out nothing more, and had left.
	ended bool
	left  []Held
}

// Delivery is an event that a member was given.
type Delivery struct {
	Deliver
	// since is the number of the last ping before it came, and confirmed when the
	// ping was sent on whose answer it counts.
	since     uint64
	confirmed time.Time
	// until is when the time of its application is over, and asking how many requests
	// about it are not answered.
	until  time.Time
	asking int
}

// asked is a request that is not answered.
type asked struct {
	request Request
	sent    time.Time
	epoch   uint64
	began   time.Time
	answer  func(Answer)
	// forgotten: nobody waits for the answer.
	forgotten bool
}

// NewMember makes a member that takes so many events at once.
func NewMember(id string, room int, ackWait time.Duration, maxDeliveries int) *Member {
	return &Member{
		id: id, room: room, ackWait: ackWait, maxDeliveries: maxDeliveries, hand: map[uint64]*Delivery{}, asked: map[uint64]*asked{},
		late: recent{}, acked: recent{},
	}
}

// Follow says who coordinates, as the record has it.
func (m *Member) Follow(now time.Time, epoch uint64, coordinator string) {
	if epoch == m.epoch && coordinator == m.coordinator {
		return
	}
	m.epoch, m.coordinator, m.seen, m.heard, m.hurry = epoch, coordinator, 0, now, true
	m.never = nil
	// What an earlier coordinator has given counts once this one has said so.
	for _, d := range m.line {
		d.confirmed = time.Time{}
	}
}

// Silent says whether nothing was heard of the coordinator for so long that
// another may take its place.
func (m *Member) Silent(now time.Time) bool { return now.Sub(m.heard) > Stale }

// Coordinator is who the member follows.
func (m *Member) Coordinator() string { return m.coordinator }

// Enter says that the application asks for an event, and Exit that it does not
// wait any more.
func (m *Member) Enter(now time.Time) {
	m.waiting++
	m.asking, m.releases = now, false
	if !m.active && !m.ended {
		m.active, m.hurry = true, true
	}
}

// Exit ends what Enter began.
func (m *Member) Exit(now time.Time) {
	m.waiting--
	m.asking = now
	m.yield()
}

// rest lets others have what the application does not come for.
func (m *Member) rest(now time.Time) {
	if m.active && m.waiting == 0 && now.Sub(m.asking) >= m.ackWait {
		m.active, m.line, m.hurry = false, nil, true
	}
}

// Depart tells of a member that has ended without being able to say so.
func (m *Member) Depart(gone []Leave) {
	m.departed = gone
	m.hurry = m.hurry || len(gone) > 0
}

// Hear takes what a coordinator says. It answers false for what is of another
// one than the record had: it is to be read again.
func (m *Member) Hear(now time.Time, said ToMember) bool {
	if said.Epoch != m.epoch || said.Coordinator != m.coordinator || said.Member != m.id {
		return said.Epoch <= m.epoch || said.Member != m.id
	}
	if said.Number <= m.seen {
		return true
	}
	m.seen, m.heard = said.Number, now
	sent := time.Time{}
	if said.Ping+uint64(len(m.sent)) > m.ping && said.Ping <= m.ping {
		// The word of a coordinator counts from its last write on, which was sent later
		// than this.
		sent = m.sent[said.Ping%uint64(len(m.sent))].Add(-said.Age)
	}
	if said.Pong {
		m.confirm(sent, said.Ping, said.Drop)
		m.remember(said.Ask)
	}
	if said.Deliver != nil && m.active && !m.ended && now.Sub(sent) < Stale {
		m.deliver(sent, *said.Deliver)
	}
	if said.Answer != nil {
		m.answered(now, *said.Answer)
	}
	return true
}

// confirm takes the answer to a ping that was sent at a time.
func (m *Member) confirm(sent time.Time, ping uint64, drop []Held) {
	dropped := func(d *Delivery) bool {
		return d.since < ping && slices.ContainsFunc(drop, func(h Held) bool { return h.Sequence == d.Sequence && h.Attempt == d.Attempt })
	}
	m.line = slices.DeleteFunc(m.line, dropped)
	m.expired = slices.DeleteFunc(m.expired, dropped)
	for sequence, d := range m.hand {
		if dropped(d) {
			delete(m.hand, sequence)
			m.late.add(sequence, d.Attempt)
		}
	}
	for _, d := range m.line {
		if d.since < ping {
			d.confirmed = sent
		}
	}
	m.departed = nil
}

// remember says of events whether the member ever gave them to its application.
func (m *Member) remember(ask []Held) {
	m.never = nil
	for _, h := range ask {
		is := func(d *Delivery) bool { return d.Sequence == h.Sequence }
		if m.hand[h.Sequence] != nil || slices.ContainsFunc(m.line, is) || slices.ContainsFunc(m.expired, is) {
			continue
		}
		m.hurry = true
		if attempt, had := m.late[h.Sequence]; had && attempt >= h.Attempt {
			m.expired = append(m.expired, &Delivery{Deliver: Deliver{Sequence: h.Sequence, Attempt: h.Attempt}, since: m.ping})
		} else {
			m.never = append(m.never, h.Sequence)
		}
	}
}

func (m *Member) deliver(sent time.Time, given Deliver) {
	is := func(d *Delivery) bool { return d.Sequence == given.Sequence }
	m.line = slices.DeleteFunc(m.line, is)
	if old := m.hand[given.Sequence]; old != nil {
		delete(m.hand, given.Sequence)
	}
	m.line = append(m.line, &Delivery{Deliver: given, since: m.ping, confirmed: sent})
}

// Next gives the application an event. It answers nil where there is none that
// the coordinator has said to be its lately.
func (m *Member) Next(now time.Time) *Delivery {
	for i, d := range m.line {
		if now.Sub(d.confirmed) < Stale && !m.acknowledges(d.Sequence) {
			m.line = slices.Delete(m.line, i, i+1)
			d.until = now.Add(m.ackWait)
			m.hand[d.Sequence] = d
			return d
		}
	}
	return nil
}

// Kept is what the events take that no application was given.
func (m *Member) Kept() int {
	bytes := 0
	for _, d := range m.line {
		bytes += d.Size
	}
	return bytes
}

// PutBack takes an event from the application that it could not be given after
// all.
func (m *Member) PutBack(d *Delivery) {
	if m.hand[d.Sequence] == d {
		delete(m.hand, d.Sequence)
		d.Size = 0
		m.line = slices.Insert(m.line, 0, d)
	}
}

// Release gives events back that the application has not begun, and what is in line
// for it, unless it asks for more.
func (m *Member) Release(sequences ...uint64) {
	for _, sequence := range sequences {
		delete(m.hand, sequence)
	}
	m.hurry, m.releases = true, true
	m.yield()
}

// yield lets others have what is in line, once the application asks no more.
func (m *Member) yield() {
	if m.releases && m.waiting == 0 {
		m.active, m.line, m.hurry, m.releases = false, nil, true, false
	}
}

// InHand says whether an event is still the one that the application was to be
// given, and its time is not over.
func (m *Member) InHand(now time.Time, d *Delivery) bool {
	return m.hand[d.Sequence] == d && d.until.After(now)
}

// Tick lets time pass, and answers what is to be said. It is called at Wake at
// the latest.
func (m *Member) Tick(now time.Time) []ToCoordinator {
	m.rest(now)
	for sequence, d := range m.hand {
		if d.asking == 0 && !d.until.After(now) {
			delete(m.hand, sequence)
			m.late.add(sequence, d.Attempt)
			d.since = m.ping
			m.expired = append(m.expired, d)
			m.hurry = true
		}
	}
	if m.coordinator == "" {
		return nil
	}
	var say []ToCoordinator
	// The coordinator must know of this one before it asks.
	if m.hurry || now.Sub(m.pinged) >= PingInterval {
		say = append(say, ToCoordinator{Epoch: m.epoch, Member: m.id, Ping: m.makePing(now)})
	}
	var due []uint64
	for id, a := range m.asked {
		if a.epoch != m.epoch || now.Sub(a.sent) >= PingInterval {
			a.epoch, a.sent = m.epoch, now
			due = append(due, id)
		}
	}
	slices.Sort(due)
	for _, id := range due {
		request := m.asked[id].request
		say = append(say, ToCoordinator{Epoch: m.epoch, Member: m.id, Request: &request})
	}
	return say
}

func (m *Member) makePing(now time.Time) *Ping {
	m.hurry, m.pinged = false, now
	m.ping++
	m.sent[m.ping%uint64(len(m.sent))] = now
	ping := &Ping{Number: m.ping, Seen: m.seen, AckWait: m.ackWait, MaxDeliveries: m.maxDeliveries, Have: m.have(), Gone: m.departed, Never: m.never}
	if m.active {
		ping.Room = m.room
	}
	for _, d := range m.expired {
		ping.Expired = append(ping.Expired, Held{Sequence: d.Sequence, Attempt: d.Attempt})
	}
	return ping
}

func (m *Member) have() []Held {
	if m.ended {
		return m.left
	}
	var have []Held
	for _, d := range m.line {
		have = append(have, Held{Sequence: d.Sequence, Attempt: d.Attempt})
	}
	for _, d := range m.hand {
		have = append(have, Held{Sequence: d.Sequence, Attempt: d.Attempt, Started: true})
	}
	for _, d := range m.expired {
		have = append(have, Held{Sequence: d.Sequence, Attempt: d.Attempt, Started: true})
	}
	slices.SortFunc(have, func(a, b Held) int { return cmp.Compare(a.Sequence, b.Sequence) })
	return have
}

// End lets go of all that the member has, and answers what that was. It hands out
// nothing more.
func (m *Member) End() Leave {
	left := Leave{Member: m.id, Have: m.have()}
	// A ping that is on its way first says the same.
	m.ended, m.left = true, left.Have
	m.line, m.expired, m.active = nil, nil, false
	clear(m.hand)
	return left
}

// Wake is when Tick is to be called at the latest.
func (m *Member) Wake(now time.Time) time.Time {
	if m.coordinator == "" {
		return now.Add(PingInterval)
	}
	if m.hurry {
		return now
	}
	wake := m.pinged.Add(PingInterval)
	for _, d := range m.hand {
		if d.asking == 0 {
			wake = earlier(wake, d.until)
		}
	}
	for _, a := range m.asked {
		if a.epoch != m.epoch {
			return now
		}
		wake = earlier(wake, a.sent.Add(PingInterval))
	}
	return wake
}
