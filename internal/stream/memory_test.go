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
