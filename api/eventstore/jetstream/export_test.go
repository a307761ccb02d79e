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

// KeyOf tells tests where a member listens.
func KeyOf(member eventstore.DurableSubscription) (key, id string) {
	d := member.(*durable)
	return d.key, d.id
}
