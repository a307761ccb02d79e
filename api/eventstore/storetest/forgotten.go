package storetest

import (
	"context"
	"errors"
	"strconv"
	"testing"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
)

// Forgetting is a Store whose duplicate window can be waited for.
type Forgetting struct {
	// Open is as for Run.
	Open func(t *testing.T, opts ...eventstore.Option) eventstore.Store
	// Forget returns when the duplicate window of a Store has forgotten all that was
	// saved before.
	Forget func(t *testing.T, store eventstore.Store)
	// In runs a test, in a bubble of testing/synctest where the time is that of one.
	In func(t *testing.T, test func(t *testing.T))
}

// RunForgetting tests what a Store knows of ids that its duplicate window has
// forgotten. The Store that saves an event again is the one that has saved it first.
func RunForgetting(t *testing.T, f Forgetting) {
	t.Helper()
	for _, c := range forgettingTests {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			f.In(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), timeout)
				defer cancel()
				c.run(&forgettingEnv{env: &env{T: t, ctx: ctx, open: f.Open}, forgetting: f})
			})
		})
	}
}

type forgettingEnv struct {
	*env
	forgetting Forgetting
}

func (e *forgettingEnv) forget(store eventstore.Store) {
	e.Helper()
	e.forgetting.Forget(e.T, store)
}

var forgettingTests = []struct {
	name string
	run  func(*forgettingEnv)
}{
	{"with a version", forgottenVersion},
	{"with an expected number", forgottenExpectation},
	{"without a version", forgottenUnversioned},
	{"in a batch", forgottenBatch},
	{"as another event", forgottenOther},
	{"of another actor", forgottenActor},
	{"a command that is replayed", forgottenCommand(0)},
	{"a command before the snapshot", forgottenCommand(2)},
	{"a command before a snapshot without ids", forgottenSnapshot},
	{"commands beside those that are there", forgottenCommands},
}

// olderThanRecent saves more events of an actor than a Store looks at for an id.
func (e *forgettingEnv) olderThanRecent(store eventstore.Store, actorID string) {
	e.Helper()
	events := make([]eventstore.Event, 70)
	for i := range events {
		events[i] = newEvent(actorID, 0)
	}
	e.saveAll(store, events)
}

// forgottenVersion: a version says where to look, for as long as the event is stored.
func forgottenVersion(e *forgettingEnv) {
	store := e.newStore()
	event := newEvent("order-1", 3)
	first := e.save(store, event)
	e.forget(store)
	e.wantAgain(e.save(store, event), first)
	e.wantAgain(e.save(store, event, eventstore.Expect("order-1", eventstore.ExpectNone)), first)
	e.olderThanRecent(store, "order-1")
	e.forget(store)
	e.wantAgain(e.save(store, event), first)
	event.Data = []byte(`{"other":true}`)
	_, err := store.SaveEvent(e.ctx, event)
	e.wantDuplicate(err, first)
}

// forgottenExpectation: so does a number that was expected.
func forgottenExpectation(e *forgettingEnv) {
	store := e.newStore()
	expectNone, expectOne := eventstore.Expect("order-1", eventstore.ExpectNone), eventstore.Expect("order-1", 1)
	one, two := newEvent("order-1", 0), newEvent("order-1", 0)
	first, second := e.save(store, one, expectNone), e.save(store, two, expectOne)
	e.forget(store)
	e.wantAgain(e.save(store, one, expectNone), first)
	e.olderThanRecent(store, "order-1")
	e.forget(store)
	e.wantAgain(e.save(store, one, expectNone), first)
	e.wantAgain(e.save(store, two, expectOne), second)
	_, err := store.SaveEvent(e.ctx, newEvent("order-1", 0), expectNone)
	var conflict *eventstore.VersionConflictError
	if !errors.As(err, &conflict) || conflict.CurrentVersion != 72 {
		e.Errorf("another event where none was expected: %v, want a conflict at version 72", err)
	}
}

// forgottenUnversioned: without either an event is found among the newest.
func forgottenUnversioned(e *forgettingEnv) {
	store := e.newStore()
	event := newEvent("order-1", 0)
	first := e.save(store, event)
	e.forget(store)
	e.wantAgain(e.save(store, event), first)
	e.olderThanRecent(store, "order-1")
	e.forget(store)
	// It is not, behind those: this is what must be known of a save without a version.
	if saved := e.save(store, event); saved.Duplicate || saved.Version != 72 {
		e.Errorf("saved again after the window and 70 events: %+v, want a new event at version 72", saved)
	}
}

func forgottenBatch(e *forgettingEnv) {
	store := e.newStore()
	expectNone := eventstore.Expect("order-1", eventstore.ExpectNone)
	events := []eventstore.Event{newEvent("order-1", 0), newEvent("order-2", 1), newEvent("order-1", 0), newEvent("order-3", 0)}
	first := e.saveAll(store, events, expectNone)
	e.forget(store)
	for i, again := range e.saveAll(store, events, expectNone) {
		e.wantAgain(again, first[i])
	}
	e.wantVersions(store, "order-1", 1, 2)
	e.wantVersions(store, "order-3", 1)
}

// forgottenOther: among the newest of the actor an id is found whatever comes with it.
func forgottenOther(e *forgettingEnv) {
	store := e.newStore()
	event := newEvent("order-1", 1)
	first := e.save(store, event)
	e.save(store, newEvent("order-1", 2))
	e.forget(store)
	event.Version = 3
	_, err := store.SaveEvent(e.ctx, event, eventstore.Expect("order-1", 2))
	e.wantDuplicate(err, first)
	event.Version, event.Data = 0, []byte(`{"other":true}`)
	_, err = store.SaveEvent(e.ctx, event)
	e.wantDuplicate(err, first)
	e.wantVersions(store, "order-1", 1, 2)
}

// forgottenActor: that another actor has the id nobody knows any more.
func forgottenActor(e *forgettingEnv) {
	store := e.newStore()
	event := newEvent("order-1", 1)
	first := e.save(store, event)
	e.forget(store)
	other := event
	other.ActorID = "order-2"
	e.save(store, other)
	e.forget(store)
	e.wantAgain(e.save(store, event), first)
	e.wantVersions(store, "order-2", 1)
}

// command decides for one event with an id, which adds 1.
func command(id string) func(eventstore.Loaded[int]) ([]eventstore.Event, error) {
	return func(eventstore.Loaded[int]) ([]eventstore.Event, error) {
		return []eventstore.Event{{ID: id, EventType: "Tested", Data: []byte("1")}}, nil
	}
}

// refuses wants a command to be a duplicate of a version.
func (e *forgettingEnv) refuses(repository *eventstore.Repository[int], id string, version int64) {
	e.Helper()
	_, err := repository.Update(e.ctx, "order-1", command(id))
	var duplicate *eventstore.DuplicateEventError
	if !errors.As(err, &duplicate) || duplicate.Version != version || duplicate.ActorID != "order-1" || duplicate.EventID != id || duplicate.Sequence == 0 {
		e.Errorf("command %s again: %v, want a duplicate of version %d", id, err, version)
	}
}

func (e *forgettingEnv) updates(repository *eventstore.Repository[int], id string) {
	e.Helper()
	if _, err := repository.Update(e.ctx, "order-1", command(id)); err != nil {
		e.Fatalf("command %s: %v", id, err)
	}
}

// forgottenCommand: a command is carried out once, however much later it comes again.
func forgottenCommand(snapshotEvery int64) func(*forgettingEnv) {
	return func(e *forgettingEnv) {
		store := e.newStore()
		repository := sums(store, snapshotEvery)
		for n := 1; n <= 70; n++ {
			e.updates(repository, strconv.Itoa(n))
		}
		e.forget(store)
		for _, version := range []int64{1, 2, 5, 69, 70} {
			e.refuses(repository, strconv.FormatInt(version, 10), version)
		}
		e.updates(repository, "71")
		if actor, err := repository.Load(e.ctx, "order-1"); err != nil || actor.State != 71 {
			e.Errorf("loaded %+v (%v), want 71", actor, err)
		}
	}
}

// forgottenSnapshot: a snapshot of another program does not hide what was before it,
// and the next one knows the ids again.
func forgottenSnapshot(e *forgettingEnv) {
	store := e.newStore()
	repository := sums(store, 100)
	for n := 1; n <= 3; n++ {
		e.updates(repository, strconv.Itoa(n))
	}
	e.saveSnapshot(store, eventstore.Snapshot{ActorID: "order-1", Version: 3, Data: []byte("3")})
	e.forget(store)
	e.refuses(repository, "2", 2)
	e.updates(repository, "4")
	snapshot, err := store.GetLatestSnapshot(e.ctx, "order-1")
	if err != nil || snapshot.Version != 4 || len(snapshot.Metadata) == 0 {
		e.Errorf("the snapshot is of version %d with metadata %v (%v), want 4 and the ids", snapshot.Version, snapshot.Metadata, err)
	}
	e.refuses(repository, "2", 2)
	e.refuses(repository, "4", 4)
}

// forgottenCommands: of several events none is saved where one is there.
func forgottenCommands(e *forgettingEnv) {
	store := e.newStore()
	repository := sums(store, 2)
	for _, id := range []string{"a", "b", "c"} {
		e.updates(repository, id)
	}
	e.forget(store)
	_, err := repository.Update(e.ctx, "order-1", func(actor eventstore.Loaded[int]) ([]eventstore.Event, error) {
		fresh, err := command("d")(actor)
		again, _ := command("b")(actor)
		return append(fresh, again...), err
	})
	var duplicate *eventstore.DuplicateEventError
	if !errors.As(err, &duplicate) || duplicate.EventID != "b" || duplicate.Version != 2 {
		e.Errorf("a command with an event that is there: %v, want a duplicate of version 2", err)
	}
	e.wantVersions(store, "order-1", 1, 2, 3)
}
