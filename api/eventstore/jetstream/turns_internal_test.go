package jetstream

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
)

func held(subject string, sequence, before uint64, known bool) *delivery {
	return &delivery{message: &message{Subject: subject, Sequence: sequence}, before: before, known: known, attempt: 1}
}

func sequencesReady(t *turns) []uint64 {
	sequences := []uint64{}
	for _, d := range t.ready() {
		sequences = append(sequences, d.message.Sequence)
	}
	return sequences
}

func TestTurns(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		floor   uint64
		settled []uint64
		arrive  []*delivery
		want    []uint64
	}{
		"the first of an actor":               {0, nil, []*delivery{held("a", 5, 0, true)}, []uint64{5}},
		"after what is below the floor":       {4, nil, []*delivery{held("a", 5, 4, true), held("b", 7, 3, true)}, []uint64{5, 7}},
		"after what another member has":       {2, nil, []*delivery{held("a", 5, 4, true)}, []uint64{}},
		"after what another member settled":   {2, []uint64{4}, []*delivery{held("a", 5, 4, true)}, []uint64{5}},
		"not proven":                          {2, []uint64{4}, []*delivery{held("a", 6, 4, false)}, []uint64{}},
		"not proven, and all before is done":  {5, nil, []*delivery{held("a", 6, 4, false)}, []uint64{6}},
		"one of an actor at a time, in order": {1, nil, []*delivery{held("a", 7, 3, true), held("a", 3, 1, true), held("b", 4, 0, true)}, []uint64{3, 4}},
	} {
		turns, err := newTurns(c.floor)
		if err != nil {
			t.Fatal(err)
		}
		for _, sequence := range c.settled {
			turns.settle(sequence)
		}
		for _, d := range c.arrive {
			turns.arrive(d)
		}
		if got := sequencesReady(turns); fmt.Sprint(got) != fmt.Sprint(c.want) {
			t.Errorf("%s: ready are %v, want %v", name, got, c.want)
		}
		if got := sequencesReady(turns); len(got) != 0 {
			t.Errorf("%s: ready twice are %v", name, got)
		}
	}
}

// An event that was not settled in time is handed out once more, and only what
// comes first of its actor.
func TestTurnsOnceMore(t *testing.T) {
	t.Parallel()
	turns, err := newTurns(0)
	if err != nil {
		t.Fatal(err)
	}
	first := held("a", 1, 0, true)
	turns.arrive(first)
	turns.arrive(held("a", 2, 1, true))
	if got := sequencesReady(turns); fmt.Sprint(got) != "[1]" {
		t.Fatalf("ready are %v", got)
	}
	again := held("a", 1, 0, true)
	again.attempt = 2
	turns.arrive(again)
	if got := sequencesReady(turns); fmt.Sprint(got) != "[1]" || first.attempt != 2 {
		t.Errorf("once more ready are %v, in attempt %d", got, first.attempt)
	}
	turns.drop(first)
	if blocked := turns.blocked(); len(blocked) != 1 || blocked[0].before != 1 {
		t.Errorf("blocked are %v, want 2", blocked)
	}
	turns.settle(1)
	if got := sequencesReady(turns); fmt.Sprint(got) != "[2]" {
		t.Errorf("ready are %v, want 2", got)
	}
}

func TestParkedEvents(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	p := &parkedEvents{}
	for _, e := range []parkedEvent{{Sequence: 9, ActorID: "a"}, {Sequence: 3, ActorID: "a"}, {Sequence: 5, ActorID: "b"}, {Sequence: 3, ActorID: "a"}} {
		if err := p.park(e); err != nil {
			t.Fatal(err)
		}
	}
	if len(p.Events) != 3 || p.Events[0].Sequence != 3 || p.Events[2].Sequence != 9 {
		t.Fatalf("parked are %+v", p.Events)
	}
	if taken := p.take(now, time.Minute, 10); len(taken) != 0 {
		t.Errorf("taken without a replay: %+v", taken)
	}
	if n := p.replay(nil); n != 3 {
		t.Errorf("%d are marked, want 3", n)
	}
	// Of each actor the first, and no second time while it is leased.
	if taken := p.take(now, time.Minute, 10); len(taken) != 2 || taken[0].Sequence != 3 || taken[1].Sequence != 5 {
		t.Errorf("taken are %+v, want 3 and 5", taken)
	}
	if taken := p.take(now.Add(time.Second), time.Minute, 10); len(taken) != 0 {
		t.Errorf("taken while they are leased: %+v", taken)
	}
	if taken := p.take(now.Add(2*time.Minute), time.Minute, 1); len(taken) != 1 || taken[0].Sequence != 3 || taken[0].Attempts != 2 {
		t.Errorf("taken after the lease: %+v, want 3 in attempt 2", taken)
	}
	p.remove(3)
	if taken := p.take(now.Add(5*time.Minute), time.Minute, 10); len(taken) != 2 {
		t.Errorf("taken are %+v, want 5 and 9", taken)
	}
	for n := range eventstore.MaxParked - len(p.Events) {
		if err := p.park(parkedEvent{Sequence: uint64(n) + 100}); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.park(parkedEvent{Sequence: 1}); !errors.Is(err, eventstore.ErrTooManyParked) {
		t.Errorf("one too many: %v", err)
	}
}

// No actor's id is encoded as what stands in the subject of parked events.
func TestParkedSubjectIsNoActors(t *testing.T) {
	t.Parallel()
	if actorID, err := decodeActor(parkedSubject("shop_orders", "projection")); err == nil {
		t.Errorf("it is that of actor %q", actorID)
	}
}
