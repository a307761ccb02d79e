package storetest

import (
	"bytes"
	"errors"
	"maps"
	"strings"
	"sync"
	"time"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
)

var snapshotTests = []test{
	{"none is an error", noSnapshot},
	{"comes back", snapshotComesBack},
	{"the newest wins", newestSnapshotWins},
	{"the same version replaces", sameVersionReplaces},
	{"an older one is refused", olderSnapshotRefused},
	{"remembers the version", snapshotRemembersVersion},
	{"is no event", snapshotIsNoEvent},
	{"from many sides", snapshotsManySides},
}

func (e *env) saveSnapshot(store eventstore.Store, snapshot eventstore.Snapshot) {
	e.Helper()
	if err := store.SaveSnapshot(e.ctx, snapshot); err != nil {
		e.Fatalf("save snapshot at version %d of %q: %v", snapshot.Version, snapshot.ActorID, err)
	}
}

func (e *env) wantSnapshot(store eventstore.Store, want eventstore.Snapshot) {
	e.Helper()
	got, err := store.GetLatestSnapshot(e.ctx, want.ActorID)
	if err != nil {
		e.Fatalf("get latest snapshot of %q: %v", want.ActorID, err)
	}
	if got.ActorID != want.ActorID || got.Version != want.Version || !bytes.Equal(got.Data, want.Data) || !maps.Equal(got.Metadata, want.Metadata) {
		e.Errorf("snapshot is %+v, want %+v", got, want)
	}
	if !want.Timestamp.IsZero() && !got.Timestamp.Equal(want.Timestamp) || got.Timestamp.IsZero() || got.Timestamp.Location() != time.UTC {
		e.Errorf("snapshot is of %v, want %v in UTC", got.Timestamp, want.Timestamp)
	}
}

func noSnapshot(e *env) {
	store := e.newStore()
	e.save(store, newEvent("order-1", 1))
	for _, actorID := range []string{"order-1", "unknown"} {
		_, err := store.GetLatestSnapshot(e.ctx, actorID)
		e.wantErrorIs(err, eventstore.ErrNoSnapshot)
	}
}

func snapshotComesBack(e *env) {
	store := e.newStore()
	stamp := time.Date(2025, 12, 31, 23, 59, 59, 999999999, time.FixedZone("west", -3600))
	for i, data := range [][]byte{[]byte(`{"n": 12345678901234567890.10}`), nil, {0, 255, '\r', '\n'}, []byte("no JSON {")} {
		snapshot := eventstore.Snapshot{ActorID: "a.b *>%/ü\n", Version: int64(i + 1), Data: data, Timestamp: stamp}
		if i > 0 {
			snapshot.Metadata = map[string]string{"schema": "2", "large": strings.Repeat("x", 30<<10)}
		}
		e.saveSnapshot(store, snapshot)
		e.wantSnapshot(store, snapshot)
	}
	e.saveSnapshot(store, eventstore.Snapshot{ActorID: "order-1", Version: 1})
	e.wantSnapshot(store, eventstore.Snapshot{ActorID: "order-1", Version: 1})
}

func newestSnapshotWins(e *env) {
	store := e.newStore()
	for _, version := range []int64{1, 2, 10} {
		snapshot := eventstore.Snapshot{ActorID: "order-1", Version: version, Data: []byte{byte(version)}}
		e.saveSnapshot(store, snapshot)
		e.saveSnapshot(store, eventstore.Snapshot{ActorID: "order-2", Version: 99})
		e.wantSnapshot(store, snapshot)
	}
}

func sameVersionReplaces(e *env) {
	store := e.newStore()
	for _, data := range []string{"first", "second", "second"} {
		snapshot := eventstore.Snapshot{ActorID: "order-1", Version: 3, Data: []byte(data)}
		e.saveSnapshot(store, snapshot)
		e.wantSnapshot(store, snapshot)
	}
}

func olderSnapshotRefused(e *env) {
	store := e.newStore()
	newest := eventstore.Snapshot{ActorID: "order-1", Version: 5, Data: []byte("newest")}
	e.saveSnapshot(store, newest)
	for _, version := range []int64{4, 1} {
		err := store.SaveSnapshot(e.ctx, eventstore.Snapshot{ActorID: "order-1", Version: version})
		e.wantConflict(err, eventstore.VersionConflictError{ActorID: "order-1", AttemptedVersion: version, CurrentVersion: 5})
	}
	e.wantSnapshot(store, newest)
}

// snapshotRemembersVersion: an actor whose events have all expired goes on
// where its snapshot stands. No Store lets a test expire events, and an actor
// with a snapshot and without events looks the same.
func snapshotRemembersVersion(e *env) {
	store := e.newStore()
	e.saveSnapshot(store, eventstore.Snapshot{ActorID: "order-1", Version: 41})
	if version := e.latest(store, "order-1"); version != 41 {
		e.Errorf("latest version is %d, want 41", version)
	}
	stale := newEvent("order-1", 41)
	_, err := store.SaveEvent(e.ctx, stale)
	e.wantConflict(err, eventstore.VersionConflictError{ActorID: "order-1", EventID: stale.ID, AttemptedVersion: 41, CurrentVersion: 41})
	fresh := newEvent("order-1", 0)
	_, err = store.SaveEvent(e.ctx, fresh, eventstore.Expect("order-1", eventstore.ExpectNone))
	e.wantConflict(err, eventstore.VersionConflictError{ActorID: "order-1", EventID: fresh.ID, AttemptedVersion: 1, CurrentVersion: 41})
	if saved := e.save(store, fresh, eventstore.Expect("order-1", 41)); saved.Version != 42 {
		e.Errorf("the next event is saved as version %d, want 42", saved.Version)
	}
	e.wantVersions(store, "order-1", 42)
	saved := e.saveAll(store, newEvents("order-1", 0, 50))
	if saved[0].Version != 43 {
		e.Errorf("the event after it is saved as version %d, want 43", saved[0].Version)
	}
	e.saveSnapshot(store, eventstore.Snapshot{ActorID: "order-2", Version: 7})
	batch := e.saveAll(store, append(newEvents("order-2", 0, 0), newEvent("order-3", 0)))
	if batch[0].Version != 8 || batch[1].Version != 9 || batch[2].Version != 1 {
		e.Errorf("batch after a snapshot is saved as %+v", batch)
	}
}

func snapshotIsNoEvent(e *env) {
	store := e.newStore()
	e.save(store, newEvent("order-1", 3))
	e.saveSnapshot(store, eventstore.Snapshot{ActorID: "order-1", Version: 3})
	e.wantVersions(store, "order-1", 3)
	if saved := e.save(store, newEvent("order-1", 0)); saved.Version != 4 {
		e.Errorf("the next event is saved as version %d, want 4", saved.Version)
	}
}

func snapshotsManySides(e *env) {
	store := e.newStore()
	var mu sync.Mutex
	var newest int64
	together(func(writer int) {
		for round := range rounds {
			version := int64(round*writers + writer + 1)
			err := store.SaveSnapshot(e.ctx, eventstore.Snapshot{ActorID: "order-1", Version: version, Data: []byte{byte(version)}})
			var conflict *eventstore.VersionConflictError
			switch {
			case err == nil:
				mu.Lock()
				newest = max(newest, version)
				mu.Unlock()
			case !errors.As(err, &conflict):
				e.Errorf("save snapshot: %v", err)
			case conflict.CurrentVersion <= version:
				e.Errorf("version %d is refused with %+v", version, *conflict)
			}
		}
	})
	e.wantSnapshot(store, eventstore.Snapshot{ActorID: "order-1", Version: newest, Data: []byte{byte(newest)}})
}
