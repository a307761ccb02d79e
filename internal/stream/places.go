package stream

import (
	"time"

	"k8s.io/apimachinery/pkg/types"
)

const (
	// minPlaces are for the EventStores that ask at the same time on a connection, and
	// maxPlaces is what it grows to where answers are come for at once: all operators answer
	// so many within ownerPatience where a look at an API server takes 100 ms.
	minPlaces, maxPlaces = 16, 256
	// maxTurn is after how long one in line looks again for its turn at the latest: the
	// places may be more by then.
	maxTurn = 20 * time.Second
)

// Asker is the EventStore for which operators are asked.
type Asker struct {
	UID       types.UID
	Namespace string
}

// Pending is how a question goes on that has no answers yet.
type Pending struct {
	// For is after how long to ask again, 0 where there are answers.
	For time.Duration
	// Asked: the asker has a place, and answers count for some seconds only. Few have one,
	// so who comes back for answers may go ahead of all others.
	Asked bool
}

// places bound the EventStores that ask at the same time. Answers count for some seconds:
// of thousands that all ask at once most come back too late for theirs, ask anew, and so
// hold each other up for ever. The others stand in line, and ask nothing before their turn.
//
// There are as many places as the operator keeps up with: one more where answers are come
// for at once, one less where they wait, half where they were too old. So it is busy, and
// others do not wait long behind those that have a place.
type places struct {
	taken map[types.UID]time.Time
	// more is how many places there are beyond minPlaces, and halved when that was halved.
	more   int
	halved time.Time
	// held is for how long a place was taken of late.
	held time.Duration
	// waiting are those in line, and lines those of each Kubernetes namespace: each line has
	// its turn, so that one of thousands does not hold up the others.
	waiting map[types.UID]waiter
	lines   map[string]*line
	swept   time.Time
}

// waiter stands in the line of a namespace, as the one of this number, and is to come back at
// due.
type waiter struct {
	namespace string
	number    int
	due       time.Time
}

// line counts those that came into it and that left it.
type line struct{ came, left int }

// enter gives the asker a place, or else after how long to come again.
func (p *places) enter(asker Asker, now time.Time) (wait time.Duration) {
	if wait = p.turn(asker, now); wait > 0 {
		return wait
	}
	if _, has := p.taken[asker.UID]; !has {
		p.step(asker.UID)
		p.taken[asker.UID] = now
	}
	return 0
}

// turn says whether the asker has a place or may take one now, and else after how long to
// come again.
func (p *places) turn(asker Asker, now time.Time) (wait time.Duration) {
	if p.taken == nil {
		p.taken, p.waiting, p.lines = map[types.UID]time.Time{}, map[types.UID]waiter{}, map[string]*line{}
	}
	p.sweep(now)
	if _, has := p.taken[asker.UID]; has || len(p.taken) < minPlaces+p.more {
		return 0
	}
	return p.stand(asker, now)
}

// stand puts the asker in line, where it keeps its turn when it comes too early. Who stands
// behind many comes seldom.
func (p *places) stand(asker Asker, now time.Time) (wait time.Duration) {
	w, stands := p.waiting[asker.UID]
	if !stands {
		if p.lines[asker.Namespace] == nil {
			p.lines[asker.Namespace] = &line{}
		}
		w = waiter{namespace: asker.Namespace, number: p.lines[asker.Namespace].came}
		p.lines[asker.Namespace].came++
	}
	ahead := max(0, w.number-p.lines[w.namespace].left)*len(p.lines) + 1
	turn := max(p.held, ownerPatience) / time.Duration(minPlaces+p.more)
	// Early, so that no place is free while somebody waits.
	wait = min(max(ownPause, time.Duration(ahead)*turn/2), maxTurn)
	w.due = now.Add(wait)
	p.waiting[asker.UID] = w
	return wait
}

// step takes an asker out of its line.
func (p *places) step(asker types.UID) {
	w, stands := p.waiting[asker]
	if !stands {
		return
	}
	delete(p.waiting, asker)
	l := p.lines[w.namespace]
	if l.left++; l.left == l.came {
		delete(p.lines, w.namespace)
	}
}

// isLate says whether the asker has a place and did not come back in time.
func (p *places) isLate(asker types.UID, now time.Time) bool {
	since, has := p.taken[asker]
	return has && now.Sub(since) > answersCount
}

// again notes that the asker asks only now.
func (p *places) again(asker types.UID, now time.Time) {
	if _, has := p.taken[asker]; has {
		p.taken[asker] = now
	}
}

// leave ends the place of an asker, and says whether it had one. By how long it had it
// there are more or fewer.
func (p *places) leave(asker types.UID, now time.Time) (had bool) {
	p.step(asker)
	since, has := p.taken[asker]
	if !has {
		return false
	}
	delete(p.taken, asker)
	took := now.Sub(since)
	p.held = (7*max(p.held, ownerPatience) + min(took, answersCount)) / 8
	switch {
	case took <= ownerPatience+ownerPatience/2:
		p.more = min(p.more+1, maxPlaces-minPlaces)
	case took <= 2*ownerPatience:
	case took <= answersCount:
		p.more = max(0, p.more-1)
	case now.Sub(p.halved) > answersCount:
		p.more, p.halved = p.more/2, now
	}
	return true
}

// sweep ends the places and the turns of those that do not come any more.
func (p *places) sweep(now time.Time) {
	if now.Sub(p.swept) <= answersCount {
		return
	}
	p.swept = now
	for asker, since := range p.taken {
		if now.Sub(since) > 2*answersCount {
			delete(p.taken, asker)
		}
	}
	for asker, w := range p.waiting {
		if now.Sub(w.due) > presencePatience {
			p.step(asker)
		}
	}
}
