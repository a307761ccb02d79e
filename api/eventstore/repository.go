package eventstore

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// Repository loads actors of one kind, decides on them and saves what was
// decided: the whole cycle of an event-sourced actor whose state is an S. Set
// the fields before the first call and leave them; then it is safe for use by
// many goroutines.
type Repository[S any] struct {
	// Store keeps the events and snapshots. Required.
	Store Store
	// Apply is the state after one more event. Required. It must not change what
	// the state it is given refers to, such as its maps. Update calls it for what was
	// decided before that is saved, with Sequence 0, and again after.
	Apply func(state S, event Event) (S, error)
	// SnapshotEvery saves a snapshot with the first save that is so many events
	// after the last snapshot; 0 saves none.
	SnapshotEvery int64
	// Encode and Decode turn the state into the data of a snapshot and back; both
	// nil is JSON.
	Encode func(state S) ([]byte, error)
	Decode func(data []byte) (S, error)
	// AcceptTruncated loads an actor whose first events have expired from those that are
	// left, from none where all have: its version is the same. Without it, Load fails with
	// a *TruncatedError.
	AcceptTruncated bool
	// Attempts is how often Update decides anew after a conflict before it gives up
	// with it; 0 is DefaultAttempts.
	Attempts int
}

// DefaultAttempts is how often Update tries. Each conflict means that somebody
// else has saved; so many in a row mean an actor that all write to.
const DefaultAttempts = 20

// Loaded is an actor as it is at a version.
type Loaded[S any] struct {
	// State is the zero value of S for an actor without events.
	State S
	// Version is the latest of the actor, which is that of the last event that State
	// contains, if that has not expired; 0 for an actor that never had one.
	Version int64
	// SnapshotVersion is that of the snapshot the load began with, 0 for none.
	SnapshotVersion int64
}

// Load reads the newest snapshot of an actor and the events after it. A stored
// message that is no event fails it with a *ReplayError, and events that have expired
// fail it with a *TruncatedError: a state without them would look whole. A snapshot
// that Decode refuses is as good as none.
func (r *Repository[S]) Load(ctx context.Context, actorID string) (Loaded[S], error) {
	actor, _, err := r.snapshot(ctx, actorID)
	if err != nil {
		return Loaded[S]{}, err
	}
	return actor, r.replay(ctx, actorID, &actor, func(*Event) {})
}

// replay applies the events after the version that an actor is at, and shows each. Where
// none is left, and that is accepted, the actor is at the version that it had.
func (r *Repository[S]) replay(ctx context.Context, actorID string, actor *Loaded[S], show func(*Event)) error {
	gone, err := r.replayLeft(ctx, actorID, actor, show)
	if err != nil || !gone {
		return err
	}
	latest, err := r.Store.GetLatestVersion(ctx, actorID)
	if err != nil {
		*actor = Loaded[S]{}
		return fmt.Errorf("load actor %.100q: %w", actorID, err)
	}
	// What was saved meanwhile is part of that version, and of the state.
	if gone, err = r.replayLeft(ctx, actorID, actor, show); err == nil && gone {
		actor.Version = max(actor.Version, latest)
	}
	return err
}

// replayLeft applies the events that are left, and says whether some have expired and
// none is.
func (r *Repository[S]) replayLeft(ctx context.Context, actorID string, actor *Loaded[S], show func(*Event)) (gone bool, err error) {
	for event, err := range r.Store.Events(ctx, actorID, actor.Version) {
		if truncated := new(TruncatedError); r.AcceptTruncated && errors.As(err, &truncated) {
			gone = true
			continue
		}
		if err != nil {
			*actor = Loaded[S]{}
			return false, fmt.Errorf("load actor %.100q: %w", actorID, err)
		}
		gone = false
		show(&event)
		if err := r.apply(actor, event); err != nil {
			*actor = Loaded[S]{}
			return false, err
		}
	}
	return gone, nil
}

func (r *Repository[S]) apply(actor *Loaded[S], event Event) error {
	state, err := r.Apply(actor.State, event)
	if err != nil {
		return fmt.Errorf("apply version %d of actor %.100q: %w", event.Version, event.ActorID, err)
	}
	actor.State, actor.Version = state, event.Version
	return nil
}

// applyAll says whether an actor takes events.
func (r *Repository[S]) applyAll(actor Loaded[S], events []Event) error {
	for _, event := range events {
		if err := r.apply(&actor, event); err != nil {
			return err
		}
	}
	return nil
}

// snapshot is where a load begins, and the snapshot that says so.
func (r *Repository[S]) snapshot(ctx context.Context, actorID string) (Loaded[S], Snapshot, error) {
	if r.SnapshotEvery <= 0 {
		return Loaded[S]{}, Snapshot{}, nil
	}
	snapshot, err := r.Store.GetLatestSnapshot(ctx, actorID)
	if errors.Is(err, ErrNoSnapshot) {
		return Loaded[S]{}, Snapshot{}, nil
	}
	if err != nil {
		return Loaded[S]{}, Snapshot{}, fmt.Errorf("load actor %.100q: %w", actorID, err)
	}
	state, err := r.decode(snapshot.Data)
	if err != nil {
		// One of an older program, say. The next snapshot replaces it.
		return Loaded[S]{}, Snapshot{}, nil
	}
	return Loaded[S]{State: state, Version: snapshot.Version, SnapshotVersion: snapshot.Version}, snapshot, nil
}

// Update loads an actor, lets decide say which events follow, and saves them,
// all or none, provided that the actor is still where it was loaded. On a
// conflict it loads again and decides anew. No events is a decision too. It
// answers the actor as it is after them.
//
// Decide gives the events an id and a type; Update sets the actor, the versions,
// and the timestamps that are missing. It is called once for each attempt, so it
// must have no effect of its own.
//
// An id that is made from the command makes it harmless to call Update again for it,
// however much later: *DuplicateEventError names the event of the actor that has the
// id, and nothing is saved. Update knows the ids of all events that it replays. Those
// of the events before the snapshot are in the snapshot's metadata, so that one read
// more is needed only for an id which may be there: of the newest 5,000 at least and
// 10,000 at most, as long as the events are stored. A snapshot without ids, which
// another program has saved, costs a read of all events, and the next save replaces it.
//
// A snapshot that is due and cannot be saved is no error: the events are saved.
func (r *Repository[S]) Update(ctx context.Context, actorID string, decide func(actor Loaded[S]) ([]Event, error)) (Loaded[S], error) {
	attempts := r.Attempts
	if attempts <= 0 {
		attempts = DefaultAttempts
	}
	for attempt := 1; ; attempt++ {
		actor, err := r.tryUpdate(ctx, actorID, decide)
		var conflict *VersionConflictError
		if !errors.As(err, &conflict) || attempt == attempts || ctx.Err() != nil {
			return actor, err
		}
	}
}

func (r *Repository[S]) tryUpdate(ctx context.Context, actorID string, decide func(Loaded[S]) ([]Event, error)) (Loaded[S], error) {
	actor, ids, err := r.loadWithIDs(ctx, actorID)
	if err != nil {
		return actor, err
	}
	decided, err := decide(actor)
	if err != nil || len(decided) == 0 {
		return actor, err
	}
	events := complete(actorID, actor.Version, decided)
	if err := ids.check(ctx, r.Store, events); err != nil {
		return Loaded[S]{}, fmt.Errorf("update actor %.100q: %w", actorID, err)
	}
	// What Apply refuses must not be stored: the actor could never be loaded again.
	if err := r.applyAll(actor, events); err != nil {
		return Loaded[S]{}, fmt.Errorf("nothing is saved: %w", err)
	}
	saved, err := r.Store.SaveEvents(ctx, events, Expect(actorID, ExpectedVersion(actor.Version)))
	if err != nil {
		return Loaded[S]{}, fmt.Errorf("update actor %.100q: %w", actorID, err)
	}
	for i, event := range events {
		event.Sequence = saved[i].Sequence
		ids.add(&event)
		if err := r.apply(&actor, event); err != nil {
			return Loaded[S]{}, err
		}
	}
	r.saveSnapshot(ctx, actorID, &actor, ids)
	return actor, nil
}

// loadWithIDs is Load, with what is known of the ids of the actor's events.
func (r *Repository[S]) loadWithIDs(ctx context.Context, actorID string) (Loaded[S], *actorIDs, error) {
	actor, snapshot, err := r.snapshot(ctx, actorID)
	if err != nil {
		return Loaded[S]{}, nil, err
	}
	ids := newActorIDs(actorID, &snapshot)
	return actor, ids, r.replay(ctx, actorID, &actor, ids.add)
}

// complete are the events that were decided for an actor at a version, as they are to
// be saved.
func complete(actorID string, version int64, decided []Event) []Event {
	events := make([]Event, len(decided))
	for i, event := range decided {
		event.ActorID, event.Version = actorID, version+int64(i)+1
		// As it is read later, so that the state is the same then.
		if event.Timestamp.IsZero() {
			event.Timestamp = time.Now().UTC()
		}
		event.ContentType = cmp.Or(event.ContentType, ContentTypeJSON)
		events[i] = event
	}
	return events
}

// saveSnapshot saves a snapshot when one is due. Whatever goes wrong, the next
// update tries again.
func (r *Repository[S]) saveSnapshot(ctx context.Context, actorID string, actor *Loaded[S], ids *actorIDs) {
	if r.SnapshotEvery <= 0 || actor.Version-actor.SnapshotVersion < r.SnapshotEvery && !ids.wereMissing {
		return
	}
	data, err := r.encode(actor.State)
	if err != nil {
		return
	}
	snapshot := Snapshot{ActorID: actorID, Version: actor.Version, Data: data, Metadata: map[string]string{metadataIDs: ids.filter.encode()}}
	if r.Store.SaveSnapshot(ctx, snapshot) == nil {
		actor.SnapshotVersion = actor.Version
	}
}

func (r *Repository[S]) encode(state S) ([]byte, error) {
	if r.Encode != nil {
		return r.Encode(state)
	}
	return json.Marshal(state)
}

func (r *Repository[S]) decode(data []byte) (state S, err error) {
	if r.Decode != nil {
		return r.Decode(data)
	}
	err = json.Unmarshal(data, &state)
	return state, err
}
