package stream_test

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"git.flowmade.one/flowmade-one/aether-operator/internal/stream"
)

// What was seen of a stream is not forgotten for another of its name, such as one that
// was restored from an older backup, before a pass has compared the two.
func TestMemoryKeepsWhatWasLost(t *testing.T) {
	t.Parallel()
	seen := func(made time.Time, last uint64) *jetstream.StreamInfo {
		return &jetstream.StreamInfo{
			Config: jetstream.StreamConfig{Name: "shop_orders"}, Created: made,
			State: jetstream.StreamState{Msgs: last, LastSeq: last, LastTime: made},
		}
	}
	memory := stream.NewMemory()
	memory.Note("standard", seen(created, 109))
	memory.NoteUnjudged("standard", seen(created.Add(time.Hour), 105))
	if raised := memory.Raise("standard", *recordOf(100)); raised.LastSequence != 109 {
		t.Errorf("raised to %d, want 109", raised.LastSequence)
	}
	memory.NoteUnjudged("standard", seen(created, 110))
	if raised := memory.Raise("standard", *recordOf(100)); raised.LastSequence != 110 {
		t.Errorf("raised to %d by the same stream, want 110", raised.LastSequence)
	}
	memory.Note("standard", seen(created.Add(time.Hour), 105))
	if now, _ := memory.Seen("standard", "shop_orders"); now.LastSequence != 105 {
		t.Errorf("after a pass has judged it, %d is remembered, want 105", now.LastSequence)
	}
}

// The first event of a stream counts from the moment in which the server tells of it,
// and that of an earlier stream of its name does not.
func TestMemoryOfFirstEvents(t *testing.T) {
	t.Parallel()
	m := stream.NewMemory()
	live := &jetstream.StreamInfo{Created: created}
	live.Config.Name = "shop_orders"
	m.NoteFirst("c", "shop_orders", created)
	if _, known := m.Seen("c", "shop_orders"); known {
		t.Error("a stream is known that nobody has seen")
	}
	m.Note("c", live)
	m.NoteFirst("c", "shop_orders", created.Add(-time.Second))
	m.NoteFirst("c", "shop_orders", time.Time{})
	if seen, _ := m.Seen("c", "shop_orders"); seen.LastSequence != 0 {
		t.Errorf("an event of an earlier stream counts: %+v", seen)
	}
	m.NoteFirst("c", "shop_orders", created.Add(time.Second))
	if seen, _ := m.Seen("c", "shop_orders"); seen.LastSequence != 1 || seen.Messages != 1 || !seen.LastTime.Equal(created.Add(time.Second)) {
		t.Errorf("after the first event it is %+v", seen)
	}
	live.State = jetstream.StreamState{Msgs: 7, LastSeq: 7, LastTime: created.Add(time.Minute)}
	m.Note("c", live)
	m.NoteFirst("c", "shop_orders", created.Add(time.Second))
	if seen, _ := m.Seen("c", "shop_orders"); seen.LastSequence != 7 {
		t.Errorf("the first event takes back what came after it: %+v", seen)
	}
}
