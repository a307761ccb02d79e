package eventstore

import (
	"context"
	"errors"
	"fmt"
)

// actorIDs are the ids of one actor's events, as far as a load has met them.
type actorIDs struct {
	actorID string
	// until is the version of the snapshot that the load began with, 0 for none.
	until int64
	// replayed are the events after that, by the hash of their id.
	replayed map[uint64]place
	// filter has the ids of all events, those up to until as the snapshot says.
	filter *idFilter
	// wereMissing: the snapshot does not say them.
	wereMissing bool
}

// place is where an event is.
type place struct {
	version  int64
	sequence uint64
}

// newActorIDs are the ids of an actor whose load begins with a snapshot, or with none
// where its version is 0.
func newActorIDs(actorID string, snapshot *Snapshot) *actorIDs {
	ids := &actorIDs{actorID: actorID, until: snapshot.Version, replayed: map[uint64]place{}, filter: &idFilter{}}
	if snapshot.Version == 0 {
		return ids
	}
	filter, err := decodeIDs(snapshot.Metadata[metadataIDs])
	if err != nil {
		ids.wereMissing = true
		return ids
	}
	ids.filter = filter
	return ids
}

// add puts in an event that was replayed, or saved.
func (ids *actorIDs) add(event *Event) {
	hash := idHash(event.ID)
	ids.replayed[hash] = place{event.Version, event.Sequence}
	ids.filter.add(hash, event.Version)
}

// check refuses events whose id the actor has already.
func (ids *actorIDs) check(ctx context.Context, store Store, events []Event) error {
	doubtful := map[string]bool{}
	for i := range events {
		hash := idHash(events[i].ID)
		if at, known := ids.replayed[hash]; known {
			return ids.duplicate(events[i].ID, at)
		}
		if ids.until > 0 && (ids.wereMissing || ids.filter.mayHave(hash)) {
			doubtful[events[i].ID] = true
		}
	}
	if len(doubtful) == 0 {
		return nil
	}
	return ids.lookUp(ctx, store, doubtful)
}

func (ids *actorIDs) duplicate(id string, at place) error {
	return &DuplicateEventError{EventID: id, ActorID: ids.actorID, Version: at.version, Sequence: at.sequence}
}

// lookUp reads the events that the snapshot contains, as far as it may know their ids:
// one of those in doubt is a duplicate where it is there. Where the snapshot knows
// none it learns all.
func (ids *actorIDs) lookUp(ctx context.Context, store Store, doubtful map[string]bool) error {
	all := &idFilter{}
	for event, err := range store.Events(ctx, ids.actorID, ids.filter.since) {
		var malformed *ReplayError
		var truncated *TruncatedError
		if errors.As(err, &malformed) || errors.As(err, &truncated) {
			// What has expired is not known any more.
			continue
		}
		if err != nil {
			return fmt.Errorf("look for the ids of earlier events: %w", err)
		}
		if ids.wereMissing {
			all.add(idHash(event.ID), event.Version)
		}
		if event.Version <= ids.until && doubtful[event.ID] {
			return ids.duplicate(event.ID, place{event.Version, event.Sequence})
		}
		if event.Version >= ids.until && !ids.wereMissing {
			break
		}
	}
	if ids.wereMissing {
		ids.filter = all
	}
	return nil
}
