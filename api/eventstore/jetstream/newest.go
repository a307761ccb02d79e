package jetstream

import (
	"context"
	"fmt"
	"iter"
	"slices"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/internal/collect"
)

// newest yields the last n of events, the last first. Of their data it keeps that of
// the last ones, up to Config.ReadAheadBytes, and reads that of the others again.
func (s *Store) newest(ctx context.Context, events iter.Seq2[eventstore.Event, error], n int) iter.Seq2[eventstore.Event, error] {
	return collect.Newest(events, n, s.config.ReadAheadBytes, func(items []*collect.Item) error {
		ctx, cancel := s.bounded(ctx)
		defer cancel()
		return s.readAgain(ctx, items)
	})
}

// errExpired: an event was there when the read began.
var errExpired = fmt.Errorf("%w: an event has expired while it was read: read again", eventstore.ErrUnavailable)

// readAgain reads the data of the last items that were dropped, as much as there is room
// for.
func (s *Store) readAgain(ctx context.Context, items []*collect.Item) error {
	wanted := make([]*collect.Item, 0, firstGets)
	for _, item := range slices.Backward(items) {
		if len(wanted) == firstGets {
			break
		}
		if item.Dropped {
			wanted = append(wanted, item)
		}
	}
	requests := make([]getRequest, len(wanted))
	for i, item := range wanted {
		requests[i] = getRequest{Sequence: item.Sequence()}
	}
	messages, err := s.getSome(ctx, s.config.EventsStream, requests)
	if err != nil {
		return err
	}
	for i, m := range messages {
		if m == nil {
			if m, err = s.leaderGet(ctx, s.config.EventsStream, requests[i]); err != nil {
				return err
			}
		}
		if m == nil {
			return errExpired
		}
		wanted[i].Fill(m.Data)
	}
	return nil
}
