package jetstream_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/jetstream"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv/natsserver"
)

// expire lets all events of a stream expire that are stored, and none of those to
// come.
func expire(t *testing.T, nc *nats.Conn, c jetstream.Config, replicas int) {
	t.Helper()
	js := jetStreamOf(t, nc)
	ctx := deadline(t)
	events := streamConfigs(c, replicas)[0]
	short := events
	short.MaxAge, short.Duplicates = 100*time.Millisecond, 100*time.Millisecond
	if _, err := js.UpdateStream(ctx, short); err != nil {
		t.Fatal(err)
	}
	testenv.Eventually(t, time.Minute, "events to expire", func() error {
		stream, err := js.Stream(ctx, c.EventsStream)
		if err != nil {
			return err
		}
		if left := stream.CachedInfo().State.Msgs; left > 0 {
			return errors.New("messages are left")
		}
		// Each replica lets them expire by itself, and any may answer.
		for range 64 {
			if _, err := stream.GetMsg(ctx, stream.CachedInfo().State.LastSeq); !errors.Is(err, natsjs.ErrMsgNotFound) {
				return fmt.Errorf("a replica has a message left (%v)", err)
			}
		}
		return nil
	})
	if _, err := js.UpdateStream(ctx, events); err != nil {
		t.Fatal(err)
	}
}

func save(t *testing.T, store *jetstream.Store, events ...eventstore.Event) []eventstore.Saved {
	t.Helper()
	saved, err := store.SaveEvents(deadline(t), events)
	if err != nil {
		t.Fatal(err)
	}
	return saved
}

func saveSnapshot(t *testing.T, store *jetstream.Store, actorID string, version int64) {
	t.Helper()
	if err := store.SaveSnapshot(deadline(t), eventstore.Snapshot{ActorID: actorID, Version: version, Data: []byte("state")}); err != nil {
		t.Fatal(err)
	}
}

func wantLatest(t *testing.T, store *jetstream.Store, actorID string, want int64) {
	t.Helper()
	if version, err := store.GetLatestVersion(deadline(t), actorID); err != nil || version != want {
		t.Errorf("latest version of %s is %d (%v), want %d", actorID, version, err, want)
	}
}

// An actor whose events have all expired goes on where its snapshot stands, and
// where one stood that was deleted.
func TestSnapshotRemembersVersion(t *testing.T) {
	t.Parallel()
	onSystems(t, func(t *testing.T, cluster *natsserver.Cluster, replicas int) {
		nc := cluster.Connect(t)
		c := config()
		createStreams(t, nc, streamConfigs(c, replicas)...)
		first := open(t, nc, c)
		save(t, first, event("a", "order-1", 40), event("b", "order-1", 41), event("c", "order-2", 7), event("d", "order-3", 1), event("e", "order-4", 3))
		saveSnapshot(t, first, "order-1", 41)
		saveSnapshot(t, first, "order-2", 7)
		saveSnapshot(t, first, "order-4", 2)
		if err := first.DeleteSnapshot(deadline(t), "order-4", 2); err != nil {
			t.Fatal(err)
		}
		expire(t, nc, c, replicas)
		// One that has saved nothing, and one that remembers what is gone.
		for name, store := range map[string]*jetstream.Store{"new": open(t, nc, c), "same": first} {
			for actorID, version := range map[string]int64{"order-1": 41, "order-2": 7, "order-4": 3} {
				wantLatest(t, store, actorID, version)
				for _, refused := range []eventstore.Event{event(name+actorID, actorID, version), event(name+actorID, actorID, 1)} {
					wantConflictAt(t, store, refused, version)
				}
				wantConflictAt(t, store, event(name+actorID, actorID, 0), version, eventstore.Expect(actorID, eventstore.ExpectNone))
			}
		}
		_, err := first.GetLatestSnapshot(deadline(t), "order-4")
		if !errors.Is(err, eventstore.ErrNoSnapshot) {
			t.Errorf("the snapshot that was deleted: %v", err)
		}
		saveSnapshot(t, first, "order-1", 41)
		if err := first.SaveSnapshot(deadline(t), eventstore.Snapshot{ActorID: "order-1", Version: 42}); !errors.Is(err, eventstore.ErrNoSuchVersion) {
			t.Errorf("a snapshot of a version that the actor never had: %v", err)
		}
		saved := save(t, open(t, nc, c), event("f", "order-1", 0), event("g", "order-2", 0), event("h", "order-2", 0), event("i", "order-4", 0), event("j", "order-5", 0))
		for i, want := range []int64{42, 8, 9, 4, 1} {
			if saved[i].Version != want {
				t.Errorf("%s is saved as version %d, want %d", saved[i].ID, saved[i].Version, want)
			}
		}
	})
}

func wantConflictAt(t *testing.T, store *jetstream.Store, refused eventstore.Event, version int64, opts ...eventstore.SaveOption) {
	t.Helper()
	_, err := store.SaveEvent(deadline(t), refused, opts...)
	var conflict *eventstore.VersionConflictError
	if !errors.As(err, &conflict) || conflict.CurrentVersion != version {
		t.Errorf("version %d of %s: %v, want a conflict with version %d", refused.Version, refused.ActorID, err, version)
	}
}

// What a deletion leaves stored holds no data of any snapshot, however many the
// stream keeps.
func TestDeletedSnapshotsAreGone(t *testing.T) {
	t.Parallel()
	nc := sharedServers(t, 1).Connect(t)
	c := config()
	configs := streamConfigs(c, 1)
	configs[1].MaxMsgsPerSubject, configs[1].DenyDelete, configs[1].DenyPurge = 3, true, true
	createStreams(t, nc, configs...)
	store := open(t, nc, c)
	save(t, store, event("a", "order-1", 9), event("b", "order-2", 1))
	saveSnapshot(t, store, "order-2", 1)
	for version := int64(1); version <= 5; version++ {
		saveSnapshot(t, store, "order-1", version)
	}
	if err := store.DeleteSnapshot(deadline(t), "order-1", 0); err != nil {
		t.Fatal(err)
	}
	js := jetStreamOf(t, nc)
	stream, err := js.Stream(deadline(t), c.SnapshotsStream)
	if err != nil {
		t.Fatal(err)
	}
	state := stream.CachedInfo().State
	var deleted int
	for sequence := state.FirstSeq; sequence <= state.LastSeq; sequence++ {
		m, err := stream.GetMsg(deadline(t), sequence)
		if errors.Is(err, natsjs.ErrMsgNotFound) || err == nil && m.Subject != jetstream.SnapshotsSubject(c.EventsStream, "order-1") {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if len(m.Data) != 0 || m.Header.Get("ce-type") != "aether.snapshot.deleted" || m.Header.Get("ce-actorversion") != "9" {
			t.Errorf("message %d is left of what was deleted: %v %q", sequence, m.Header, m.Data)
		}
		deleted++
	}
	if deleted != 3 {
		t.Errorf("%d messages stand for what was deleted, want 3", deleted)
	}
	if _, err := store.GetLatestSnapshot(deadline(t), "order-2"); err != nil {
		t.Errorf("the snapshot of another actor: %v", err)
	}
}

// purge removes what is stored before a sequence, as if it had expired.
func purge(t *testing.T, nc *nats.Conn, c jetstream.Config, before uint64) {
	t.Helper()
	js := jetStreamOf(t, nc)
	stream, err := js.Stream(deadline(t), c.EventsStream)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Purge(deadline(t), natsjs.WithPurgeSequence(before)); err != nil {
		t.Fatal(err)
	}
}

// wantTruncated wants a read to say what is left; version -1 is that nothing is missing.
func wantTruncated(t *testing.T, store *jetstream.Store, actorID string, from, version int64, opts ...eventstore.ReadOption) {
	t.Helper()
	got, err := store.GetEventsWithErrors(deadline(t), actorID, from, append(opts, eventstore.UpToDate())...)
	if err != nil || got.Truncated != (version >= 0) || got.Truncated && got.FirstVersion != version {
		t.Errorf("%s from version %d: %v, truncated %v, first version %d, want %d", actorID, from, err, got.Truncated, got.FirstVersion, version)
	}
}

// A read whose first events are gone says so, and one that did not want them does not.
func TestTruncated(t *testing.T) {
	t.Parallel()
	onSystems(t, func(t *testing.T, cluster *natsserver.Cluster, replicas int) {
		nc := cluster.Connect(t)
		c := config()
		createStreams(t, nc, streamConfigs(c, replicas)...)
		store := open(t, nc, c)
		save(t, store, event("a", "order-1", 2))
		save(t, store, event("b", "order-1", 4), event("c", "order-2", 1), event("d", "order-2", 2), event("e", "order-3", 7), event("f", "order-1", 6))
		save(t, store, event("g", "order-1", 7))
		wantTruncated(t, store, "order-1", 0, -1)
		purge(t, nc, c, 4)
		for _, reader := range []*jetstream.Store{store, open(t, nc, c)} {
			for from, version := range map[int64]int64{0: 6, 2: 6, 4: 6, 5: -1, 6: -1, 7: -1, 8: -1} {
				wantTruncated(t, reader, "order-1", from, version)
			}
			wantTruncated(t, reader, "order-2", 0, 2)
			wantTruncated(t, reader, "order-2", 1, -1)
			wantTruncated(t, reader, "order-3", 0, -1)
			wantTruncated(t, reader, "order-4", 0, -1)
			wantTruncated(t, reader, "order-1", 0, -1, eventstore.Newest(2))
			wantTruncated(t, reader, "order-1", 0, 6, eventstore.Newest(3))
			wantTruncated(t, reader, "order-1", 0, 6, eventstore.FromSequence(2))
			wantTruncated(t, reader, "order-1", 0, -1, eventstore.FromSequence(6))
		}
		loadTruncated(t, store)
	})
}

// loadTruncated: a state of what is left is none, unless that is wanted.
func loadTruncated(t *testing.T, store *jetstream.Store) {
	t.Helper()
	counter := eventstore.Repository[int]{Store: store, Apply: func(n int, _ eventstore.Event) (int, error) { return n + 1, nil }}
	var truncated *eventstore.TruncatedError
	if _, err := counter.Load(deadline(t), "order-1"); !errors.As(err, &truncated) || truncated.FirstVersion != 6 {
		t.Errorf("load: %v, want it to be truncated", err)
	}
	counter.AcceptTruncated = true
	if actor, err := counter.Load(deadline(t), "order-1"); err != nil || actor.State != 2 || actor.Version != 7 {
		t.Errorf("loaded %+v, %v", actor, err)
	}
	counter.AcceptTruncated, counter.SnapshotEvery = false, 1000
	saveSnapshot(t, store, "order-1", 7)
	save(t, store, event("h", "order-1", 8))
	counter.Decode = func([]byte) (int, error) { return 5, nil }
	if actor, err := counter.Load(deadline(t), "order-1"); err != nil || actor.State != 6 || actor.Version != 8 {
		t.Errorf("loaded %+v, %v", actor, err)
	}
}

// Events of an actor that goes on after all of them have expired are not its first.
func TestTruncatedToNothing(t *testing.T) {
	t.Parallel()
	store, c, nc := newStore(t)
	save(t, store, event("a", "order-1", 40), event("b", "order-1", 41))
	saveSnapshot(t, store, "order-1", 41)
	expire(t, nc, c, 1)
	wantTruncated(t, store, "order-1", 0, 0)
	wantTruncated(t, store, "order-1", 40, 0)
	wantTruncated(t, store, "order-1", 41, -1)
	wantTruncated(t, store, "order-1", 0, 0, eventstore.FromSequence(2))
	save(t, open(t, nc, c), event("c", "order-1", 0), event("d", "order-1", 50))
	save(t, store, event("e", "order-1", 51))
	wantTruncated(t, store, "order-1", 0, 42)
	wantTruncated(t, store, "order-1", 40, 42)
	wantTruncated(t, store, "order-1", 41, -1)
	wantTruncated(t, store, "order-1", 42, -1)
}
