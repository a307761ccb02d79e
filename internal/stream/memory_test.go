package stream_test

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
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
	memory.Note("standard", seen(created, 110))
	if raised := memory.Raise("standard", *recordOf(100)); raised.LastSequence != 110 {
		t.Errorf("raised to %d by the same stream, want 110", raised.LastSequence)
	}
	memory.Note("standard", seen(created.Add(time.Hour), 105))
	if now, _ := memory.Seen("standard", "shop_orders"); now.LastSequence != 105 {
		t.Errorf("after a pass has judged it, %d is remembered, want 105", now.LastSequence)
	}
}

// A stream is remembered where it was until somebody has seen it to go on from there, while
// its figures are as it is.
func TestMemoryOfPlaces(t *testing.T) {
	t.Parallel()
	at := func(last uint64, at time.Time) *jetstream.StreamInfo {
		return &jetstream.StreamInfo{
			Config: jetstream.StreamConfig{Name: "shop_orders"}, Created: created,
			State: jetstream.StreamState{Msgs: last, LastSeq: last, LastTime: at},
		}
	}
	place := func(m *stream.Memory) int64 { return m.Raise("c", *recordOf(5)).LastSequence }
	m, later := stream.NewMemory(), created.Add(time.Minute)
	m.NoteUnjudged("c", at(6, later))
	if now := place(m); now != 5 {
		t.Errorf("nobody has judged it, and it is at %d", now)
	}
	m.Note("c", at(6, later))
	m.NoteUnjudged("c", at(8, later))
	if seen, _ := m.Seen("c", "shop_orders"); place(m) != 6 || !seen.LastTime.Equal(later) || seen.Messages != 8 {
		t.Errorf("it is at %+v", seen)
	}
	m.Note("c", at(8, later))
	m.Note("c", at(7, later))
	if now := place(m); now != 8 {
		t.Errorf("after it went back it is at %d", now)
	}
	m.NoteLost("c", at(9, later))
	m.NoteUnjudged("c", at(10, later))
	if now := place(m); now != 5 {
		t.Errorf("what is saved after a loss raises it to %d", now)
	}
	since := func() int64 { return m.RaiseSince("c", *recordOf(5)).LastSequence }
	if now := since(); now != 9 {
		t.Errorf("since the loss it was seen at %d, want 9", now)
	}
	m.NoteLost("c", at(7, later))
	if now := since(); now != 9 {
		t.Errorf("since the loss it went back and is at %d, want 9", now)
	}
	m.Forget("c", "shop_orders")
	m.NoteLost("c", at(7, later))
	if now := since(); now != 7 {
		t.Errorf("once that is on record it is at %d, want 7", now)
	}
}

// How many subjects a stream of snapshots has is remembered together with its place.
func TestMemoryOfSubjects(t *testing.T) {
	t.Parallel()
	at := func(last, subjects uint64) *jetstream.StreamInfo {
		return &jetstream.StreamInfo{
			Config: jetstream.StreamConfig{Name: "shop_orders"}, Created: created,
			State: jetstream.StreamState{Msgs: subjects, LastSeq: last, NumSubjects: subjects, LastTime: created},
		}
	}
	recorded := *recordOf(5)
	recorded.Role, recorded.Subjects = v1alpha1.StreamRoleSnapshots, 4
	m := stream.NewMemory()
	for _, step := range []struct {
		what string
		note func()
		want int64
	}{
		{"nothing was seen", func() {}, 4},
		{"one was erased", func() { m.Note("c", at(5, 3)) }, 3},
		{"two came", func() { m.Note("c", at(8, 5)) }, 5},
		{"it went back", func() { m.Note("c", at(7, 2)) }, 5},
		{"nobody has judged it", func() { m.NoteUnjudged("c", at(9, 1)) }, 5},
		{"it was lost", func() { m.NoteLost("c", at(9, 1)) }, 4},
	} {
		step.note()
		if now := m.Raise("c", recorded).Subjects; now != step.want {
			t.Errorf("%s: %d subjects, want %d", step.what, now, step.want)
		}
	}
	if now := m.Raise("c", *recordOf(5)).Subjects; now != 0 {
		t.Errorf("a stream of events has %d subjects", now)
	}
}

// The first event of a stream counts from the moment in which the server tells of it,
// and that of an earlier stream of its name does not.
func TestMemoryOfFirstEvents(t *testing.T) {
	t.Parallel()
	m := stream.NewMemory()
	live := &jetstream.StreamInfo{Created: created}
	live.Config.Name = "shop_orders"
	first := func(after time.Duration) stream.Stored { return stream.Stored{Sequence: 3, Time: created.Add(after)} }
	m.NoteFirst("c", "shop_orders", first(0))
	if _, known := m.Seen("c", "shop_orders"); known {
		t.Error("a stream is known that nobody has seen")
	}
	m.Note("c", live)
	m.NoteFirst("c", "shop_orders", first(-time.Second))
	if seen, _ := m.Seen("c", "shop_orders"); seen.LastSequence != 0 {
		t.Errorf("an event of an earlier stream counts: %+v", seen)
	}
	m.NoteFirst("c", "shop_orders", first(time.Second))
	if seen, _ := m.Seen("c", "shop_orders"); seen.LastSequence != 3 || seen.Messages != 1 || !seen.LastTime.Equal(created.Add(time.Second)) {
		t.Errorf("after the first event it is %+v", seen)
	}
	live.State = jetstream.StreamState{Msgs: 7, LastSeq: 7, LastTime: created.Add(time.Minute)}
	m.Note("c", live)
	m.NoteFirst("c", "shop_orders", first(time.Second))
	if seen, _ := m.Seen("c", "shop_orders"); seen.LastSequence != 7 {
		t.Errorf("the first event takes back what came after it: %+v", seen)
	}
}
