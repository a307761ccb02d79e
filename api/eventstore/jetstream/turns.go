package jetstream

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
)

// delivery is an event that a member of a durable subscription has: JetStream
// has sent it and waits for its acknowledgement, or it is parked and replayed.
type delivery struct {
	message *message
	event   eventstore.Event
	// reply is where the acknowledgement goes; empty for what is replayed.
	reply   string
	attempt int
	// before is the sequence of the event before it of the same actor, 0 for none,
	// where known says that this is proven.
	before uint64
	known  bool
	// alone: no other member has an event that may come before it.
	alone bool
	// out: it was handed out, or waits in the line of those that are.
	out bool
	// until is when the time of one in hand is over.
	until time.Time
}

// rememberSettled is how many settled sequences above the floor a member
// remembers: more than all members can wait for, see maxAckPending.
const rememberSettled = 1 << 14

// turns decides when a member of a durable subscription may hand an event out:
// when the one before it of the same actor is settled, by whichever member. It
// does nothing but decide.
type turns struct {
	// lines hold what the member has, by subject, in the order of sequences.
	lines map[string][]*delivery
	held  map[uint64]*delivery
	// floor is the sequence up to which everything is settled, and settled are
	// those above it of which the member knows.
	floor   uint64
	settled *simplelru.LRU[uint64, struct{}]
}

func newTurns(floor uint64) (*turns, error) {
	settled, err := simplelru.NewLRU[uint64, struct{}](rememberSettled, nil)
	if err != nil {
		return nil, fmt.Errorf("make the list of settled events: %w", err)
	}
	return &turns{lines: map[string][]*delivery{}, held: map[uint64]*delivery{}, floor: floor, settled: settled}, nil
}

// arrive puts a delivery into the line of its actor. One that the member has
// already was not settled in time, and is to be handed out once more.
func (t *turns) arrive(d *delivery) {
	if earlier := t.held[d.message.Sequence]; earlier != nil {
		earlier.reply, earlier.attempt, earlier.out = d.reply, d.attempt, false
		return
	}
	line := t.lines[d.message.Subject]
	at, _ := slices.BinarySearchFunc(line, d.message.Sequence, func(d *delivery, sequence uint64) int {
		return cmp.Compare(d.message.Sequence, sequence)
	})
	t.lines[d.message.Subject] = slices.Insert(line, at, d)
	t.held[d.message.Sequence] = d
}

// drop takes a delivery out of its line: the member does not have it any more.
func (t *turns) drop(d *delivery) {
	delete(t.held, d.message.Sequence)
	line := slices.DeleteFunc(t.lines[d.message.Subject], func(other *delivery) bool { return other == d })
	if len(line) == 0 {
		delete(t.lines, d.message.Subject)
		return
	}
	t.lines[d.message.Subject] = line
}

// settle remembers that an event is acknowledged or parked.
func (t *turns) settle(sequence uint64) {
	if sequence > t.floor {
		t.settled.Add(sequence, struct{}{})
	}
}

// isSettled says whether the member knows an event to be settled.
func (t *turns) isSettled(sequence uint64) bool {
	return sequence <= t.floor || t.settled.Contains(sequence)
}

// raise moves the floor up.
func (t *turns) raise(floor uint64) { t.floor = max(t.floor, floor) }

// ready takes the deliveries whose turn it is, in the order of sequences, and
// marks them as out.
func (t *turns) ready() []*delivery {
	var ready []*delivery
	for _, line := range t.lines {
		if first := line[0]; !first.out && t.free(first) {
			first.out = true
			ready = append(ready, first)
		}
	}
	slices.SortFunc(ready, func(a, b *delivery) int { return cmp.Compare(a.message.Sequence, b.message.Sequence) })
	return ready
}

func (t *turns) free(d *delivery) bool {
	return d.alone || d.known && (d.before == 0 || t.isSettled(d.before)) || t.floor+1 >= d.message.Sequence
}

// blocked are the first of their lines that wait for what another member has.
func (t *turns) blocked() []*delivery {
	var blocked []*delivery
	for _, line := range t.lines {
		if first := line[0]; !first.out && !t.free(first) {
			blocked = append(blocked, first)
		}
	}
	return blocked
}
