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
	{"of a version that the actor does not have is refused", noSuchVersion},
	{"is deleted", snapshotDeleted},
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
	e.saveAll(store, append(newEvents("a.b *>%/ü\n", 1, 2, 3, 4), newEvent("order-1", 1)))
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
	e.saveAll(store, append(newEvents("order-1", 1, 2, 10), newEvent("order-2", 99)))
	for _, version := range []int64{1, 2, 10} {
		snapshot := eventstore.Snapshot{ActorID: "order-1", Version: version, Data: []byte{byte(version)}}
		e.saveSnapshot(store, snapshot)
		e.saveSnapshot(store, eventstore.Snapshot{ActorID: "order-2", Version: 99})
		e.wantSnapshot(store, snapshot)
	}
}

func sameVersionReplaces(e *env) {
	store := e.newStore()
	e.save(store, newEvent("order-1", 3))
	for _, data := range []string{"first", "second", "second"} {
		snapshot := eventstore.Snapshot{ActorID: "order-1", Version: 3, Data: []byte(data)}
		e.saveSnapshot(store, snapshot)
		e.wantSnapshot(store, snapshot)
	}
}

func olderSnapshotRefused(e *env) {
	store := e.newStore()
	e.save(store, newEvent("order-1", 5))
	newest := eventstore.Snapshot{ActorID: "order-1", Version: 5, Data: []byte("newest")}
	e.saveSnapshot(store, newest)
	for _, version := range []int64{4, 1} {
		err := store.SaveSnapshot(e.ctx, eventstore.Snapshot{ActorID: "order-1", Version: version})
		e.wantConflict(err, eventstore.VersionConflictError{ActorID: "order-1", AttemptedVersion: version, ExpectedVersion: eventstore.ExpectAny, CurrentVersion: 5})
	}
	e.wantSnapshot(store, newest)
}

// noSuchVersion: the state of a version that the actor does not have would hide the
// events up to it.
func noSuchVersion(e *env) {
	store := e.newStore()
	e.saveAll(store, newEvents("order-1", 1, 4))
	for actorID, version := range map[string]int64{"order-1": 5, "unknown": 1} {
		err := store.SaveSnapshot(e.ctx, eventstore.Snapshot{ActorID: actorID, Version: version})
		e.wantErrorIs(err, eventstore.ErrNoSuchVersion)
		_, err = store.GetLatestSnapshot(e.ctx, actorID)
		e.wantErrorIs(err, eventstore.ErrNoSnapshot)
	}
	e.saveSnapshot(store, eventstore.Snapshot{ActorID: "order-1", Version: 4})
	e.wantVersions(store, "order-1", 1, 4)
	e.wantVersions(store, "unknown")
}

func snapshotDeleted(e *env) {
	store := e.newStore()
	e.saveAll(store, append(newEvents("order-1", 1, 2, 3), newEvent("order-2", 1)))
	for _, version := range []int64{1, 3} {
		e.saveSnapshot(store, eventstore.Snapshot{ActorID: "order-1", Version: version, Data: []byte("wrong")})
	}
	e.saveSnapshot(store, eventstore.Snapshot{ActorID: "order-2", Version: 1})
	for _, version := range []int64{1, 2, 4} {
		err := store.DeleteSnapshot(e.ctx, "order-1", version)
		e.wantConflict(err, eventstore.VersionConflictError{ActorID: "order-1", AttemptedVersion: version, ExpectedVersion: eventstore.ExpectAny, CurrentVersion: 3})
	}
	e.wantSnapshot(store, eventstore.Snapshot{ActorID: "order-1", Version: 3, Data: []byte("wrong")})
	for _, version := range []int64{3, 3, 0} {
		if err := store.DeleteSnapshot(e.ctx, "order-1", version); err != nil {
			e.Fatalf("delete the snapshot of version %d: %v", version, err)
		}
		_, err := store.GetLatestSnapshot(e.ctx, "order-1")
		e.wantErrorIs(err, eventstore.ErrNoSnapshot)
	}
	e.wantVersions(store, "order-1", 1, 2, 3)
	e.wantSnapshot(store, eventstore.Snapshot{ActorID: "order-2", Version: 1})
	// An older one than the one that was deleted is no error: that one was wrong.
	e.saveSnapshot(store, eventstore.Snapshot{ActorID: "order-1", Version: 2, Data: []byte("right")})
	e.wantSnapshot(store, eventstore.Snapshot{ActorID: "order-1", Version: 2, Data: []byte("right")})
	e.save(store, newEvent("order-1", 4))
	if err := store.DeleteSnapshot(e.ctx, "unknown", 0); err != nil {
		e.Errorf("delete the snapshot of an actor that has none: %v", err)
	}
	e.wantInvalid(store.DeleteSnapshot(e.ctx, "", 0), "actorId")
	e.wantInvalid(store.DeleteSnapshot(e.ctx, "order-1", -1), "version")
	e.wantInvalid(store.DeleteSnapshot(e.ctx, "order-1", eventstore.MaxVersion+1), "version")
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
	e.save(store, newEvent("order-1", rounds*writers))
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
