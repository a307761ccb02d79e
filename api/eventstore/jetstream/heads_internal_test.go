package jetstream

import (
	"fmt"
	"testing"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/internal/versioning"
)

func TestHeads(t *testing.T) {
	t.Parallel()
	metrics := &eventstore.Metrics{}
	h, err := newHeads(2, metrics)
	if err != nil {
		t.Fatal(err)
	}
	want := func(actorID string, sequence uint64, found, sure bool) {
		t.Helper()
		got, is, certain := h.get(actorID)
		if got.sequence != sequence || is != found || certain != sure {
			t.Errorf("%s is at %d, found %t, sure %t; want %d, %t, %t", actorID, got.sequence, is, certain, sequence, found, sure)
		}
	}
	want("a", 0, false, true)
	h.put("a", 0, head{sequence: 5, saved: true})
	want("a", 5, true, true)
	// A read that began before the save, and knows less.
	h.put("a", 0, head{sequence: 3})
	want("a", 5, true, true)
	// The leader has said that there is less than was known: a stream made anew.
	h.put("a", 5, head{sequence: 3})
	want("a", 3, true, true)
	// And one that began before that, and brings back what was.
	h.put("a", 5, head{sequence: 5})
	want("a", 5, true, true)
	h.put("b", 0, head{sequence: 6})
	h.put("c", 0, head{sequence: 7})
	// What was saved to is forgotten, and only that makes the rest unsure.
	want("a", 0, false, false)
	if got := metrics.HeadsCached.Load(); got != 2 {
		t.Errorf("%d heads are counted, want 2", got)
	}
	h, err = newHeads(1, metrics)
	if err != nil {
		t.Fatal(err)
	}
	h.put("a", 0, head{sequence: 1})
	h.put("b", 0, head{sequence: 2})
	want("a", 0, false, true)
}

func TestRecentIDs(t *testing.T) {
	t.Parallel()
	if recentIDs(nil).with("a") != nil {
		t.Error("what is not known has become known")
	}
	r := recentIDs{}
	for n := range 100 {
		before := r
		r = r.with(fmt.Sprint(n))
		if n > 0 && !before.contains(fmt.Sprint(n-1)) {
			t.Fatalf("%d was changed in place", n)
		}
	}
	if len(r) != versioning.RecentEvents || r.contains("35") || !r.contains("36") || !r.contains("99") {
		t.Errorf("%d ids are kept, want the newest %d", len(r), versioning.RecentEvents)
	}
}
