package controller

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

// lineOf is a line of stores with so much time left each; names of others than in the map
// have an hour. What comes before a colon in a namespace is the class, and names that begin with
// "late" are late.
func lineOf(limits keepLimits, left map[string]time.Duration) *keepLine {
	now := time.Now()
	return newKeepLine(limits, func(key types.NamespacedName) keepFacts {
		class, _, _ := strings.Cut(key.Namespace, ":")
		ends, given := left[key.String()]
		if !given {
			ends = time.Hour
		}
		return keepFacts{class: class, ends: now.Add(ends), late: strings.HasPrefix(key.Name, "late")}
	})
}

func storeNamed(name string) reconcile.Request {
	namespace, name, _ := strings.Cut(name, "/")
	return reconcile.Request{NamespacedName: types.NamespacedName{Namespace: namespace, Name: name}}
}

// begin begins turns until none may begin, and answers whose they are.
func begin(l *keepLine, most int) (begun []string) {
	for len(begun) < most && l.Len() > 0 {
		begun = append(begun, l.Pop().String())
	}
	return begun
}

func wantTurns(t *testing.T, got []string, want ...string) {
	t.Helper()
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("the turns are those of %v, want %v", got, want)
	}
}

// However many stores the others have, one that is alone in its namespace has a turn after at most
// one turn of each other namespace.
func TestNamespacesHaveTurns(t *testing.T) {
	t.Parallel()
	const others, stores = 5, 40
	line := lineOf(keepLimits{ofOne: keepersOfOne, ofSilent: silentKeepers}, nil)
	var running []string
	comeBack := func() {
		first := storeNamed(running[0])
		running = running[1:]
		line.done(first)
		line.Push(first)
	}
	for n := range stores {
		for namespace := range others {
			line.Push(storeNamed(fmt.Sprintf("other-%d/%d", namespace, n)))
		}
	}
	running = begin(line, keepers)
	for range 100 {
		comeBack()
		running = append(running, begin(line, 1)...)
	}
	for range 20 {
		line.Push(storeNamed("quiet/orders"))
		for turns := 1; ; turns++ {
			comeBack()
			next := begin(line, 1)
			running = append(running, next...)
			if next[0] == "quiet/orders" {
				break
			}
			if turns > others {
				t.Fatalf("after %d turns of others it had none", turns)
			}
		}
		// Its turn is over at once, and there is nothing to do for a while.
		line.done(storeNamed("quiet/orders"))
		running = append(running[:len(running)-1], begin(line, 1)...)
	}
}

// One namespace does not have all turns: the next one need not wait for the end of any.
func TestATurnIsLeftForOthers(t *testing.T) {
	t.Parallel()
	line := lineOf(keepLimits{ofOne: 3, ofSilent: 2}, nil)
	for n := range 10 {
		line.Push(storeNamed(fmt.Sprintf("busy/%d", n)))
	}
	wantTurns(t, begin(line, 4), "busy/0", "busy/1", "busy/2")
	line.Push(storeNamed("quiet/orders"))
	wantTurns(t, begin(line, 4), "quiet/orders")
	line.done(storeNamed("busy/1"))
	wantTurns(t, begin(line, 4), "busy/3")
	line.done(storeNamed("quiet/orders"))
	wantTurns(t, begin(line, 4))
}

// In a namespace the store with the least time left is first, and one that waits longest
// has each second turn.
func TestStoresOfANamespaceHaveTurns(t *testing.T) {
	t.Parallel()
	line := lineOf(keepLimits{ofOne: 1, ofSilent: 1}, map[string]time.Duration{
		"shop/short": time.Second, "shop/gone": -time.Hour, "shop/over": -time.Second, "shop/long": 2 * time.Hour,
	})
	for _, name := range []string{"shop/a", "shop/long", "shop/b", "shop/short"} {
		line.Push(storeNamed(name))
	}
	turn := func() string {
		name := begin(line, 2)[0]
		line.done(storeNamed(name))
		return name
	}
	wantTurns(t, []string{turn(), turn()}, "shop/short", "shop/a")
	// What is over does not come before what is over too, and has waited longer.
	line.Push(storeNamed("shop/over"))
	line.Push(storeNamed("shop/gone"))
	line.Push(storeNamed("shop/short"))
	wantTurns(t, []string{turn(), turn(), turn(), turn(), turn()}, "shop/over", "shop/long", "shop/gone", "shop/b", "shop/short")
	if line.Len() != 0 || len(line.namespaces) != 0 || len(line.order) != 0 || len(line.turns) != 0 {
		t.Errorf("something is left: %+v", line)
	}
}

// A class that does not answer has half of the turns, until it does.
func TestTurnsOfASilentClass(t *testing.T) {
	t.Parallel()
	line := lineOf(keepLimits{ofOne: 3, ofSilent: 2}, nil)
	for _, name := range []string{"silent:a/1", "silent:b/1", "silent:c/1", "silent:d/1"} {
		line.Push(storeNamed(name))
	}
	line.answered("silent", false)
	wantTurns(t, begin(line, 4), "silent:a/1", "silent:b/1")
	line.Push(storeNamed("other:a/1"))
	wantTurns(t, begin(line, 4), "other:a/1")
	line.done(storeNamed("silent:a/1"))
	wantTurns(t, begin(line, 4), "silent:c/1")
	line.answered("silent", true)
	wantTurns(t, begin(line, 4), "silent:d/1")
}

// Stores that were not answered in time, and those of classes that do not answer, have half of the
// turns together, so that others have theirs.
func TestTurnsThatOnlyWait(t *testing.T) {
	t.Parallel()
	line := lineOf(keepLimits{ofOne: 3, ofSilent: 2}, nil)
	for _, name := range []string{"one:a/1", "two:a/1", "three:a/late", "three:b/late", "three:c/1", "three:a/1", "three:d/1"} {
		line.Push(storeNamed(name))
	}
	line.answered("one", false)
	line.answered("two", false)
	wantTurns(t, begin(line, 4), "one:a/1", "two:a/1", "three:a/1", "three:c/1")
	line.done(storeNamed("three:c/1"))
	wantTurns(t, begin(line, 4), "three:d/1")
	line.done(storeNamed("two:a/1"))
	wantTurns(t, begin(line, 4), "three:b/late")
	// Its own turn has shown that it answers.
	line.answered("one", true)
	wantTurns(t, begin(line, 4), "three:a/late")
}

// Workers that wait at the queue get what comes, in the order of the line, and each store once at a time.
func TestQueueOfTheLine(t *testing.T) {
	t.Parallel()
	line := lineOf(keepLimits{ofOne: 3, ofSilent: 2}, map[string]time.Duration{"shop/short": time.Second})
	queue := line.queue("", workqueue.DefaultTypedControllerRateLimiter[reconcile.Request]())
	defer queue.ShutDown()
	for _, name := range []string{"shop/a", "shop/b", "shop/short", "shop/a"} {
		queue.Add(storeNamed(name))
	}
	get := func() string {
		request, _ := queue.Get()
		return request.String()
	}
	end := func(name string) {
		line.done(storeNamed(name))
		queue.Done(storeNamed(name))
	}
	wantTurns(t, []string{get(), get()}, "shop/short", "shop/a")
	// It has a turn, and waits for its end.
	queue.Add(storeNamed("shop/short"))
	wantTurns(t, []string{get()}, "shop/b")
	got := make(chan string)
	go func() { got <- get() }()
	end("shop/short")
	wantTurns(t, []string{<-got}, "shop/short")
	go func() { got <- get() }()
	queue.AddAfter(storeNamed("other/a"), time.Millisecond)
	wantTurns(t, []string{<-got}, "other/a")
}
