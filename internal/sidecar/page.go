package sidecar

import (
	"context"
	"errors"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
)

const (
	// maxPageEvents is the most events of one answer.
	maxPageEvents = 1000
	// maxPageBytes ends a page early. gRPC clients take messages of 4 MiB unless
	// told otherwise; 3 MiB and one more event of the largest size stay below.
	maxPageBytes = 3<<20 - 64<<10
	// eventOverhead is about what an event has beside data and metadata.
	eventOverhead = 256
)

// page is one answer of GetEvents.
type page struct {
	events []eventstore.Event
	errors []*eventstore.ReplayError
	// truncated says that events with which it should begin are gone, and firstVersion
	// is the version of the first that is left, 0 for none.
	truncated    bool
	firstVersion int64
	// next is the fromSequence of the page that follows; 0 at the end.
	next uint64
}

// readPage reads events and errors until there are as many as one answer may hold.
func (s *Server) readPage(ctx context.Context, store *Store, actorID string, fromVersion int64, fromSequence uint64, limit int) (page, error) {
	ctx, cancel := context.WithTimeout(ctx, s.config.RequestTimeout)
	defer cancel()
	var p page
	account := accountOf(ctx)
	if err := account.reading(ctx); err != nil {
		return page{}, err
	}
	bytes := 0
	for event, err := range store.Store.Events(ctx, actorID, fromVersion, eventstore.FromSequence(fromSequence)) {
		var truncated *eventstore.TruncatedError
		if errors.As(err, &truncated) {
			p.truncated, p.firstVersion = true, truncated.FirstVersion
			continue
		}
		i, err := itemOf(event, err)
		if err != nil {
			return page{}, asRequest(err)
		}
		if p.items() == limit || bytes >= maxPageBytes {
			p.next = i.sequence
			break
		}
		if err := i.charge(account); err != nil {
			if p.items() == 0 {
				return page{}, err
			}
			// A shorter page, rather than none.
			p.next = i.sequence
			break
		}
		p.add(i)
		bytes += i.size
	}
	return p, nil
}

// readVersion reads the latest version of an actor: with its newest event, for which
// there must be memory.
func readVersion(ctx context.Context, store *Store, actorID string) (int64, error) {
	if err := accountOf(ctx).reading(ctx); err != nil {
		return 0, err
	}
	return store.Store.GetLatestVersion(ctx, actorID)
}

// pageItem is an event, or the error that is not nil.
type pageItem struct {
	event    eventstore.Event
	replay   *eventstore.ReplayError
	sequence uint64
	size     int
}

// itemOf is what a read has yielded. An error that ends the read is returned.
func itemOf(event eventstore.Event, err error) (pageItem, error) {
	var replay *eventstore.ReplayError
	switch {
	case errors.As(err, &replay):
		return pageItem{replay: replay, sequence: replay.Sequence, size: len(replay.RawData) + eventOverhead}, nil
	case err != nil:
		return pageItem{}, err
	}
	return pageItem{event: event, sequence: event.Sequence, size: size(&event)}, nil
}

// charge takes the memory that an item needs in an answer.
func (i *pageItem) charge(account *account) error {
	if err := account.charge(int64(i.size) * answerCost); err != nil {
		return err
	}
	if i.replay != nil {
		return nil
	}
	return account.met(&i.event, 1)
}

// items is how many events and errors there are.
func (p *page) items() int { return len(p.events) + len(p.errors) }

func (p *page) add(i pageItem) {
	if i.replay != nil {
		p.errors = append(p.errors, i.replay)
	} else {
		p.events = append(p.events, i.event)
	}
}

// readSnapshot reads the newest snapshot, for which there must be memory.
func (s *Server) readSnapshot(ctx context.Context, store *Store, actorID string) (eventstore.Snapshot, error) {
	account := accountOf(ctx)
	if err := account.reading(ctx); err != nil {
		return eventstore.Snapshot{}, err
	}
	snapshot, err := store.Store.GetLatestSnapshot(ctx, actorID)
	if err != nil {
		return snapshot, err
	}
	return snapshot, account.charge(int64(len(snapshot.Data)+sizeOf(snapshot.Metadata)) * answerCost)
}

func size(e *eventstore.Event) int { return len(e.Data) + eventOverhead + sizeOf(e.Metadata) }

func sizeOf(metadata map[string]string) int {
	n := 0
	for key, value := range metadata {
		n += len(key) + len(value)
	}
	return n
}

// pageJSON is a page as HTTP answers it.
type pageJSON struct {
	Events           []eventJSON       `json:"events"`
	Errors           []replayErrorJSON `json:"errors"`
	Truncated        bool              `json:"truncated,omitempty"`
	FirstVersion     int64             `json:"firstVersion,omitempty"`
	NextFromSequence uint64            `json:"nextFromSequence,omitempty"`
}

func (p page) json() pageJSON {
	out := pageJSON{
		Events: make([]eventJSON, len(p.events)), Errors: make([]replayErrorJSON, len(p.errors)),
		Truncated: p.truncated, FirstVersion: p.firstVersion, NextFromSequence: p.next,
	}
	for i := range p.events {
		out.Events[i] = encodeEvent(&p.events[i])
	}
	for i := range p.errors {
		out.Errors[i] = encodeReplayError(p.errors[i])
	}
	return out
}
