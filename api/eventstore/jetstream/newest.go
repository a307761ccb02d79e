package jetstream

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
)

// newestItem is one of the newest of an actor: an event, or a message that is none.
type newestItem struct {
	event     eventstore.Event
	malformed *eventstore.ReplayError
	// dropped: its data was dropped to make room, and must be read again.
	dropped bool
}

func (i *newestItem) data() *[]byte {
	if i.malformed != nil {
		return &i.malformed.RawData
	}
	return &i.event.Data
}

func (i *newestItem) sequence() uint64 {
	if i.malformed != nil {
		return i.malformed.Sequence
	}
	return i.event.Sequence
}

// newest yields the last n of events, the last first. Of their data it keeps that of
// the last ones, up to Config.ReadAheadBytes, and reads that of the others again.
func (s *Store) newest(ctx context.Context, events iter.Seq2[eventstore.Event, error], n int) iter.Seq2[eventstore.Event, error] {
	return func(yield func(eventstore.Event, error) bool) {
		var items []*newestItem
		// kept is how many bytes of data there are, from items[from] on.
		kept, from := 0, 0
		var missing *eventstore.TruncatedError
		for event, err := range events {
			if errors.As(err, &missing) {
				continue
			}
			item := &newestItem{event: event}
			if err != nil && !errors.As(err, &item.malformed) {
				yield(event, err)
				return
			}
			items = append(items, item)
			kept += len(*item.data())
			for ; kept > s.config.ReadAheadBytes && from < len(items)-1; from++ {
				kept -= items[from].drop()
			}
			if len(items) == 2*n {
				for ; from < n; from++ {
					kept -= items[from].drop()
				}
				items, from = slices.Clone(items[n:]), from-n
			}
		}
		ctx, cancel := s.bounded(ctx)
		defer cancel()
		items = items[max(0, len(items)-n):]
		// What is missing is older than what is left.
		tells := missing != nil && len(items) < n
		for len(items) > 0 {
			last := items[len(items)-1]
			if last.dropped {
				if err := s.readAgain(ctx, items); err != nil {
					yield(eventstore.Event{}, err)
					return
				}
			}
			items = items[:len(items)-1]
			var err error
			if last.malformed != nil {
				err = last.malformed
			}
			if !yield(last.event, err) {
				return
			}
		}
		if tells {
			yield(eventstore.Event{}, missing)
		}
	}
}

// drop gives up the data of an item, and answers how much that was.
func (i *newestItem) drop() int {
	data := i.data()
	size := len(*data)
	*data, i.dropped = nil, size > 0
	return size
}

// errExpired: an event was there when the read began.
var errExpired = fmt.Errorf("%w: an event has expired while it was read: read again", eventstore.ErrUnavailable)

// readAgain reads the data of the last items that were dropped, as much as there is room
// for.
func (s *Store) readAgain(ctx context.Context, items []*newestItem) error {
	wanted := make([]*newestItem, 0, firstPage)
	for _, item := range slices.Backward(items) {
		if len(wanted) == firstPage {
			break
		}
		if item.dropped {
			wanted = append(wanted, item)
		}
	}
	requests := make([]getRequest, len(wanted))
	for i, item := range wanted {
		requests[i] = getRequest{Sequence: item.sequence()}
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
		*wanted[i].data(), wanted[i].dropped = m.Data, false
	}
	return nil
}
