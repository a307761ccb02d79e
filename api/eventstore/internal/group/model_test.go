package group

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

var (
	schedules = flag.Int("schedules", 3000, "how many schedules TestModel runs")
	firstSeed = flag.Uint64("seed", 0, "the seed of the first schedule; 0 is any")
)

// The model drives members, coordinators and their store at random, and knows what
// is true: who has what, what was acknowledged, and how often each was handed out.
const (
	modelAckWait    = 10 * time.Second
	modelDeliveries = 3
	modelWindow     = 8
)

type stored[R any] struct {
	record  R
	version int
}

// write is one that a node has sent. expect is the version that it replaces.
type write struct {
	from   *node
	main   *Main
	shard  *ShardWrite
	expect int
	// repeated by a node that does not know what has become of it.
	applied bool
}

type packet struct {
	up   *ToCoordinator
	to   string
	down *ToMember
}

type node struct {
	id      string
	member  *Member
	machine *Machine
	dead    bool
	paused  time.Time
	// versions of the records that the machine has.
	mainVersion int
	versions    map[int]int
	writes      []*write
	finds       []Find
	takeover    *takeover
	leave       bool
	// ackWait is how long its application may have an event.
	ackWait time.Duration
	// apps is what its application has.
	apps map[uint64]time.Time
}

// takeover is a node that has won the record, and loads the shards.
type takeover struct {
	main   Main
	left   []int
	shards map[int]Shard
	sent   time.Time
}

type truth struct {
	actor string
	// asked: an application said that it is done; acked: it was answered.
	asked, acked, erased bool
	handed               int
	// replays counts the requests to replay it.
	replays int
}

type world struct {
	t      *testing.T
	seed   uint64
	rng    *rand.Rand
	now    time.Time
	events []*truth
	main   stored[Main]
	shards map[int]stored[Shard]
	nodes  []*node
	net    []packet
	late   []*write
	names  int
	log    []string
	failed bool
	calm   bool
	// stuck is an actor one of whose events is given back for hours, once it is calm.
	stuck string
	steps int
	// actors are those that there are, and room is what a shard takes until it is calm. In
	// some worlds they share a shard that has no room for all of them.
	actors []string
	room   int
}

// lots is room for all that a shard may get.
const lots = 1 << 20

func newWorld(t *testing.T, seed uint64) *world {
	w := &world{t: t, seed: seed, rng: rand.New(rand.NewPCG(seed, 1)), now: time.Unix(1_000_000, 0), shards: map[int]stored[Shard]{}}
	w.actors, w.room = []string{"a", "b", "c", "d", "bad"}, lots
	if seed%8 == 5 {
		w.actors, w.room = append(neighbours(4), "bad"), 450
	}
	w.main = stored[Main]{Main{Epoch: 1, Key: "k", AckWait: modelAckWait, MaxDeliveries: modelDeliveries}, 1}
	for range 2 + w.rng.IntN(2) {
		w.join()
	}
	return w
}

func (w *world) note(format string, args ...any) {
	if len(w.log) > 40000 {
		w.log = w.log[20000:]
	}
	w.log = append(w.log, fmt.Sprintf("%8.2f ", w.now.Sub(time.Unix(1_000_000, 0)).Seconds())+fmt.Sprintf(format, args...))
}

func (w *world) fail(format string, args ...any) {
	if w.failed {
		return
	}
	w.failed = true
	w.note("FAILED "+format, args...)
	w.t.Errorf("seed %d: "+format, append([]any{w.seed}, args...)...)
	if testing.Verbose() {
		for _, line := range w.log {
			w.t.Log(line)
		}
	}
}

func (w *world) join() *node {
	w.names++
	n := &node{id: fmt.Sprintf("n%d", w.names), versions: map[int]int{}, apps: map[uint64]time.Time{}, ackWait: modelAckWait}
	if w.seed%4 == 1 && w.names%2 == 0 {
		n.ackWait = modelAckWait / 4
	}
	n.member = NewMember(n.id, 1+w.rng.IntN(4), n.ackWait, modelDeliveries)
	n.member.Enter(w.now)
	n.member.Follow(w.now, w.main.record.Epoch, w.main.record.Coordinator)
	w.nodes = append(w.nodes, n)
	return n
}

func (w *world) awake() []*node {
	var awake []*node
	for _, n := range w.nodes {
		if !n.dead && !n.paused.After(w.now) {
			awake = append(awake, n)
		}
	}
	return awake
}

func (w *world) some() *node {
	awake := w.awake()
	if len(awake) == 0 {
		return nil
	}
	return awake[w.rng.IntN(len(awake))]
}

func (w *world) chance(percent int) bool { return w.rng.IntN(100) < percent }

// gather takes what a node wants to do.
func (w *world) gather(n *node) {
	m := n.machine
	if m == nil || n.dead {
		return
	}
	for _, s := range m.Shards() {
		w.send(n, &write{from: n, shard: &s, expect: n.versions[s.Number]})
	}
	if main, is := m.Main(); is {
		w.send(n, &write{from: n, main: &main, expect: n.mainVersion})
	}
	n.finds = append(n.finds, m.Finds()...)
	for _, said := range m.Messages() {
		w.net = append(w.net, packet{to: said.Member, down: &said})
	}
	if m.live > modelWindow+1 || len(m.tasks) > len(w.events)+modelWindow {
		w.fail("%s has %d events in its window", n.id, m.live)
	}
}

func (w *world) send(n *node, made *write) {
	// Records go through their text, as in a store.
	if made.main != nil {
		main, err := Decode[Main](Encode(*made.main))
		if err != nil {
			w.fail("%v", err)
		}
		made.main = &main
	} else {
		shard, err := Decode[Shard](Encode(made.shard.Shard))
		if err != nil {
			w.fail("%v", err)
		}
		made.shard.Shard = shard
	}
	n.writes = append(n.writes, made)
}

// apply has the store take a write, and says whether it did.
func (w *world) apply(made *write) bool {
	if made.applied {
		return true
	}
	if made.main != nil {
		if w.main.version != made.expect {
			return false
		}
		w.main = stored[Main]{*made.main, made.expect + 1}
	} else {
		if w.shards[made.shard.Number].version != made.expect {
			return false
		}
		w.shards[made.shard.Number] = stored[Shard]{made.shard.Shard, made.expect + 1}
	}
	made.applied = true
	return true
}

// answer tells a node what has become of its write.
func (w *world) answer(n *node, made *write, ok bool) {
	switch {
	case !ok:
		w.note("%s is deposed", n.id)
		n.machine, n.writes, n.finds, n.takeover = nil, nil, nil, nil
		n.member.Follow(w.now, w.main.record.Epoch, w.main.record.Coordinator)
		return
	case made.main != nil && n.takeover != nil:
		n.mainVersion++
		n.takeover.main = *made.main
		n.takeover.left = made.main.Shards.List()
		n.member.Follow(w.now, made.main.Epoch, n.id)
	case made.main != nil:
		n.mainVersion++
		n.machine.Committed(w.now)
		if n.machine.Closed() {
			w.note("%s has handed over", n.id)
			n.machine = nil
		}
	default:
		n.versions[made.shard.Number]++
		n.machine.ShardCommitted(w.now, made.shard.Number)
	}
	w.gather(n)
}

func (w *world) stepWrite() {
	if len(w.late) > 0 && w.chance(30) {
		at := w.rng.IntN(len(w.late))
		w.apply(w.late[at])
		w.late = slices.Delete(w.late, at, at+1)
		return
	}
	n := w.some()
	if n == nil || len(n.writes) == 0 {
		return
	}
	at := w.rng.IntN(len(n.writes))
	made := n.writes[at]
	if w.chance(20) && !w.calm {
		// It is stored, and the answer takes its time.
		w.apply(made)
		return
	}
	ok := w.apply(made)
	n.writes = slices.Delete(n.writes, at, at+1)
	w.answer(n, made, ok)
}

func (w *world) stepTakeover(n *node) {
	switch {
	case n.takeover != nil && len(n.writes) == 0:
		w.loadShard(n)
	case n.takeover == nil && n.machine == nil && !n.leave:
		record := w.main.record
		free := record.Coordinator == ""
		n.member.Follow(w.now, record.Epoch, record.Coordinator)
		if !free && !n.member.Silent(w.now) && (w.calm || w.rng.IntN(1000) > 0) {
			return
		}
		w.note("%s takes over from %q", n.id, record.Coordinator)
		record.Epoch++
		record.Coordinator = n.id
		n.takeover = &takeover{shards: map[int]Shard{}, sent: w.now}
		n.mainVersion = w.main.version
		w.send(n, &write{from: n, main: &record, expect: w.main.version})
	}
}

// loadShard writes a shard as the new coordinator's, so that no earlier one can.
func (w *world) loadShard(n *node) {
	over := n.takeover
	if len(over.left) == 0 {
		n.takeover = nil
		n.machine = New(Config{Leased: over.sent, Window: modelWindow, MaxShardBytes: w.room}, over.main, over.shards, w.now)
		w.note("%s coordinates: top %d out %v open %v", n.id, over.main.Top, over.main.Out, over.main.Open)
		if n.leave {
			w.handOver(n, n.member.End().Have)
			return
		}
		w.gather(n)
		return
	}
	number := over.left[0]
	held := w.shards[number]
	if w.chance(30) && len(w.late) > 0 {
		w.apply(w.late[0])
	}
	shard := held.record
	if shard.Epoch > over.main.Epoch {
		// Another has followed already.
		w.answer(n, nil, false)
		return
	}
	shard.Epoch = over.main.Epoch
	if !w.apply(&write{shard: &ShardWrite{number, shard}, expect: held.version}) {
		return
	}
	n.versions[number] = held.version + 1
	over.shards[number] = shard
	over.left = over.left[1:]
}

func (w *world) find(id string) *node {
	for _, n := range w.nodes {
		if n.id == id && !n.dead {
			return n
		}
	}
	return nil
}

func (w *world) stepNet() {
	if len(w.net) == 0 {
		return
	}
	at := w.rng.IntN(min(len(w.net), 4))
	p := w.net[at]
	n := w.find(p.to)
	if n != nil && n.paused.After(w.now) {
		// Rotate, so that others get theirs.
		w.net = append(slices.Delete(w.net, at, at+1), p)
		return
	}
	if w.calm || !w.chance(5) {
		w.net = slices.Delete(w.net, at, at+1)
	}
	if n == nil || !w.calm && w.chance(5) {
		return
	}
	if p.up != nil {
		if n.machine != nil {
			n.machine.Hear(w.now, *p.up)
			w.gather(n)
		}
		return
	}
	if !n.member.Hear(w.now, *p.down) {
		n.member.Follow(w.now, w.main.record.Epoch, w.main.record.Coordinator)
	}
}

func (w *world) tick(n *node) {
	for _, said := range n.member.Tick(w.now) {
		w.net = append(w.net, packet{to: n.member.Coordinator(), up: &said})
	}
	if n.machine != nil {
		n.machine.Tick(w.now)
		w.gather(n)
	}
}
