package group

import (
	"strings"
	"testing"
	"time"
)

// An actor that waits takes no more memory for each event that comes after.
func TestWhatComesAfterOneThatWaitsTakesNoMemory(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	const actor = "order.order-1"
	main := Main{Epoch: 1, Revision: 1, Coordinator: "a", Key: "k", AckWait: time.Minute, MaxDeliveries: 5, Top: 1}
	shard := ShardOf(actor)
	main.Shards.Add(shard)
	m := New(Config{Alone: true}, main, map[int]Shard{shard: {Lines: []Line{{Actor: actor, First: 1, Attempts: 1, Due: now.Add(time.Hour)}}}}, now)
	for sequence := uint64(2); sequence < 10_000; sequence++ {
		m.Arrived(now, Arrival{Sequence: sequence, Actor: actor, At: now})
		m.Tick(now)
		if _, is := m.Main(); is {
			m.Committed(now)
		}
		for _, w := range m.Shards() {
			m.ShardCommitted(now, w.Number)
		}
	}
	if len(m.late) > 1 || len(m.actors) > 1 {
		t.Errorf("%d of those that wait are listed, of %d actors", len(m.late), len(m.actors))
	}
	// What was read and is not passed yet has its room in the window.
	if len(m.tasks) > m.config.Window || len(m.window) > 2*m.config.Window {
		t.Errorf("%d events are known, %d in the window", len(m.tasks), len(m.window))
	}
}

// What is due is a time from now on, whatever the clock of this machine is set to meanwhile.
func TestWhatIsDueDoesNotGoByTheTimeOfDay(t *testing.T) {
	now := time.Now()
	const actor = "order.order-1"
	main := Main{Epoch: 1, Revision: 1, Coordinator: "a", Key: "k", AckWait: time.Minute, MaxDeliveries: 5, Top: 1}
	shard := ShardOf(actor)
	main.Shards.Add(shard)
	// The record says it in the time of the server, which is a minute ahead.
	due := now.Add(2 * time.Minute).UTC().Round(0)
	m := New(Config{Alone: true, Offset: time.Minute}, main, map[int]Shard{shard: {Lines: []Line{{Actor: actor, First: 1, Attempts: 1, Due: due}}}}, now)
	wake := m.Wake()
	// Of a time of day alone Sub answers the same, and String has no reading of the other clock.
	if left := wake.Sub(now); left != time.Minute || !strings.Contains(wake.String(), " m=") {
		t.Errorf("it is due at %s, in %s, want a minute by the clock that is not set", wake, left)
	}
	if stored := m.encode(m.shards[shard]).Lines[0].Due; !stored.Equal(due) {
		t.Errorf("stored as %s, want %s", stored, due)
	}
}
