package controller

import (
	"context"
	"testing"
	"time"

	layout "git.flowmade.one/flowmade-one/aether-operator/api/eventstore/jetstream"
)

// A store to which much is saved always has some left.
func TestTooMuchLeft(t *testing.T) {
	t.Parallel()
	// Of an age of 8 minutes the window is 4.
	for _, c := range []struct {
		name   string
		more   bool
		behind time.Duration
		want   bool
	}{
		{"nothing", false, 0, false},
		{"what came just now", true, time.Minute, false},
		{"what is about to expire", true, time.Minute + time.Second, true},
	} {
		if got := tooMuchLeft(layout.KeptVersions{More: c.more, Behind: c.behind}, 8*time.Minute); got != c.want {
			t.Errorf("%s: %t, want %t", c.name, got, c.want)
		}
	}
}

// A pass of a store whose servers answer late leaves what is to be kept to its turns.
func TestKeepingInAPassIsLate(t *testing.T) {
	t.Parallel()
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for _, c := range []struct {
		name          string
		pass, bounded context.Context
		answered      bool
		want          bool
	}{
		{"somebody answers, and the time is over", t.Context(), ended, true, true},
		{"nobody answers", t.Context(), ended, false, false},
		{"it fails in time", t.Context(), t.Context(), true, false},
		{"the operator stops", ended, ended, true, false},
	} {
		if got := isLate(c.pass, c.bounded, layout.KeptVersions{Answered: c.answered}); got != c.want {
			t.Errorf("%s: %t", c.name, got)
		}
	}
}
