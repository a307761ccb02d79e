package collect

import (
	"errors"
	"iter"
	"slices"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
)

// Item is one of the newest of an actor: an event, or a message that is none.
type Item struct {
	event     eventstore.Event
	malformed *eventstore.ReplayError
	// Dropped: its data was dropped to make room, and must be read again.
	Dropped bool
}

func (i *Item) data() *[]byte {
	if i.malformed != nil {
		return &i.malformed.RawData
	}
	return &i.event.Data
}

// Sequence is the place of an item in its store.
func (i *Item) Sequence() uint64 {
	if i.malformed != nil {
		return i.malformed.Sequence
	}
	return i.event.Sequence
}

// Fill gives an item the data that it had.
func (i *Item) Fill(data []byte) { *i.data(), i.Dropped = data, false }

// drop gives up the data of an item, and answers how much that was.
func (i *Item) drop() int {
	size := len(*i.data())
	*i.data(), i.Dropped = nil, size > 0
	return size
}

// Newest yields the last n of events, the last first, and whether events are missing
// before them. Of their data it keeps that of the last ones, so many bytes and one item
// more. again fills some of the others, given all that are still to come, the last of
// which was dropped: that one at least.
func Newest(events iter.Seq2[eventstore.Event, error], n, room int, again func([]*Item) error) iter.Seq2[eventstore.Event, error] {
	return func(yield func(eventstore.Event, error) bool) {
		items, missing, err := last(events, n, room)
		if err != nil {
			yield(eventstore.Event{}, err)
			return
		}
		// What is missing is older than what is left.
		tells := missing != nil && len(items) < n
		for len(items) > 0 {
			item := items[len(items)-1]
			if item.Dropped {
				if err := again(items); err != nil {
					yield(eventstore.Event{}, err)
					return
				}
			}
			items = items[:len(items)-1]
			var err error
			if item.malformed != nil {
				err = item.malformed
			}
			if !yield(item.event, err) {
				return
			}
		}
		if tells {
			yield(eventstore.Event{}, missing)
		}
	}
}

// last are the last n of events, and what is missing before all of them.
func last(events iter.Seq2[eventstore.Event, error], n, room int) (items []*Item, missing *eventstore.TruncatedError, _ error) {
	// kept is how many bytes of data there are, from items[from] on.
	kept, from := 0, 0
	for event, err := range events {
		if errors.As(err, &missing) {
			continue
		}
		item := &Item{event: event}
		if err != nil && !errors.As(err, &item.malformed) {
			return nil, nil, err
		}
		items = append(items, item)
		kept += len(*item.data())
		for ; kept > room && from < len(items)-1; from++ {
			kept -= items[from].drop()
		}
		if len(items) == 2*n {
			for ; from < n; from++ {
				kept -= items[from].drop()
			}
			items, from = slices.Clone(items[n:]), from-n
		}
	}
	return items[max(0, len(items)-n):], missing, nil
}
