package jetstream_test

import (
	"errors"
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
	js, err := natsjs.New(nc)
	if err != nil {
		t.Fatal(err)
	}
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
	js, err := natsjs.New(nc)
	if err != nil {
		t.Fatal(err)
	}
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
