package jetstream

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/nats-io/nats.go"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/internal/versioning"
)

// storedEvent is an event that was found stored under the id of one of a save.
type storedEvent struct {
	eventstore.Event
	// expected is the sequence that its writer expected to be the actor's last; it is
	// not there, and given false, in a batch after the first event of the actor.
	expected uint64
	given    bool
}

// found remembers an event as stored.
func (a *attempt) found(m *message, event eventstore.Event) {
	if a.stored == nil {
		a.stored = map[string]*storedEvent{}
	}
	a.stored[event.ID] = newStoredEvent(m, event)
}

func newStoredEvent(m *message, event eventstore.Event) *storedEvent {
	stored := &storedEvent{Event: event}
	if values := m.Header[nats.ExpectedLastSubjSeqHdr]; len(values) == 1 {
		expected, err := strconv.ParseUint(values[0], 10, 64)
		stored.expected, stored.given = expected, err == nil
	}
	return stored
}

// isOurs says whether a stored event is what this save has sent, where the answer to
// that was lost. Another process may have saved the same event, and this Store may have
// known too little when it began. So what counts is what was sent: JetStream stores no
// message that expects another sequence, and who saves the event elsewhere gives it
// another time, unless the application gives the time itself.
func (a *attempt) isOurs(stored *storedEvent, e *eventstore.Event) bool {
	lost := a.lost[e.ActorID]
	if len(lost) == 0 || !stored.Timestamp.Equal(e.Timestamp) {
		return false
	}
	if stored.given {
		return slices.Contains(lost, stored.expected)
	}
	return stored.Sequence > slices.Min(lost)
}

// recall remembers the stored message at a sequence as the one that has the id
// of an event, and asks for another try, which finds it there.
func (a *attempt) recall(ctx context.Context, index int, sequence uint64) error {
	done, err := a.store.reading(ctx)
	if err != nil {
		return err
	}
	defer done()
	m, err := a.store.leaderGet(ctx, a.store.config.EventsStream, getRequest{Sequence: sequence})
	if err != nil {
		return err
	}
	e := &a.events[index]
	taken := &eventstore.DuplicateEventError{EventID: e.ID, Sequence: sequence}
	if m == nil {
		// Stored, and erased inside the duplicate window: nothing to compare with.
		return fmt.Errorf("%w (it is no longer stored)", taken)
	}
	stored, err := decodeEvent(m)
	if err != nil {
		if actorID, err := decodeActor(m.Subject); err == nil {
			taken.ActorID = actorID
		}
		return fmt.Errorf("%w (%w)", taken, m.malformed(err))
	}
	// The server knows it by another header, which another writer may fill
	// otherwise.
	stored.ID = e.ID
	a.found(m, stored)
	return fmt.Errorf("%w: event %.100q is stored at sequence %d", errAgain, e.ID, sequence)
}

// explain finds out whether the event behind a version conflict is stored
// already; if not, the conflict stands.
func (a *attempt) explain(ctx context.Context, conflict *conflictError) error {
	if !a.fromLeader {
		return fmt.Errorf("%w: %w", errAgain, conflict.err)
	}
	e := &a.events[conflict.index]
	if first, last := versioning.Span(a.events, conflict.index, a.opts.ExpectedOf(e.ActorID)); first > 0 {
		if found, err := a.findByVersion(ctx, e, first, last); err != nil || found {
			return again(err, e.ID)
		}
	}
	sequence, err := a.store.sequenceOfID(ctx, e)
	if err != nil {
		return err
	}
	if sequence != 0 {
		return a.recall(ctx, conflict.index, sequence)
	}
	return conflict.err
}

func again(err error, id string) error {
	if err != nil {
		return err
	}
	return fmt.Errorf("%w: event %.100q is stored", errAgain, id)
}

// findByVersion looks for events of the save among what an actor has from the first
// version to the last that the save would have given them: behind may be a long history.
// That works for as long as they are stored.
func (a *attempt) findByVersion(ctx context.Context, e *eventstore.Event, first, last int64) (bool, error) {
	done, err := a.store.reading(ctx)
	if err != nil {
		return false, err
	}
	defer done()
	ours := a.idsOf(e.ActorID)
	for m, err := range a.store.messages(ctx, e.ActorID, first-1, eventstore.ReadOptions{UpToDate: true}) {
		if err != nil {
			return false, err
		}
		stored, err := decodeEvent(m)
		if err == nil && ours[stored.ID] {
			a.found(m, stored)
		}
		if err == nil && stored.Version >= last {
			break
		}
	}
	return a.stored[e.ID] != nil, nil
}

// idsOf are the ids of what the save has for an actor.
func (a *attempt) idsOf(actorID string) map[string]bool {
	ids := map[string]bool{}
	for i := range a.events {
		if a.events[i].ActorID == actorID {
			ids[a.events[i].ID] = true
		}
	}
	return ids
}

// findDuplicates looks for the events whose ids made JetStream refuse a batch:
// it does not say which.
func (a *attempt) findDuplicates(ctx context.Context, refusal error) error {
	for i := range a.events {
		if a.stored[a.events[i].ID] != nil {
			continue
		}
		sequence, err := a.store.sequenceOfID(ctx, &a.events[i])
		if err != nil {
			return err
		}
		if sequence == 0 {
			continue
		}
		if err := a.recall(ctx, i, sequence); !errors.Is(err, errAgain) {
			return err
		}
	}
	// None found: the id has left the window in between, and another try succeeds.
	return fmt.Errorf("%w: %w", errAgain, refusal)
}

// sequenceOfID answers the sequence of the message whose id is that of an event,
// inside the duplicate window; 0 for none. It publishes what can never be
// stored: JetStream looks for the id first, and then refuses a rollup that does
// not exist, and a last message that was never there.
func (s *Store) sequenceOfID(ctx context.Context, event *eventstore.Event) (sequence uint64, err error) {
	err = retry(ctx, func() error {
		ack, err := s.publish(ctx, &nats.Msg{Subject: EventsSubject(s.config.EventsStream, event.ActorID), Header: nats.Header{
			nats.MsgIdHdr:             {event.ID},
			nats.ExpectedStreamHdr:    {s.config.EventsStream},
			nats.MsgRollup:            {"never"},
			nats.ExpectedLastMsgIdHdr: {"never " + rand.Text()},
		}})
		switch {
		case err == nil && ack.Duplicate:
			sequence = ack.Sequence
			return nil
		case err == nil:
			return fmt.Errorf("%w: JetStream stored a message that it must refuse, at sequence %d", eventstore.ErrUnavailable, ack.Sequence)
		case errCode(err) == codeRollupFailed, errCode(err) == codeWrongLastID:
			return nil
		case isConflict(err):
			return fmt.Errorf("%w: %w", errAgain, err)
		}
		return err
	})
	return sequence, err
}
