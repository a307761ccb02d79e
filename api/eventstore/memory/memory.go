// Package memory keeps events in the process: the embedded default for tests
// and laptops. It follows every rule of [eventstore.Store] and forgets all when
// the process ends.
package memory

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"maps"
	"slices"
	"sync"
	"time"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/internal/collect"
	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/internal/outcome"
	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/internal/versioning"
)

// DefaultDuplicateWindow is that of an EventStore which names none.
const DefaultDuplicateWindow = 2 * time.Minute

// WithDuplicateWindow sets for how long a Store knows the ids of all that is stored,
// above 0; 0 is DefaultDuplicateWindow. After that it knows those that a Store on
// JetStream knows, and no more: see [eventstore.Store]. Time passes as package time
// has it, so that a test in a bubble of testing/synctest need not wait.
func WithDuplicateWindow(d time.Duration) eventstore.Option {
	return func(o *eventstore.Options) { o.DuplicateWindow = d }
}

// Store is an eventstore.Store in memory. It grows with what is saved and drops
// nothing. Make one with New.
type Store struct {
	opts eventstore.Options

	mu sync.RWMutex
	// log holds every event; its sequence is its index plus one. What is in it
	// never changes, so that a reader may keep a part of it without the lock.
	log []eventstore.Event
	// storedAt is when each was stored.
	storedAt []time.Time
	actors   map[string][]int
	// byID is the newest event with an id.
	byID      map[string]int
	snapshots map[string]eventstore.Snapshot
	durables  map[string]*durable
	// grown is closed when log has grown, and replaced.
	grown chan struct{}
}

var _ eventstore.Store = (*Store)(nil)

// New makes an empty Store.
func New(opts ...eventstore.Option) *Store {
	sum := eventstore.NewOptions(opts...)
	sum.DuplicateWindow = cmp.Or(sum.DuplicateWindow, DefaultDuplicateWindow)
	return &Store{
		opts:      sum,
		actors:    map[string][]int{},
		byID:      map[string]int{},
		snapshots: map[string]eventstore.Snapshot{},
		durables:  map[string]*durable{},
		grown:     make(chan struct{}),
	}
}

// SaveEvent stores one event.
func (s *Store) SaveEvent(ctx context.Context, event eventstore.Event, opts ...eventstore.SaveOption) (eventstore.Saved, error) {
	saved, err := s.SaveEvents(ctx, []eventstore.Event{event}, opts...)
	if err != nil {
		return eventstore.Saved{}, err
	}
	return saved[0], nil
}

// SaveEvents stores events, all or none.
func (s *Store) SaveEvents(ctx context.Context, events []eventstore.Event, opts ...eventstore.SaveOption) ([]eventstore.Saved, error) {
	saved, err := s.save(ctx, events, eventstore.NewSaveOptions(opts...))
	if err != nil {
		outcome.Failed(&s.opts, err)
		return nil, fmt.Errorf("save %s in memory: %w", outcome.Subject(events), err)
	}
	return saved, nil
}

func (s *Store) save(ctx context.Context, events []eventstore.Event, opts eventstore.SaveOptions) ([]eventstore.Saved, error) {
	if err := ended(ctx); err != nil {
		return nil, err
	}
	if err := versioning.ValidateBatch(events, opts); err != nil {
		return nil, err
	}
	stored := s.copies(events)
	s.mu.Lock()
	defer s.mu.Unlock()
	saved, err := s.decide(stored, opts)
	if err != nil {
		return nil, err
	}
	s.append(stored, saved)
	// Under the lock notifications leave in the order of sequences; Publish never
	// blocks.
	outcome.Saved(&s.opts, stored, saved)
	return saved, nil
}

// copies are the events as they are to be stored: of nobody else, with every
// default filled in but the version.
func (s *Store) copies(events []eventstore.Event) []eventstore.Event {
	stored := make([]eventstore.Event, len(events))
	for i := range events {
		e := clone(&events[i])
		e.ContentType = versioning.ContentType(&e)
		if e.Timestamp.IsZero() {
			e.Timestamp = s.opts.Now()
		}
		// Round drops the monotonic clock, which no other Store keeps.
		e.Timestamp = e.Timestamp.Round(0).UTC()
		stored[i] = e
	}
	return stored
}

// decide answers for every event which version and sequence it has or would
// have, and changes nothing.
func (s *Store) decide(events []eventstore.Event, opts eventstore.SaveOptions) ([]eventstore.Saved, error) {
	saved := make([]eventstore.Saved, len(events))
	// latest holds the versions that the batch itself gives.
	latest := make(map[string]int64)
	next := uint64(len(s.log)) + 1
	for i := range events {
		e := &events[i]
		saved[i] = eventstore.Saved{ID: e.ID, ActorID: e.ActorID}
		stored := s.known(e)
		var version int64
		if stored == nil {
			expected, current := eventstore.ExpectAny, latest[e.ActorID]
			if current == 0 {
				expected, current = opts.ExpectedOf(e.ActorID), s.latest(e.ActorID)
			}
			var err error
			if version, err = versioning.Assign(e, expected, current); err != nil {
				if stored = s.inSpan(events, i, opts); stored == nil {
					return nil, err
				}
			}
		}
		if stored != nil {
			if !versioning.Same(stored, e) {
				return nil, versioning.Duplicate(stored)
			}
			saved[i].Version, saved[i].Sequence, saved[i].Duplicate = stored.Version, stored.Sequence, true
			continue
		}
		latest[e.ActorID] = version
		saved[i].Version, saved[i].Sequence = version, next
		next++
	}
	return saved, nil
}

// known is the event with the id of e that is stored, as far as ids are remembered:
// inside the duplicate window, and among the newest of the actor. The lock is held.
func (s *Store) known(e *eventstore.Event) *eventstore.Event {
	if index, found := s.byID[e.ID]; found && time.Since(s.storedAt[index]) < s.opts.DuplicateWindow {
		return &s.log[index]
	}
	indexes := s.actors[e.ActorID]
	for _, index := range indexes[max(0, len(indexes)-versioning.RecentEvents):] {
		if s.log[index].ID == e.ID {
			return &s.log[index]
		}
	}
	return nil
}

// inSpan is the event with the id of the one at an index, where that is stored at
// the version that it was saved with. The lock is held.
func (s *Store) inSpan(events []eventstore.Event, at int, opts eventstore.SaveOptions) *eventstore.Event {
	e := &events[at]
	first, last := versioning.Span(events, at, opts.ExpectedOf(e.ActorID))
	if first == 0 {
		return nil
	}
	for _, index := range s.actors[e.ActorID][above(s.log, s.actors[e.ActorID], first-1, 0):] {
		if stored := &s.log[index]; stored.Version > last {
			return nil
		} else if stored.ID == e.ID {
			return stored
		}
	}
	return nil
}

// above is the first of an actor's events with a version above one.
func above(log []eventstore.Event, indexes []int, version int64, fromSequence uint64) int {
	first, _ := slices.BinarySearchFunc(indexes, version, func(index int, from int64) int {
		// Never equal: the first version above is wanted.
		if log[index].Version <= from || log[index].Sequence < fromSequence {
			return -1
		}
		return 1
	})
	return first
}

func (s *Store) append(events []eventstore.Event, saved []eventstore.Saved) {
	before, now := len(s.log), time.Now()
	for i := range events {
		if saved[i].Duplicate {
			continue
		}
		e := events[i]
		e.Version, e.Sequence = saved[i].Version, saved[i].Sequence
		s.byID[e.ID] = len(s.log)
		s.storedAt = append(s.storedAt, now)
		s.actors[e.ActorID] = append(s.actors[e.ActorID], len(s.log))
		s.log = append(s.log, e)
	}
	if len(s.log) > before {
		close(s.grown)
		s.grown = make(chan struct{})
	}
}

// latest is the actor's latest version. The lock is held.
func (s *Store) latest(actorID string) int64 {
	if indexes := s.actors[actorID]; len(indexes) > 0 {
		return s.log[indexes[len(indexes)-1]].Version
	}
	return 0
}

// GetEvents answers the events of an actor.
func (s *Store) GetEvents(ctx context.Context, actorID string, fromVersion int64, opts ...eventstore.ReadOption) ([]eventstore.Event, error) {
	result, err := s.GetEventsWithErrors(ctx, actorID, fromVersion, opts...)
	return result.Events, err
}

// GetEventsWithErrors is GetEvents: whatever is in memory is an event.
func (s *Store) GetEventsWithErrors(ctx context.Context, actorID string, fromVersion int64, opts ...eventstore.ReadOption) (eventstore.ReplayResult, error) {
	return collect.Events(s.Events(ctx, actorID, fromVersion, opts...))
}

// Events yields the events of an actor that are stored as it begins.
func (s *Store) Events(ctx context.Context, actorID string, fromVersion int64, opts ...eventstore.ReadOption) iter.Seq2[eventstore.Event, error] {
	ro := eventstore.NewReadOptions(opts...)
	if err := ro.Validate(); err != nil {
		return func(yield func(eventstore.Event, error) bool) {
			yield(eventstore.Event{}, fmt.Errorf("read events from memory: %w", err))
		}
	}
	return collect.Window(s.events(ctx, actorID, fromVersion, ro.FromSequence), ro)
}

func (s *Store) events(ctx context.Context, actorID string, fromVersion int64, fromSequence uint64) iter.Seq2[eventstore.Event, error] {
	return func(yield func(eventstore.Event, error) bool) {
		if err := eventstore.ValidateActorID(actorID); err != nil {
			yield(eventstore.Event{}, fmt.Errorf("read events from memory: %w", err))
			return
		}
		s.mu.RLock()
		log, indexes := s.log, s.actors[actorID]
		s.mu.RUnlock()
		first := above(log, indexes, fromVersion, fromSequence)
		for _, index := range indexes[first:] {
			if err := ended(ctx); err != nil {
				yield(eventstore.Event{}, fmt.Errorf("read events of actor %.100q from memory: %w", actorID, err))
				return
			}
			s.opts.Metrics.EventsRead.Add(1)
			if !yield(clone(&log[index]), nil) {
				return
			}
		}
	}
}

// GetLatestVersion answers the latest version of an actor.
func (s *Store) GetLatestVersion(ctx context.Context, actorID string) (int64, error) {
	if err := readable(ctx, actorID); err != nil {
		return 0, fmt.Errorf("read latest version from memory: %w", err)
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.latest(actorID), nil
}

// SaveSnapshot keeps the snapshot in place of the actor's earlier one.
func (s *Store) SaveSnapshot(ctx context.Context, snapshot eventstore.Snapshot) error {
	if err := s.saveSnapshot(ctx, snapshot); err != nil {
		outcome.Failed(&s.opts, err)
		return fmt.Errorf("save snapshot in memory: %w", err)
	}
	s.opts.Metrics.SnapshotsSaved.Add(1)
	return nil
}

func (s *Store) saveSnapshot(ctx context.Context, snapshot eventstore.Snapshot) error {
	if err := ended(ctx); err != nil {
		return err
	}
	if err := snapshot.Validate(); err != nil {
		return err
	}
	snapshot.Data, snapshot.Metadata = slices.Clone(snapshot.Data), maps.Clone(snapshot.Metadata)
	if snapshot.Timestamp.IsZero() {
		snapshot.Timestamp = s.opts.Now()
	}
	snapshot.Timestamp = snapshot.Timestamp.Round(0).UTC()
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := versioning.AcceptSnapshot(&snapshot, s.snapshots[snapshot.ActorID].Version, s.latest(snapshot.ActorID)); err != nil {
		return err
	}
	s.snapshots[snapshot.ActorID] = snapshot
	return nil
}

// GetLatestSnapshot answers the newest snapshot of an actor.
func (s *Store) GetLatestSnapshot(ctx context.Context, actorID string) (eventstore.Snapshot, error) {
	if err := readable(ctx, actorID); err != nil {
		return eventstore.Snapshot{}, fmt.Errorf("read snapshot from memory: %w", err)
	}
	s.mu.RLock()
	snapshot, found := s.snapshots[actorID]
	s.mu.RUnlock()
	if !found {
		return eventstore.Snapshot{}, fmt.Errorf("read snapshot of actor %.100q from memory: %w", actorID, eventstore.ErrNoSnapshot)
	}
	snapshot.Data, snapshot.Metadata = slices.Clone(snapshot.Data), maps.Clone(snapshot.Metadata)
	return snapshot, nil
}

// DeleteSnapshot deletes the snapshot of an actor.
func (s *Store) DeleteSnapshot(ctx context.Context, actorID string, version int64) error {
	if err := s.deleteSnapshot(ctx, actorID, version); err != nil {
		outcome.Failed(&s.opts, err)
		return fmt.Errorf("delete snapshot in memory: %w", err)
	}
	return nil
}

func (s *Store) deleteSnapshot(ctx context.Context, actorID string, version int64) error {
	if err := readable(ctx, actorID); err != nil {
		return err
	}
	if err := eventstore.ValidateSnapshotVersion(version); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	stored, found := s.snapshots[actorID]
	if !found {
		return nil
	}
	if err := versioning.AcceptDeletion(actorID, version, stored.Version); err != nil {
		return err
	}
	delete(s.snapshots, actorID)
	return nil
}

func readable(ctx context.Context, actorID string) error {
	if err := eventstore.ValidateActorID(actorID); err != nil {
		return err
	}
	return ended(ctx)
}

// ended is the error of a context that has ended, as a Store reports it.
func ended(ctx context.Context) error {
	if ctx.Err() == nil {
		return nil
	}
	return fmt.Errorf("%w: %w", eventstore.ErrUnavailable, ctx.Err())
}

// clone shares no memory with e.
func clone(e *eventstore.Event) eventstore.Event {
	c := *e
	c.Data = slices.Clone(e.Data)
	c.Metadata = maps.Clone(e.Metadata)
	return c
}
