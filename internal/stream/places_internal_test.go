package stream

import (
	"fmt"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// visit is a pass that is to come for an asker.
type visit struct {
	asker Asker
	at    time.Duration
	ahead bool
}

// visits are a queue of passes: those that are due come first, of them those that go ahead,
// and of them those that came first.
type visits []visit

func (v *visits) next(now time.Duration) visit {
	best := 0
	before := func(a, b visit) bool {
		switch aDue, bDue := a.at <= now, b.at <= now; {
		case aDue != bDue:
			return aDue
		case aDue && a.ahead != b.ahead:
			return a.ahead
		}
		return a.at < b.at
	}
	for i := range *v {
		if before((*v)[i], (*v)[best]) {
			best = i
		}
	}
	next := (*v)[best]
	*v = append((*v)[:best], (*v)[best+1:]...)
	return next
}

// removal is what becomes of stores that are deleted at once, where each pass takes a while.
type removal struct {
	// questions are all that were asked, and passes all that were made.
	questions, passes int
	// gone is when each store of another namespace, and the last of all, was deleted.
	gone map[types.UID]time.Duration
	last time.Duration
}

// removeAtOnce deletes so many stores of one namespace, and then one of another, by passes
// that come one after the other.
func removeAtOnce(t *testing.T, count int, pass time.Duration) removal {
	t.Helper()
	done, queue := removal{gone: map[types.UID]time.Duration{}}, visits{}
	for i := range count {
		queue = append(queue, visit{asker: Asker{types.UID(fmt.Sprint(i)), "many"}})
	}
	queue = append(queue, visit{asker: Asker{"alone", "another"}, at: time.Second})
	var asked inquiries
	start, now := time.Now(), time.Duration(0)
	for len(queue) > 0 {
		v := queue.next(now)
		now = max(now, v.at)
		if done.passes++; done.passes > 200*count {
			t.Fatalf("with passes of %s %d of %d stores are left after %d passes and %d questions", pass, len(queue)+1, count+1, done.passes, done.questions)
		}
		about := inquirySubject{v.asker, Owner{UID: v.asker.UID}}
		if wait := asked.enter(v.asker, start.Add(now)); wait > 0 {
			queue = append(queue, visit{v.asker, now + wait, false})
			now += pass / 50
			continue
		}
		now += pass
		if q, known := asked.of(about, start.Add(now)); !known {
			asked.begin(about, start.Add(now))
			done.questions++
			queue = append(queue, visit{v.asker, now + ownerPatience, true})
		} else if left := ownerPatience - start.Add(now).Sub(q.asked); left > 0 {
			queue = append(queue, visit{v.asker, now + left, true})
		} else {
			asked.leave(v.asker, start.Add(now))
			done.gone[v.asker.UID], done.last = now, now
		}
	}
	if p := asked.places; len(p.taken)+len(p.waiting)+len(p.lines)+len(asked.bySubject)+len(asked.byToken) > 0 {
		t.Errorf("in the end these are kept: %+v, %+v", p, asked.bySubject)
	}
	return done
}

// Thousands of stores are deleted at once. However slow the passes are, they go at the pace
// of them, and are not asked about again and again; one of another namespace does not wait
// for all of them.
func TestThousandsAskInTurn(t *testing.T) {
	t.Parallel()
	const count = 2000
	for _, pass := range []time.Duration{time.Millisecond, 10 * time.Millisecond, 50 * time.Millisecond, 200 * time.Millisecond, 500 * time.Millisecond} {
		t.Run(pass.String(), func(t *testing.T) {
			t.Parallel()
			done := removeAtOnce(t, count, pass)
			t.Logf("%d questions, %d passes, all gone after %s, that of another namespace after %s", done.questions, done.passes, done.last, done.gone["alone"])
			if len(done.gone) != count+1 {
				t.Errorf("%d are gone", len(done.gone))
			}
			if done.passes > 10*count {
				t.Errorf("%d passes for %d stores", done.passes, count)
			}
			if done.questions > count*3/2 {
				t.Errorf("%d questions about %d stores", done.questions, count)
			}
		})
	}
}
