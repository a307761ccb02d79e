package group

import (
	"maps"
	"slices"
	"time"
)

// parkedNow says whether a shard has an event among those that are parked.
func (w *world) parkedNow(sequence uint64) (Parked, bool) {
	for _, p := range w.shards[ShardOf(w.events[sequence-1].actor)].record.Parked {
		if p.Sequence == sequence {
			return p, true
		}
	}
	return Parked{}, false
}

// handOut has an application take an event, and looks whether it may.
func (w *world) handOut(n *node) {
	// Some applications come for the next now and then.
	if w.chance(20) && n.member.waiting > 0 {
		n.member.Exit(w.now)
	} else if n.member.waiting == 0 && w.chance(20) {
		n.member.Enter(w.now)
	}
	if n.member.waiting == 0 {
		return
	}
	d := n.member.Next(w.now)
	if d == nil {
		return
	}
	e := w.events[d.Sequence-1]
	w.note("%s is given %d of %s, attempt %d", n.id, d.Sequence, e.actor, d.Attempt)
	if e.acked {
		w.fail("%d comes again after it was acknowledged", d.Sequence)
	}
	_, replay := w.parkedNow(d.Sequence)
	if replay && e.replays == 0 {
		w.fail("%d is parked and comes", d.Sequence)
	}
	if e.handed++; e.handed > modelDeliveries*(1+e.replays) {
		w.fail("%d is handed out %d times", d.Sequence, e.handed)
	}
	if d.Attempt < 1 || d.Attempt > modelDeliveries {
		w.fail("%d comes as attempt %d", d.Sequence, d.Attempt)
	}
	for sequence := uint64(1); sequence < d.Sequence && !replay; sequence++ {
		before := w.events[sequence-1]
		if _, aside := w.parkedNow(sequence); before.actor == e.actor && !before.asked && !before.erased && !aside {
			w.fail("%d of %s comes before %d", d.Sequence, e.actor, sequence)
		}
	}
	for _, other := range w.nodes {
		for sequence, until := range other.apps {
			same := w.events[sequence-1]
			if other.dead || !until.After(w.now) || same.asked && sequence != d.Sequence || same.erased || same.actor != e.actor || sequence == d.Sequence && other == n {
				continue
			}
			if _, aside := w.parkedNow(sequence); !aside && !replay && !e.asked && !e.erased {
				w.fail("%d of %s is given to %s, and %s has %d", d.Sequence, e.actor, n.id, other.id, sequence)
			}
		}
	}
	n.apps[d.Sequence] = w.now.Add(n.ackWait)
}

// work has an application do something with what it has.
func (w *world) work(n *node) {
	for _, sequence := range slices.Sorted(maps.Keys(n.apps)) {
		if !w.calm && w.chance(50) {
			continue
		}
		e := w.events[sequence-1]
		what := w.rng.IntN(100)
		if w.calm {
			what = 0
			if e.actor == w.stuck {
				what = 70
			}
		}
		switch {
		case what < 55:
			e.asked = true
			n.member.Ask(w.now, Request{Kind: KindAck, Sequence: sequence}, func(a Answer) {
				w.note("%s has acknowledged %d: %q", n.id, sequence, a.Code)
				if a.Code == CodeDone {
					e.acked = true
				}
			})
			delete(n.apps, sequence)
		case what < 80:
			delay := time.Duration(w.rng.IntN(3)) * time.Second
			if e.actor == w.stuck && w.calm {
				delay = 10 * time.Hour
			}
			n.member.Ask(w.now, Request{Kind: KindNak, Sequence: sequence, Delay: delay, Reason: "again"}, func(Answer) {})
			delete(n.apps, sequence)
		case what < 82:
			n.member.Release(sequence)
			e.handed--
			delete(n.apps, sequence)
		case what < 85:
			n.member.Ask(w.now, Request{Kind: KindExtend, Sequence: sequence}, func(a Answer) {})
		}
		return
	}
}

func (w *world) replay(n *node) {
	var sequences []uint64
	for at, e := range w.events {
		if p, is := w.parkedNow(uint64(at + 1)); is && !p.Replaying && e.actor != "bad" && !e.erased {
			sequences = append(sequences, p.Sequence)
			// For each request it may be handed out as often once more: one that comes
			// late may find it parked again.
			e.replays++
		}
	}
	if len(sequences) > 0 {
		n.member.Ask(w.now, Request{Kind: KindReplay, Sequences: sequences}, func(Answer) {})
	}
}

func (w *world) stepRead(n *node) {
	m := n.machine
	if m == nil || !m.WantMore() {
		return
	}
	for sequence := m.Position() + 1; sequence <= uint64(len(w.events)); sequence++ {
		e := w.events[sequence-1]
		if e.erased {
			continue
		}
		bad := ""
		if e.actor == "bad" {
			bad = "it has no id"
			e.asked = true
		}
		m.Arrived(w.now, Arrival{Sequence: sequence, Actor: e.actor, Size: 10, Payload: sequence, Unreadable: bad})
		w.gather(n)
		return
	}
	// Nothing more comes that is stored now; some stores say so.
	m.Skip(w.now, uint64(len(w.events)))
	w.gather(n)
}

func (w *world) stepFind(n *node) {
	if len(n.finds) == 0 {
		return
	}
	find := n.finds[0]
	n.finds = n.finds[1:]
	next := uint64(0)
	for sequence := find.After + 1; sequence <= uint64(len(w.events)); sequence++ {
		if e := w.events[sequence-1]; e.actor == find.Actor && !e.erased {
			next = sequence
			break
		}
	}
	if n.machine != nil {
		n.machine.Found(w.now, find.Actor, find.After, next)
		w.gather(n)
	}
}

// stepGone has a coordinator look, in some worlds, for what actors wait for and is erased.
func (w *world) stepGone(n *node) {
	if n.machine == nil || w.seed%8 < 5 || w.seed%2 == 0 || w.steps%7 > 0 {
		return
	}
	for _, f := range n.machine.Later(1) {
		if w.events[f.After].erased {
			w.note("%s finds that %d is erased", n.id, f.After+1)
			n.machine.Gone(w.now, f)
		}
	}
	w.gather(n)
}
