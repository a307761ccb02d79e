package jetstream

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
)

// parkedSubject is where a durable subscription keeps what it has parked: one
// message in the snapshots stream, replaced under compare-and-set. No actor has
// this subject, since "%pa" is not how EncodeToken encodes anything.
func parkedSubject(stream, durable string) string { return stream + ".snapshots.%parked." + durable }

// parkedEvents is that message.
type parkedEvents struct {
	Events []parkedEvent `json:"events"`
}

// parkedEvent is an event that was put aside.
type parkedEvent struct {
	Sequence uint64    `json:"sequence"`
	ActorID  string    `json:"actorId"`
	Attempts int       `json:"attempts"`
	Reason   string    `json:"reason"`
	At       time.Time `json:"at"`
	// Replaying: it is to be delivered again. Until Lease a member has it in hand.
	Replaying bool      `json:"replaying,omitempty"`
	Lease     time.Time `json:"lease,omitzero"`
}

// maxReason keeps MaxParked events well below the 1 MB of a message.
const maxReason = 256

func (p *parkedEvents) find(sequence uint64) *parkedEvent {
	for i := range p.Events {
		if p.Events[i].Sequence == sequence {
			return &p.Events[i]
		}
	}
	return nil
}

// park puts an event aside. Doing it twice is doing it once.
func (p *parkedEvents) park(e parkedEvent) error {
	e.Reason = e.Reason[:min(len(e.Reason), maxReason)]
	if parked := p.find(e.Sequence); parked != nil {
		*parked = e
		return nil
	}
	if len(p.Events) >= eventstore.MaxParked {
		return fmt.Errorf("%w: %d", eventstore.ErrTooManyParked, len(p.Events))
	}
	p.Events = append(p.Events, e)
	slices.SortFunc(p.Events, func(a, b parkedEvent) int { return cmp.Compare(a.Sequence, b.Sequence) })
	return nil
}

// remove takes an event off the list, and says whether it was there.
func (p *parkedEvents) remove(sequence uint64) bool {
	before := len(p.Events)
	p.Events = slices.DeleteFunc(p.Events, func(e parkedEvent) bool { return e.Sequence == sequence })
	return len(p.Events) < before
}

// replay marks events for delivery, all where none is named, and counts them.
func (p *parkedEvents) replay(sequences []uint64) int {
	marked := 0
	for i := range p.Events {
		if len(sequences) == 0 || slices.Contains(sequences, p.Events[i].Sequence) {
			p.Events[i].Replaying, p.Events[i].Attempts = true, 0
			marked++
		}
	}
	return marked
}

// take leases what may be delivered, at most so many: of each actor the first
// that is to be replayed, unless a member has it.
func (p *parkedEvents) take(now time.Time, lease time.Duration, most int) []parkedEvent {
	var taken []parkedEvent
	met := map[string]bool{}
	for i := range p.Events {
		e := &p.Events[i]
		if !e.Replaying || met[e.ActorID] {
			continue
		}
		met[e.ActorID] = true
		if len(taken) < most && e.Lease.Before(now) {
			e.Lease = now.Add(lease)
			e.Attempts++
			taken = append(taken, *e)
		}
	}
	return taken
}

func (s *Store) readParked(ctx context.Context, durable string) (parkedEvents, uint64, error) {
	var parked parkedEvents
	m, err := s.leaderGet(ctx, s.config.SnapshotsStream, getRequest{LastBySubject: parkedSubject(s.config.EventsStream, durable)})
	if err != nil || m == nil {
		return parked, 0, err
	}
	if err := json.Unmarshal(m.Data, &parked); err != nil {
		return parked, 0, fmt.Errorf("message %d of stream %s lists no parked events, and nothing is parked or replayed until it is removed: %w",
			m.Sequence, s.config.SnapshotsStream, err)
	}
	return parked, m.Sequence, nil
}

// changeParked reads what is parked, changes it and writes it back, anew for as
// long as other members are faster. What change does must come to the same when
// it is done twice. It writes nothing where change says that nothing changed.
func (s *Store) changeParked(ctx context.Context, durable string, change func(*parkedEvents) (bool, error)) error {
	return retry(ctx, func() error {
		err := s.tryChangeParked(ctx, durable, change)
		if isConflict(err) {
			err = fmt.Errorf("%w: %w", errAgain, err)
		}
		return err
	})
}

func (s *Store) tryChangeParked(ctx context.Context, durable string, change func(*parkedEvents) (bool, error)) error {
	parked, sequence, err := s.readParked(ctx, durable)
	if err != nil {
		return err
	}
	changed, err := change(&parked)
	if err != nil || !changed {
		return err
	}
	data, err := json.Marshal(parked)
	if err != nil {
		return fmt.Errorf("encode parked events: %w", err)
	}
	_, err = s.publish(ctx, &nats.Msg{
		Subject: parkedSubject(s.config.EventsStream, durable),
		Header: nats.Header{
			headerContentType:           {eventstore.ContentTypeJSON},
			nats.ExpectedStreamHdr:      {s.config.SnapshotsStream},
			nats.ExpectedLastSubjSeqHdr: {strconv.FormatUint(sequence, 10)},
		},
		Data: data,
	})
	return err
}
