package jetstream

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go"
)

// Members believe each other, and nobody whose stream answers on their subject.
func TestMembersHearMembersAlone(t *testing.T) {
	t.Parallel()
	turns, err := newTurns(0)
	if err != nil {
		t.Fatal(err)
	}
	d := &durable{turns: turns, changed: make(chan struct{})}
	settled := []byte("settled 1")
	d.hear(&nats.Msg{Data: settled, Header: nats.Header{headerStream: {"other"}}})
	if turns.isSettled(1) {
		t.Error("an answer to a direct get was taken for a member's word")
	}
	d.hear(&nats.Msg{Data: settled, Reply: "$JS.ACK.other.mine.1.1.1.1.0"})
	if turns.isSettled(1) {
		t.Error("a message of another stream was taken for a member's word")
	}
	d.hear(&nats.Msg{Data: settled})
	if !turns.isSettled(1) {
		t.Error("a member was not heard")
	}
}

// A request for messages ends before what it swallows is delivered again, and the
// server takes none that is shorter than two heartbeats.
func TestRequestsEndBeforeAckWait(t *testing.T) {
	t.Parallel()
	for ackWait, want := range map[time.Duration]time.Duration{
		time.Second: 2 * heartbeat, 4 * time.Second: 2 * time.Second, 30 * time.Second: 5 * time.Second,
	} {
		if got := durablePullExpires(ackWait); got != want || got > ackWait {
			t.Errorf("with an AckWait of %s a request holds %s, want %s", ackWait, got, want)
		}
	}
}
