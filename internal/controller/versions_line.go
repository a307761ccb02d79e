package controller

import (
	"slices"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

// keepLine is the order in which stores have their turns whose versions are kept. The
// Kubernetes namespaces in which stores wait have one after the other: a namespace has its
// next turn when each other one that waits has had one. Inside of a namespace the first turn
// is that of the store with the least time left, and the next that of the store which waits
// longest, so that one whose events expire at once does not keep out its neighbours.
type keepLine struct {
	limits keepLimits
	// facts are what is known of a store that comes.
	facts func(types.NamespacedName) keepFacts

	mu sync.Mutex
	// namespaces are those that have a turn, or wait for one, and order those that wait, the
	// next one first.
	namespaces map[string]*keepNamespace
	order      []string
	// turns are the stores that have a turn.
	turns map[reconcile.Request]keepFacts
	// silent are the classes of which nobody has answered in the last turn. The reconciler of
	// EventStores need not know that yet.
	silent map[string]bool
}

type keepLimits struct {
	// ofOne is how many stores of one namespace have a turn at once, at most, and ofSilent how
	// many in all that only wait for servers.
	ofOne, ofSilent int
}

// keepFacts are what is known of a store before its turn: its class, when events expire that
// nobody has looked at, and whether its last turn has ended since no answer came in time: what is
// asked of a stream waits where somebody writes very much into it.
type keepFacts struct {
	class string
	ends  time.Time
	late  bool
}

// keepNamespace are the stores of one Kubernetes namespace.
type keepNamespace struct {
	// running is how many have a turn.
	running int
	// waiting are the others that are to have one, in the order in which they came.
	waiting []waitingStore
	// longest: the next turn is that of the store which waits longest.
	longest bool
}

type waitingStore struct {
	request reconcile.Request
	keepFacts
}

func newKeepLine(limits keepLimits, facts func(types.NamespacedName) keepFacts) *keepLine {
	return &keepLine{limits: limits, facts: facts, namespaces: map[string]*keepNamespace{}, turns: map[reconcile.Request]keepFacts{}, silent: map[string]bool{}}
}

// queue is a queue for a controller whose order is that of the line.
func (l *keepLine) queue(name string, limiter workqueue.TypedRateLimiter[reconcile.Request]) workqueue.TypedRateLimitingInterface[reconcile.Request] {
	ordered := workqueue.NewTypedWithConfig(workqueue.TypedQueueConfig[reconcile.Request]{Name: name, Queue: l})
	delaying := workqueue.NewTypedDelayingQueueWithConfig(workqueue.TypedDelayingQueueConfig[reconcile.Request]{Name: name, Queue: ordered})
	return workqueue.NewTypedRateLimitingQueueWithConfig(limiter, workqueue.TypedRateLimitingQueueConfig[reconcile.Request]{Name: name, DelayingQueue: delaying})
}

// Push puts a store in line that does not wait yet, nor has a turn.
func (l *keepLine) Push(request reconcile.Request) {
	facts := l.facts(request.NamespacedName)
	l.mu.Lock()
	defer l.mu.Unlock()
	of := l.namespaces[request.Namespace]
	if of == nil {
		of = &keepNamespace{}
		l.namespaces[request.Namespace] = of
	}
	if len(of.waiting) == 0 {
		l.order = append(l.order, request.Namespace)
	}
	of.waiting = append(of.waiting, waitingStore{request, facts})
}

// Touch says that a store waits which is put in line again: it keeps its place.
func (l *keepLine) Touch(reconcile.Request) {}

// Len is 1 where a store may have a turn now, and else 0. Who ends a turn asks again, so a
// store that may have one because of that does not wait for another to come.
func (l *keepLine) Len() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.nextNamespace() < 0 {
		return 0
	}
	return 1
}

// Pop begins a turn, which ends with done. It is called where Len is 1.
func (l *keepLine) Pop() reconcile.Request {
	l.mu.Lock()
	defer l.mu.Unlock()
	place := l.nextNamespace()
	namespace := l.order[place]
	l.order = slices.Delete(l.order, place, place+1)
	of := l.namespaces[namespace]
	at := l.nextStore(of, time.Now())
	next := of.waiting[at]
	of.waiting = slices.Delete(of.waiting, at, at+1)
	if len(of.waiting) > 0 {
		l.order = append(l.order, namespace)
	}
	of.longest = !of.longest
	of.running++
	l.turns[next.request] = next.keepFacts
	return next.request
}

// nextNamespace is the place in the order of the namespace that has fewest turns, of those
// that may have one more; negative for none.
func (l *keepLine) nextNamespace() int {
	at, fewest := -1, l.limits.ofOne
	for i, namespace := range l.order {
		of := l.namespaces[namespace]
		if of.running < fewest && slices.ContainsFunc(of.waiting, l.mayBegin) {
			at, fewest = i, of.running
		}
	}
	return at
}

// mayBegin says whether a store is worth another turn, which may only wait.
func (l *keepLine) mayBegin(w waitingStore) bool {
	if !l.onlyWaits(w.keepFacts) {
		return true
	}
	running := 0
	for _, turn := range l.turns {
		if l.onlyWaits(turn) {
			running++
		}
	}
	return running < l.limits.ofSilent
}

// onlyWaits says whether a turn is likely to wait for servers in vain.
func (l *keepLine) onlyWaits(f keepFacts) bool { return f.late || l.silent[f.class] }

// nextStore is the place of the store that has the next turn of its namespace. What is over
// is over: of those without any time left it is the one that waits longest.
func (l *keepLine) nextStore(of *keepNamespace, now time.Time) int {
	at := slices.IndexFunc(of.waiting, l.mayBegin)
	if of.longest {
		return at
	}
	for i := at + 1; i < len(of.waiting) && of.waiting[at].ends.After(now); i++ {
		if w := of.waiting[i]; w.ends.Before(of.waiting[at].ends) && l.mayBegin(w) {
			at = i
		}
	}
	return at
}

// answered notes whether the servers of a class have answered in a turn.
func (l *keepLine) answered(class string, did bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if did {
		delete(l.silent, class)
	} else {
		l.silent[class] = true
	}
}

// done ends a turn.
func (l *keepLine) done(request reconcile.Request) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.turns, request)
	of := l.namespaces[request.Namespace]
	if of == nil {
		return
	}
	if of.running--; of.running == 0 && len(of.waiting) == 0 {
		delete(l.namespaces, request.Namespace)
	}
}
