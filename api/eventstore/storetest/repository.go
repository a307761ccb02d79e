package storetest

import (
	"errors"
	"fmt"
	"strconv"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
)

var repositoryTests = []test{
	{"counts what many sides decide", repositoryCounts},
	{"begins with the snapshot", repositorySnapshot},
	{"decides once for each id", repositoryDuplicate},
	{"reports what is refused", repositoryRefusal},
}

// sums add up events whose data is a number.
func sums(store eventstore.Store, snapshotEvery int64) *eventstore.Repository[int] {
	return &eventstore.Repository[int]{
		Store: store, SnapshotEvery: snapshotEvery, Attempts: 1000,
		Apply: func(sum int, event eventstore.Event) (int, error) {
			n, err := strconv.Atoi(string(event.Data))
			return sum + n, err
		},
	}
}

// add decides for events that add numbers, and only while the sum is below a
// limit.
func add(limit int, numbers ...int) func(eventstore.Loaded[int]) ([]eventstore.Event, error) {
	return func(actor eventstore.Loaded[int]) ([]eventstore.Event, error) {
		if actor.State >= limit {
			return nil, nil
		}
		events := make([]eventstore.Event, len(numbers))
		for i, n := range numbers {
			events[i] = newEvent("", 0)
			events[i].Data = strconv.AppendInt(nil, int64(n), 10)
		}
		return events, nil
	}
}

// repositoryCounts: the limit holds exactly, whoever comes first.
func repositoryCounts(e *env) {
	const limit = writers * rounds / 2
	store := e.newStore()
	together(func(int) {
		repository := sums(store, 5)
		for range rounds {
			if _, err := repository.Update(e.ctx, "order-1", add(limit, 1)); err != nil {
				e.Errorf("update: %v", err)
			}
		}
	})
	for _, repository := range []*eventstore.Repository[int]{sums(store, 0), sums(store, 5)} {
		if actor, err := repository.Load(e.ctx, "order-1"); err != nil || actor.State != limit || actor.Version != limit {
			e.Errorf("loaded %+v (%v), want %d", actor, err, limit)
		}
	}
}

func repositorySnapshot(e *env) {
	store := e.newStore()
	repository := sums(store, 3)
	want := func(got eventstore.Loaded[int], err error, want eventstore.Loaded[int]) {
		e.Helper()
		if err != nil || got != want {
			e.Errorf("%+v (%v), want %+v", got, err, want)
		}
	}
	actor, err := repository.Load(e.ctx, "order-1")
	want(actor, err, eventstore.Loaded[int]{})
	actor, err = repository.Update(e.ctx, "order-1", add(100, 1, 2))
	want(actor, err, eventstore.Loaded[int]{State: 3, Version: 2})
	actor, err = repository.Update(e.ctx, "order-1", add(100, 3, 4))
	want(actor, err, eventstore.Loaded[int]{State: 10, Version: 4, SnapshotVersion: 4})
	actor, err = repository.Update(e.ctx, "order-1", add(100, 5))
	want(actor, err, eventstore.Loaded[int]{State: 15, Version: 5, SnapshotVersion: 4})
	// The state comes from the snapshot: here it is another than the events'.
	e.saveSnapshot(store, eventstore.Snapshot{ActorID: "order-1", Version: 4, Data: []byte("1000")})
	actor, err = repository.Load(e.ctx, "order-1")
	want(actor, err, eventstore.Loaded[int]{State: 1005, Version: 5, SnapshotVersion: 4})
	e.saveSnapshot(store, eventstore.Snapshot{ActorID: "order-1", Version: 4, Data: []byte("no number")})
	actor, err = repository.Load(e.ctx, "order-1")
	want(actor, err, eventstore.Loaded[int]{State: 15, Version: 5})
}

func repositoryDuplicate(e *env) {
	repository := sums(e.newStore(), 0)
	decide := func(eventstore.Loaded[int]) ([]eventstore.Event, error) {
		return []eventstore.Event{{ID: "command-1", EventType: "Tested", Data: []byte("1")}}, nil
	}
	if _, err := repository.Update(e.ctx, "order-1", decide); err != nil {
		e.Fatal(err)
	}
	_, err := repository.Update(e.ctx, "order-1", decide)
	var duplicate *eventstore.DuplicateEventError
	if !errors.As(err, &duplicate) || duplicate.Version != 1 {
		e.Errorf("carried out again: %v, want a duplicate of version 1", err)
	}
}

var errRefused = errors.New("refused")

func repositoryRefusal(e *env) {
	store := e.newStore()
	repository := sums(store, 0)
	_, err := repository.Update(e.ctx, "order-1", func(eventstore.Loaded[int]) ([]eventstore.Event, error) { return nil, errRefused })
	e.wantErrorIs(err, errRefused)
	e.wantVersions(store, "order-1")
	// Apply takes no data that is no number.
	_, err = repository.Update(e.ctx, "order-1", func(eventstore.Loaded[int]) ([]eventstore.Event, error) {
		return []eventstore.Event{newEvent("", 0)}, nil
	})
	e.wantErrorIs(err, strconv.ErrSyntax)
	e.wantVersions(store, "order-1")
	e.save(store, newEvent("order-1", 1))
	// Data that is no number.
	if actor, err := repository.Load(e.ctx, "order-1"); !errors.Is(err, strconv.ErrSyntax) {
		e.Errorf("loaded %s (%v) from an event that cannot be applied", fmt.Sprint(actor), err)
	}
}
