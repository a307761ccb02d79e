package group

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

func (w *world) crash(n *node) {
	w.note("%s crashes", n.id)
	n.dead = true
	for _, made := range n.writes {
		if !made.applied && w.chance(70) {
			w.late = append(w.late, made)
		}
	}
	n.writes = nil
}

// leaves ends a node as Close does.
func (w *world) leaves(n *node) {
	if n.leave {
		if n.machine == nil && n.takeover == nil {
			n.dead = true
		}
		return
	}
	w.note("%s leaves", n.id)
	n.leave = true
	left := n.member.End()
	n.apps = map[uint64]time.Time{}
	n.member.Ask(w.now, Request{Kind: KindLeave, Have: left.Have}, func(Answer) {})
	if n.machine != nil {
		w.handOver(n, left.Have)
	}
}

func (w *world) handOver(n *node, have []Held) {
	n.machine.Hear(w.now, ToCoordinator{Epoch: n.machine.main.Epoch, Member: n.id, Request: &Request{ID: 1 << 40, Kind: KindLeave, Have: have}})
	n.machine.Close()
	w.gather(n)
}

func (w *world) stepChaos() {
	n := w.some()
	switch what := w.rng.IntN(1000); {
	case n == nil:
	case what < 6:
		w.crash(n)
	case what < 12:
		w.leaves(n)
	case what < 20:
		n.paused = w.now.Add(time.Duration(w.rng.IntN(20_000)) * time.Millisecond)
		w.note("%s is silent until %s", n.id, n.paused.Format("05.00"))
	case what < 60 && len(w.awake()) < 4:
		w.join()
	case what < 70:
		w.now = w.now.Add(time.Duration(w.rng.IntN(15_000)) * time.Millisecond)
	case what < 90 && len(w.events) > 0:
		e := w.events[w.rng.IntN(len(w.events))]
		e.erased = true
	case what < 110:
		w.replay(n)
	}
}

// neighbours are actors of one shard.
func neighbours(count int) []string {
	actors := []string{"a"}
	for n := 0; len(actors) < count; n++ {
		if actor := fmt.Sprint("a", n); ShardOf(actor) == ShardOf(actors[0]) {
			actors = append(actors, actor)
		}
	}
	return actors
}

func (w *world) save() {
	w.events = append(w.events, &truth{actor: w.actors[w.rng.IntN(w.rng.IntN(len(w.actors))+1)]})
}

func (w *world) step() {
	w.steps++
	if !w.calm {
		if len(w.events) < 60 && w.chance(12) {
			w.save()
		}
		w.stepChaos()
	}
	w.now = w.now.Add(time.Duration(w.rng.IntN(60)) * time.Millisecond)
	for range 3 {
		w.stepWrite()
		w.stepNet()
	}
	if n := w.some(); n != nil {
		w.tick(n)
		w.stepRead(n)
		w.stepFind(n)
		w.stepGone(n)
		w.stepTakeover(n)
		if n.leave {
			w.leaves(n)
			return
		}
		w.handOut(n)
		if w.chance(50) {
			w.work(n)
		}
	}
}

// settled says whether nothing is left to do but what is to wait.
func (w *world) settled() bool {
	for at, e := range w.events {
		p, aside := w.parkedNow(uint64(at + 1))
		if !e.acked && !e.erased && (!aside || p.Replaying) && (e.actor != w.stuck || w.stuck == "") {
			return false
		}
	}
	return true
}

func (w *world) run() {
	for range 600 {
		if w.step(); w.failed {
			return
		}
	}
	w.calm = true
	w.note("calm")
	w.room = lots
	for _, n := range w.nodes {
		n.paused = time.Time{}
		if n.machine != nil {
			n.machine.config.MaxShardBytes, n.machine.config.ShardBytes = lots, lots/2
		}
	}
	for stay := func() int {
		return len(slices.DeleteFunc(w.awake(), func(n *node) bool { return n.leave }))
	}; stay() < 2; {
		w.join()
	}
	if w.chance(50) {
		w.stuck = "a"
	}
	// What was asked and never answered may be done or not: its application asks again.
	for range 40_000 {
		if w.step(); w.failed {
			return
		}
		if w.settled() {
			return
		}
		for _, e := range w.events {
			if e.asked && !e.acked && !slices.ContainsFunc(w.nodes, func(n *node) bool { return !n.dead && len(n.member.asked) > 0 }) {
				break
			}
		}
		if w.steps%500 == 0 {
			w.reconcile()
		}
	}
	w.fail("events are left: %s", w.left())
}

// reconcile takes as acknowledged what was asked for by who is gone, and is
// settled in the records.
func (w *world) reconcile() {
	main := w.main.record
	for at, e := range w.events {
		sequence := uint64(at + 1)
		if !e.asked || e.acked || sequence > main.Top || slices.Contains(main.Open, sequence) {
			continue
		}
		out := false
		for _, list := range main.Out {
			out = out || slices.Contains(list, sequence)
		}
		line := false
		for _, l := range w.shards[ShardOf(e.actor)].record.Lines {
			line = line || l.Actor == e.actor && l.First <= sequence
		}
		if _, aside := w.parkedNow(sequence); !out && !line && !aside {
			e.acked = true
		}
	}
}

func (w *world) left() string {
	text := fmt.Sprintf("main %+v;", w.main.record)
	for at, e := range w.events {
		sequence := uint64(at + 1)
		if p, aside := w.parkedNow(sequence); !e.acked && !e.erased && (!aside || p.Replaying) {
			text += fmt.Sprintf(" %d of %s asked %v handed %d", sequence, e.actor, e.asked, e.handed)
		}
	}
	for _, s := range w.shards {
		text += fmt.Sprintf(" shard %+v", s.record)
	}
	return text
}

// failedOnce are seeds of schedules that found a fault, where thousands of others had not.
var failedOnce = []uint64{
	// An event was erased between two coordinators, and a line ended before what came after.
	862028415236,
	// The first of a line was erased before Main passed it, and nothing passed it then.
	519019388990,
	// The answer to a request to replay was lost, and it was done once more when the
	// event was parked again.
	645499031203,
	// A member acknowledged late what it was just given once more, and handed that out
	// before it had the answer.
	53791232502,
	// What was extended, released and given once more was over when the answer to the
	// first came.
	276453187576,
}

// TestModel runs schedules at random. One that fails prints its seed, which -seed
// takes: go test -run TestModel -v -seed 17 -schedules 1.
func TestModel(t *testing.T) {
	t.Parallel()
	seed := *firstSeed
	if seed == 0 {
		seed = rand.Uint64N(1 << 40)
	}
	t.Logf("%d schedules from seed %d", *schedules, seed)
	for _, once := range failedOnce {
		newWorld(t, once).run()
	}
	for n := range uint64(*schedules) {
		w := newWorld(t, seed+n)
		if w.run(); w.failed {
			return
		}
	}
}
