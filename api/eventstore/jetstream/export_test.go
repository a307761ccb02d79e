package jetstream

import (
	"context"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
)

// StreamCheck is streamCheck.
const StreamCheck = streamCheck

// GetSome answers how many messages getSome gets of sequences, and how many bytes of
// data they have.
func (s *Store) GetSome(ctx context.Context, sequences []uint64) (messages, bytes int, err error) {
	got, err := s.getSome(ctx, s.config.EventsStream, requestsFor(sequences))
	for _, m := range got {
		if m != nil {
			bytes += len(m.Data)
		}
	}
	return len(got), bytes, err
}

// KeptBy tells tests how many bytes of events a member that coordinates has read ahead, and how
// many wait for its own application.
func KeptBy(member eventstore.DurableSubscription) (ahead, inLine int) {
	d := member.(*durable)
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.lead != nil {
		ahead = d.lead.machine.Kept()
	}
	return ahead, d.member.Kept()
}

// Coordinates tells tests whether a member coordinates its group.
func Coordinates(member eventstore.DurableSubscription) bool {
	d := member.(*durable)
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.lead != nil
}

// KeyOf tells tests where a member listens.
func KeyOf(member eventstore.DurableSubscription) (key, id string) {
	d := member.(*durable)
	return d.key, d.id
}
