package controller

import (
	"testing"
	"time"
)

// Whoever interferes again and again is answered at once, then after pauses that
// grow, and anew after half an hour of peace.
func TestContest(t *testing.T) {
	t.Parallel()
	c, now := newContests(), time.Now()
	for range contestPatience - 1 {
		if k := c.healed("uid", now); k.until.After(now) {
			t.Fatalf("a pause after %d times", k.healed)
		}
	}
	want := contestPause
	for range 20 {
		if k := c.healed("uid", now); k.until.Sub(now) != want {
			t.Fatalf("a pause of %s after %d times, want %s", k.until.Sub(now), k.healed, want)
		}
		want = min(2*want, contestMaxPause)
	}
	if k := c.of("uid", now); k.healed != contestPatience+19 || !k.first.Equal(now) {
		t.Errorf("a contest of %d times since %s", k.healed, k.first)
	}
	if k := c.of("other", now); k.healed != 0 {
		t.Errorf("another store has a contest of %d times", k.healed)
	}
	later := now.Add(contestOver)
	if k := c.of("uid", later); k.healed != 0 {
		t.Errorf("a contest of %d times after a time of peace", k.healed)
	}
	if k := c.healed("uid", later); k.healed != 1 || len(c.stores) != 1 {
		t.Errorf("a contest of %d times and %d stores after a time of peace", k.healed, len(c.stores))
	}
}
