package group

import (
	"cmp"
	"container/heap"
	"maps"
	"math"
	"slices"
	"time"
)

// Config bounds a Machine. New fills in what is left out.
type Config struct {
	// Window is how many events are read ahead, and WindowBytes how much of them is
	// kept; of the rest the sequence alone is.
	Window, WindowBytes int
	// ShardBytes is how large a shard may be until no more events are read, and
	// MaxShardBytes until nothing more is put into it.
	ShardBytes, MaxShardBytes int
	// Aside is how many actors may wait and events be parked until no more are read.
	// Each takes some 800 bytes of memory, and half of that more while another takes
	// over.
	Aside int
	// Offset is how far the clock of the server is ahead of this one: times in
	// records are the server's.
	Offset time.Duration
	// Leased is when the write that made this the coordinator was sent. Alone says
	// that there is no other, and never will be.
	Leased time.Time
	Alone  bool
}

// Times that coordinators and members go by.
const (
	// PingInterval is how often a member says that it is there.
	PingInterval = 500 * time.Millisecond
	// Stale is how long after a ping its answer counts. A member hands out nothing on
	// the word of a coordinator that may have been followed by another.
	Stale = 3 * time.Second
	// fresh is how long a member counts as there after a ping.
	fresh = Stale / 2
	// held is how long an event holds up what is settled above it; then it is
	// remembered apart.
	held = 5 * time.Second
	// patience is how long a full window waits for the actor that fills it.
	patience = 2 * time.Second
)

// Machine is what the coordinator of a group knows. It is for one goroutine at
// a time. Whatever it is told may make it want writes and messages: see Main,
// Shards, Finds and Messages.
type Machine struct {
	config Config
	main   Main
	record record
	// committed is the revision of Main that is stored, and sentTop the Top of the last
	// that was written.
	committed, sentTop uint64
	// agreed is the revision of Main that has the AckWait of today.
	agreed uint64
	now    time.Time
	// read is the last sequence that was read, loaded the Top at the start, and open
	// and early what was outstanding then and is not read yet; early has a task.
	read, loaded uint64
	open         map[uint64]bool
	// unreadOpen is open in order, from read on.
	unreadOpen Sequences
	early      []*task
	// ahead is what shards have of events after the Top at the start, in order: Main
	// passes it once they are read, or turn out to be erased.
	ahead []*task
	// looked is from where on Later goes on.
	looked uint64
	// behindTop is the last sequence of an actor that waits.
	behindTop uint64
	window    []*task
	live      int
	bytes     int
	tasks     map[uint64]*task
	actors    map[string]*actor
	shards    [ShardCount]*shard
	parked    int
	turn      byTurn
	late      byDue
	// unpassed are lines whose first is settled and that wait for Main.
	unpassed []*line
	unparked []*task
	peers    map[string]*peer
	gone     map[string]bool
	finds    []Find
	messages []ToMember
	// said is how much was said, to all members.
	said uint64
	// used are the shards that the stored Main has in use, sent those of the last write.
	used, sent Bits
	// leased is when the last write that is stored was sent, and mainSent when the last
	// of Main was.
	leased, mainSent time.Time
	// closing: no more is handed out; leaving: the last write is under way.
	closing, leaving, closed bool
}

// Find asks for the first event of an actor after a sequence, which need not be one of the
// actor.
type Find struct {
	Actor string
	After uint64
}

// Arrival is an event that was read.
type Arrival struct {
	Sequence uint64
	Actor    string
	Payload  any
	Size     int
	At       time.Time
	// Unreadable says why a message is no event.
	Unreadable string
}

// New starts a coordinator: main is its own record, stored already, and shards
// are those in use, each written by it.
func New(config Config, main Main, shards map[int]Shard, now time.Time) *Machine {
	if config.Window == 0 {
		config.Window = 4096
	}
	if config.WindowBytes == 0 {
		config.WindowBytes = 16 << 20
	}
	if config.MaxShardBytes == 0 {
		config.MaxShardBytes = 900 << 10
	}
	if config.Aside == 0 {
		config.Aside = 20_000
	}
	if config.ShardBytes == 0 {
		config.ShardBytes = config.MaxShardBytes / 2
	}
	m := &Machine{
		config: config, main: main, committed: main.Revision, sentTop: main.Top, loaded: main.Top, now: now, read: main.First() - 1,
		used: main.Shards, leased: config.Leased, open: map[uint64]bool{}, tasks: map[uint64]*task{}, actors: map[string]*actor{}, peers: map[string]*peer{}, gone: map[string]bool{},
	}
	m.unreadOpen = sorted(slices.Clone(main.Open))
	for _, sequence := range m.unreadOpen {
		m.open[sequence] = true
	}
	attempts := main.attempts()
	for member, out := range main.Out {
		for _, sequence := range out {
			t := &task{sequence: sequence, attempts: attempts[sequence], windowed: true, passed: never, read: now}
			m.tasks[sequence] = t
			m.early = append(m.early, t)
			if member != "" {
				m.peer(member).take(t)
			}
		}
	}
	slices.SortFunc(m.early, func(a, b *task) int { return cmp.Compare(a.sequence, b.sequence) })
	for number := range ShardCount {
		m.shards[number] = &shard{number: number, lines: map[*actor]*line{}, parked: map[uint64]*task{}}
		if stored, used := shards[number]; used {
			m.main.Stored.Add(number)
			m.load(m.shards[number], stored)
		}
	}
	slices.SortFunc(m.ahead, func(a, b *task) int { return cmp.Compare(a.sequence, b.sequence) })
	return m
}

// load takes over what a shard says. It wins over Main: what Main does not know
// to be passed, it passes once it is read.
func (m *Machine) load(s *shard, stored Shard) {
	defer s.measure()
	s.revision = stored.Revision
	for _, l := range stored.Lines {
		a := m.actor(l.Actor)
		t := m.adopt(l.First, a, waiting, l.Attempts, l.Due, l.Out)
		a.line = &line{task: t, committed: true}
		s.lines[a] = a.line
		m.offer(t)
	}
	for _, p := range stored.Parked {
		t := m.adopt(p.Sequence, m.actor(p.Actor), parked, p.Attempts, p.Due, p.Out)
		t.reason, t.at, t.replaying, t.request = p.Reason, p.At, p.Replaying, p.Request
		s.parked[p.Sequence] = t
		m.parked++
		if t.replaying {
			m.replays(t)
		}
	}
}

func (m *Machine) adopt(sequence uint64, a *actor, k kind, attempts int, due time.Time, out string) *task {
	passed := uint64(0)
	switch {
	case sequence > m.main.Top:
		// Once it is read.
		passed = never
	case m.open[sequence] || m.tasks[sequence] != nil:
		// The next write of Main leaves it out.
		passed = m.main.Revision + 1
		m.record.dirty = true
	}
	delete(m.open, sequence)
	if t := m.tasks[sequence]; t != nil {
		m.release(t)
		m.early = slices.DeleteFunc(m.early, func(e *task) bool { return e == t })
	}
	t := &task{sequence: sequence, actor: a, kind: k, attempts: attempts, passed: passed}
	if !due.IsZero() {
		// So much from now on, also where the clock of this machine is set meanwhile.
		t.due = m.now.Add(due.Add(-m.config.Offset).Sub(m.now))
	}
	m.tasks[sequence] = t
	if passed == never {
		m.ahead = append(m.ahead, t)
	}
	if out != "" {
		m.peer(out).take(t)
	}
	return t
}

func (m *Machine) actor(key string) *actor {
	a := m.actors[key]
	if a == nil {
		a = &actor{key: key, shard: m.shards[ShardOf(key)]}
		m.actors[key] = a
	}
	return a
}

// tidy forgets an actor of which nothing is left.
func (m *Machine) tidy(a *actor) {
	if a.empty() && m.actors[a.key] == a {
		delete(m.actors, a.key)
	}
}

// WantMore says whether more events are to be read.
func (m *Machine) WantMore() bool {
	return !m.closing && m.live < m.config.Window && !m.Full()
}

// Full says whether a shard has become so large that nothing more is read: too
// many actors wait, or too much is parked.
func (m *Machine) Full() bool {
	aside := m.parked
	for _, s := range m.shards {
		if s.bytes > m.config.ShardBytes {
			return true
		}
		aside += len(s.lines)
	}
	return aside >= m.config.Aside
}

// Tick lets time pass. It is called at Wake at the latest.
func (m *Machine) Tick(now time.Time) {
	m.now = now
	for len(m.late) > 0 && !m.late[0].due.After(now) {
		d := heap.Pop(&m.late).(delayed)
		if d.task.listed.Equal(d.due) {
			d.task.listed = time.Time{}
		}
		m.offer(d.task)
	}
	for _, p := range slices.Collect(maps.Values(m.peers)) {
		if now.Sub(p.heard) > Stale+m.ackWait(p) {
			m.part(p, nil, true)
		}
	}
	m.setApart()
	m.renew()
	if m.behindTop > m.sentTop && m.live > m.config.Window/4 {
		m.record.dirty = true
	}
	m.schedule()
}

// renew has something written where members wait for a word that counts: they
// hold events that no application was given.
func (m *Machine) renew() {
	if m.config.Alone || m.now.Sub(m.leased) < Stale/3 {
		return
	}
	for _, p := range m.peers {
		if p.unstarted > 0 {
			m.record.dirty = true
		}
	}
}

// setApart moves what holds up others into a shard.
func (m *Machine) setApart() {
	for _, t := range m.window {
		if !t.windowed {
			continue
		}
		if t.kind == window && t.actor.head() == t && t.holder != nil && !t.claiming && m.now.Sub(t.read) > held && m.read-t.sequence > uint64(m.config.Window) && m.fitsLine(t.actor) {
			m.makeLine(t)
		}
		break
	}
	if m.live < m.config.Window || len(m.turn) > 0 || m.room("") == nil {
		return
	}
	var largest *actor
	for _, a := range m.actors {
		if a.line == nil && (largest == nil || len(a.queue) > len(largest.queue)) {
			largest = a
		}
	}
	if largest == nil || len(largest.queue) == 0 {
		return
	}
	if t := largest.head(); t != nil && t.kind == window && !t.claiming && !t.settled && m.now.Sub(t.read) > patience && m.fitsLine(t.actor) {
		m.makeLine(t)
	}
}

// Wake is when Tick is to be called at the latest.
func (m *Machine) Wake() time.Time {
	wake := m.now.Add(time.Hour)
	if len(m.late) > 0 {
		wake = m.late[0].due
	}
	if len(m.peers) > 0 || m.live > 0 {
		wake = earlier(wake, m.now.Add(PingInterval))
	}
	return wake
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// Status is how the group is doing.
func (m *Machine) Status() Status {
	s := Status{Position: m.read, Members: len(m.peers), Parked: m.parked, Full: m.Full()}
	for _, p := range m.peers {
		s.InHand += len(p.held)
	}
	for _, sh := range m.shards {
		s.Waiting += len(sh.lines)
	}
	for _, t := range m.window {
		if t.windowed && t.kind == window && t.holder == nil && !t.settled {
			s.Queued++
		}
	}
	return s
}

// Kept is what the events take that the machine keeps, as their Size says.
func (m *Machine) Kept() int { return m.bytes }

// Position is the last sequence that was read.
func (m *Machine) Position() uint64 { return m.read }

// Mark is the record as far as it says of which stream it is.
func (m *Machine) Mark() Main {
	return Main{Top: m.main.Top, MarkSequence: m.main.MarkSequence, MarkTime: m.main.MarkTime}
}

// Close makes the next writes of the machine its last: all that is to be told is
// written, and then that nobody coordinates.
func (m *Machine) Close() {
	m.closing = true
}

// Closed says whether nothing is left to write.
func (m *Machine) Closed() bool { return m.closed }

// fitsLine says whether there is room to let an actor wait.
func (m *Machine) fitsLine(a *actor) bool { return m.fits(a.shard, lineBytes(a.key)) }

func (m *Machine) fits(s *shard, more int) bool {
	return s.bytes+more <= m.config.MaxShardBytes && s.bytes < math.MaxInt32
}
