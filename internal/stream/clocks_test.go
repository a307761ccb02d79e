package stream_test

import (
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/stream"
)

// A clock that is behind for a moment, that of the server or that here, makes no shorter age
// safe: when it is set right the events go. One that is ahead makes a person decide.
func TestNoClockAloneMakesAShorterAgeSafe(t *testing.T) {
	t.Parallel()
	now := time.Now()
	for name, test := range map[string]struct {
		// How far the clocks are off.
		server, here time.Duration
		// Ages by the right clock, and the one that is asked for.
		oldest, newest, wanted time.Duration
		waits                  bool
	}{
		"both right, older":                 {0, 0, 2 * time.Minute, time.Minute, 90 * time.Second, true},
		"both right, younger":               {0, 0, 2 * time.Minute, time.Minute, 3 * time.Minute, false},
		"server a day behind":               {-day, 0, 2 * time.Hour, 90 * time.Minute, time.Hour, true},
		"operator a day behind":             {0, -day, 2 * time.Hour, 90 * time.Minute, time.Hour, true},
		"both behind what was just saved":   {-day, -day, 2 * time.Hour, 0, time.Hour, true},
		"server a day ahead":                {day, 0, 2 * time.Minute, time.Minute, time.Hour, true},
		"operator a day ahead":              {0, day, 2 * time.Minute, time.Minute, time.Hour, true},
		"apart, and younger by both clocks": {-day, 0, 2 * time.Minute, time.Minute, time.Hour, false},
	} {
		live := &jetstream.StreamInfo{
			Config:    jetstream.StreamConfig{Name: "shop_orders", MaxAge: 365 * day},
			State:     jetstream.StreamState{Msgs: 3, FirstSeq: 1, LastSeq: 3, FirstTime: now.Add(-test.oldest), LastTime: now.Add(-test.newest)},
			TimeStamp: now.Add(test.server),
		}
		wanted := stream.Wanted{Role: v1alpha1.StreamRoleEvents, Config: live.Config}
		wanted.Config.MaxAge = test.wanted
		plan := stream.NewPlan(wanted, live, now.Add(test.here))
		if waits := len(plan.With(stream.DestroysData)) > 0; waits != test.waits {
			t.Errorf("%s: waits for a person: %t, of %+v", name, waits, plan.Steps)
		}
	}
}

// Messages have expired when both clocks say so. Where one alone does they are lost, and it
// is told that the clocks differ.
func TestNoClockAloneExplainsALoss(t *testing.T) {
	t.Parallel()
	now := time.Now()
	for name, test := range map[string]struct {
		server, here time.Duration
		// age of the newest message, of which all are gone, by the right clock.
		newest time.Duration
		lost   bool
		differ bool
	}{
		"both right, purged":             {0, 0, time.Minute, true, false},
		"both right, expired":            {0, 0, 2 * time.Hour, false, false},
		"expired a moment ago, here not": {0, -30 * time.Second, time.Hour + time.Second, false, false},
		"server two years ahead":         {2 * 365 * day, 0, time.Minute, true, true},
		"operator two years ahead":       {0, 2 * 365 * day, time.Minute, true, true},
		"both two years ahead":           {2 * 365 * day, 2 * 365 * day, time.Minute, false, false},
		"server a day behind":            {-day, 0, 2 * time.Hour, true, true},
		"operator a day behind":          {0, -day, 2 * time.Hour, true, true},
		"apart, and expired by both":     {0, -day, 2 * day, false, false},
	} {
		live := &jetstream.StreamInfo{
			Config: jetstream.StreamConfig{Name: "shop_orders", MaxAge: time.Hour}, Created: now.Add(-10 * day),
			State: jetstream.StreamState{Msgs: 3, FirstSeq: 1, LastSeq: 3, FirstTime: now.Add(-test.newest), LastTime: now.Add(-test.newest)},
		}
		seen := stream.StatusOf(v1alpha1.StreamRoleEvents, live)
		live.State = jetstream.StreamState{FirstSeq: 4, LastSeq: 3, LastTime: live.State.LastTime}
		live.TimeStamp = now.Add(test.server)
		loss := stream.LossOf(&seen, live, now.Add(test.here))
		if (loss != nil) != test.lost {
			t.Errorf("%s: %+v", name, loss)
			continue
		}
		if loss != nil && strings.Contains(loss.Message, "more than a minute apart") != test.differ {
			t.Errorf("%s: it says %q", name, loss.Message)
		}
	}
	// A server that does not tell its time.
	live := &jetstream.StreamInfo{Config: jetstream.StreamConfig{Name: "shop_orders", MaxAge: time.Hour}, Created: now, State: jetstream.StreamState{Msgs: 1, FirstSeq: 1, LastSeq: 1, LastTime: now}}
	seen := stream.StatusOf(v1alpha1.StreamRoleEvents, live)
	live.State = jetstream.StreamState{FirstSeq: 2, LastSeq: 1}
	if stream.LossOf(&seen, live, now.Add(time.Minute)) == nil || stream.LossOf(&seen, live, now.Add(2*time.Hour)) != nil {
		t.Error("where the server tells no time the clock here does not count")
	}
}
