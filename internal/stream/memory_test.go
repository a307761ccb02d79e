package stream_test

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"git.flowmade.one/flowmade-one/aether-operator/internal/stream"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv/natsserver"
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
	memory.Note("standard", seen(created, 109), stream.Session{})
	memory.NoteUnjudged("standard", seen(created.Add(time.Hour), 105), stream.Session{})
	if raised := memory.Raise("standard", *recordOf(100)); raised.LastSequence != 109 {
		t.Errorf("raised to %d, want 109", raised.LastSequence)
	}
	memory.NoteUnjudged("standard", seen(created, 110), stream.Session{})
	if raised := memory.Raise("standard", *recordOf(100)); raised.LastSequence != 110 {
		t.Errorf("raised to %d by the same stream, want 110", raised.LastSequence)
	}
	memory.Note("standard", seen(created.Add(time.Hour), 105), stream.Session{})
	if now, _ := memory.Seen("standard", "shop_orders"); now.LastSequence != 105 {
		t.Errorf("after a pass has judged it, %d is remembered, want 105", now.LastSequence)
	}
}

// In another session a stream counts as going on only from the place where it was, until
// a pass has looked: its servers may have come back with less, and been written to since.
func TestMemoryOfAnotherSession(t *testing.T) {
	t.Parallel()
	nc := natsserver.Run(t, 1).Connect(t)
	connect := func() stream.Session {
		connections := stream.NewConnections(func(stream.Notice) {}, func(string, time.Duration, error) {}, nobodyKnows)
		t.Cleanup(connections.Close)
		conn, err := connections.Get(t.Context(), stream.Target{Class: "c", Servers: []string{nc.ConnectedUrl()}})
		if err != nil {
			t.Fatal(err)
		}
		return conn.Session()
	}
	first, second := connect(), connect()
	at := func(last uint64, at time.Time) *jetstream.StreamInfo {
		return &jetstream.StreamInfo{
			Config: jetstream.StreamConfig{Name: "shop_orders"}, Created: created,
			State: jetstream.StreamState{Msgs: last, LastSeq: last, LastTime: at},
		}
	}
	m := stream.NewMemory()
	recorded, later := recordOf(5), created.Add(time.Minute)
	if !m.GoesOn("c", recorded, at(5, created), first) || m.GoesOn("c", recorded, at(6, later), first) || m.GoesOn("c", recorded, at(5, later), first) {
		t.Error("what is not known goes on from where it was alone")
	}
	m.NoteUnjudged("c", at(6, later), first)
	if raised := m.Raise("c", *recorded); raised.LastSequence != 5 || m.GoesOn("c", recorded, at(6, later), first) {
		t.Errorf("nobody has judged it, and it is at %d", raised.LastSequence)
	}
	m.Note("c", at(6, later), first)
	m.NoteUnjudged("c", at(8, later), first)
	raised := m.Raise("c", *recorded)
	if raised.LastSequence != 8 || !m.GoesOn("c", &raised, at(9, later), first) {
		t.Errorf("in the same session it is at %d", raised.LastSequence)
	}
	m.NoteUnjudged("c", at(9, later), second)
	raised = m.Raise("c", *recorded)
	if raised.LastSequence != 8 || m.GoesOn("c", &raised, at(9, later), second) {
		t.Errorf("in another session it is at %d before it is judged", raised.LastSequence)
	}
	m.Note("c", at(9, later), second)
	if m.Doubt("c", "shop_orders"); m.GoesOn("c", recordOf(8), at(9, later), second) {
		t.Error("a stream that was changed goes on before it is judged")
	}
	if seen, _ := m.Seen("c", "shop_orders"); seen.Messages != 9 {
		t.Errorf("its figures are %+v", seen)
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
	m.Note("c", live, stream.Session{})
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
	m.Note("c", live, stream.Session{})
	m.NoteFirst("c", "shop_orders", created.Add(time.Second))
	if seen, _ := m.Seen("c", "shop_orders"); seen.LastSequence != 7 {
		t.Errorf("the first event takes back what came after it: %+v", seen)
	}
}
