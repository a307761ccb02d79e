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
	// next is the fromVersion of the page that follows; 0 at the end.
	next int64
}

// readPage reads events until there are as many as one answer may hold.
func (s *Server) readPage(ctx context.Context, store *Store, actorID string, fromVersion int64, limit int) (page, error) {
	ctx, cancel := context.WithTimeout(ctx, s.config.RequestTimeout)
	defer cancel()
	var p page
	bytes, account := 0, accountOf(ctx)
	if err := account.reading(ctx); err != nil {
		return page{}, err
	}
	for event, err := range store.Store.Events(ctx, actorID, fromVersion) {
		var replay *eventstore.ReplayError
		if errors.As(err, &replay) {
			if err := account.charge(int64(len(replay.RawData)+eventOverhead) * answerCost); err != nil {
				return page{}, err
			}
			p.errors = append(p.errors, replay)
			bytes += len(replay.RawData) + eventOverhead
			continue
		}
		if err != nil {
			return page{}, err
		}
		if len(p.events) == limit || bytes >= maxPageBytes && len(p.events) > 0 {
			p.next = p.events[len(p.events)-1].Version
			break
		}
		if err := errors.Join(account.met(&event, 1), account.charge(int64(size(&event))*answerCost)); err != nil {
			if len(p.events) == 0 {
				return page{}, err
			}
			// A shorter page, rather than none.
			p.next = p.events[len(p.events)-1].Version
			break
		}
		p.events = append(p.events, event)
		bytes += size(&event)
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
	Events          []eventJSON       `json:"events"`
	Errors          []replayErrorJSON `json:"errors"`
	NextFromVersion int64             `json:"nextFromVersion,omitempty"`
}

func (p page) json() pageJSON {
	out := pageJSON{Events: make([]eventJSON, len(p.events)), Errors: make([]replayErrorJSON, len(p.errors)), NextFromVersion: p.next}
	for i := range p.events {
		out.Events[i] = encodeEvent(&p.events[i])
	}
	for i := range p.errors {
		out.Errors[i] = encodeReplayError(p.errors[i])
	}
	return out
}
