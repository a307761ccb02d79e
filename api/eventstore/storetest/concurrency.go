package storetest

import (
	"errors"
	"fmt"
	"slices"
	"sync"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
)

var concurrencyTests = []test{
	{"each version is won once", versionWonOnce},
	{"without versions all succeed", unversionedAllSucceed},
	{"batches are not torn", batchesAreNotTorn},
	{"one event from many sides is stored once", oneEventManySides},
	{"expected none is won once", expectedNoneWonOnce},
}

const (
	writers = 6
	rounds  = 8
)

// together runs fn on every writer at once.
func together(fn func(writer int)) {
	var group sync.WaitGroup
	for writer := range writers {
		group.Go(func() { fn(writer) })
	}
	group.Wait()
}

func versionWonOnce(e *env) {
	store := e.newStore()
	var mu sync.Mutex
	winners := map[int64]string{}
	together(func(int) {
		for version := int64(1); version <= rounds; version++ {
			event := newEvent("order-1", version)
			saved, err := store.SaveEvent(e.ctx, event)
			var conflict *eventstore.VersionConflictError
			switch {
			case errors.As(err, &conflict):
				if conflict.CurrentVersion < version || conflict.AttemptedVersion != version {
					e.Errorf("version %d: conflict %+v", version, *conflict)
				}
			case err != nil:
				e.Errorf("save version %d: %v", version, err)
			default:
				mu.Lock()
				if other, taken := winners[version]; taken {
					e.Errorf("version %d is won by %s and by %s", version, other, event.ID)
				}
				winners[version] = event.ID
				mu.Unlock()
				if saved.Version != version || saved.Duplicate {
					e.Errorf("version %d is saved as %+v", version, saved)
				}
			}
		}
	})
	events := e.get(store, "order-1", 0)
	if len(events) != len(winners) {
		e.Errorf("%d events are stored, %d were acknowledged", len(events), len(winners))
	}
	for _, event := range events {
		if winners[event.Version] != event.ID {
			e.Errorf("version %d is event %s, acknowledged was %q", event.Version, event.ID, winners[event.Version])
		}
	}
	// Whoever loses a version has seen it taken: none was skipped by all.
	if len(events) != rounds {
		e.Errorf("%d versions are stored, want %d", len(events), rounds)
	}
}

func unversionedAllSucceed(e *env) {
	store := e.newStore()
	var mu sync.Mutex
	acknowledged := map[string]int64{}
	together(func(int) {
		for range rounds {
			event := newEvent("order-1", 0)
			saved, err := store.SaveEvent(e.ctx, event)
			if err != nil {
				e.Errorf("save: %v", err)
				return
			}
			if saved.Duplicate {
				e.Errorf("saved once, answered %+v", saved)
			}
			mu.Lock()
			acknowledged[event.ID] = saved.Version
			mu.Unlock()
		}
	})
	events := e.get(store, "order-1", 0)
	if len(events) != writers*rounds {
		e.Errorf("%d events are stored, want %d", len(events), writers*rounds)
	}
	for i, event := range events {
		if event.Version != int64(i+1) || acknowledged[event.ID] != event.Version {
			e.Errorf("event %d has version %d, acknowledged was %d", i, event.Version, acknowledged[event.ID])
		}
	}
}

// batchesAreNotTorn: all batches write the same two actors, so that each comes
// whole before or after each other.
func batchesAreNotTorn(e *env) {
	store := e.newStore()
	var mu sync.Mutex
	acknowledged := map[string]uint64{}
	together(func(int) {
		for range rounds {
			batch := []eventstore.Event{newEvent("order-1", 0), newEvent("order-2", 0), newEvent("order-1", 0), newEvent("order-2", 0)}
			saved, err := store.SaveEvents(e.ctx, batch)
			if err != nil {
				e.Errorf("save batch: %v", err)
				return
			}
			mu.Lock()
			for _, one := range saved {
				acknowledged[one.ID] = one.Sequence
			}
			mu.Unlock()
			if saved[2].Version != saved[0].Version+1 || saved[3].Version != saved[1].Version+1 || saved[0].Version != saved[1].Version {
				e.Errorf("batch is saved as %+v", saved)
			}
		}
	})
	for _, actorID := range []string{"order-1", "order-2"} {
		events := e.get(store, actorID, 0)
		if len(events) != 2*writers*rounds {
			e.Errorf("%d events of %q are stored, want %d", len(events), actorID, 2*writers*rounds)
		}
		for i, event := range events {
			if event.Version != int64(i+1) || acknowledged[event.ID] != event.Sequence {
				e.Errorf("event %d of %q: %+v, acknowledged was sequence %d", i, actorID, event, acknowledged[event.ID])
			}
		}
	}
}

func oneEventManySides(e *env) {
	store := e.newStore()
	for round, version := range []int64{1, 0, 3, 0} {
		event := newEvent("order-1", version)
		var mu sync.Mutex
		var answers []eventstore.Saved
		together(func(int) {
			saved, err := store.SaveEvent(e.ctx, event)
			if err != nil {
				e.Errorf("save: %v", err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			answers = append(answers, saved)
		})
		fresh := slices.DeleteFunc(slices.Clone(answers), func(s eventstore.Saved) bool { return s.Duplicate })
		if len(fresh) != 1 {
			e.Errorf("%d of %d answers are not duplicates, want 1: %+v", len(fresh), writers, answers)
		}
		for _, answer := range answers {
			if answer.Version != int64(round+1) || answer.Sequence != answers[0].Sequence {
				e.Errorf("answers differ: %+v", answers)
			}
		}
	}
	e.wantVersions(store, "order-1", 1, 2, 3, 4)
}

func expectedNoneWonOnce(e *env) {
	store := e.newStore()
	for round := range rounds {
		actorID := fmt.Sprintf("order-%d", round)
		var mu sync.Mutex
		won := 0
		together(func(int) {
			_, err := store.SaveEvent(e.ctx, newEvent(actorID, 0), eventstore.Expect(actorID, eventstore.ExpectNone))
			var conflict *eventstore.VersionConflictError
			if err != nil && !errors.As(err, &conflict) {
				e.Errorf("save: %v", err)
			}
			if err == nil {
				mu.Lock()
				won++
				mu.Unlock()
			}
		})
		if won != 1 {
			e.Errorf("%d writers created %q, want 1", won, actorID)
		}
		e.wantVersions(store, actorID, 1)
	}
}
