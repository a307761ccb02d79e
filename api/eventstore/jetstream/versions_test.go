package jetstream_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/jetstream"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv/natsserver"
)

// soon is an age with which all that is stored is in its window a moment later.
const soon = 100 * time.Millisecond

// keep keeps the versions of all actors until the messages up to a sequence were looked
// at, as before max_age is lowered to soon, and answers how many versions that stored.
func keep(t *testing.T, nc *nats.Conn, c jetstream.Config, store *jetstream.Store, through uint64) (marked int) {
	t.Helper()
	eventually(t, fmt.Sprintf("the messages up to %d are looked at", through), func() bool {
		kept, err := store.KeepVersions(deadline(t), jetstream.KeepOptions{MaxAge: soon})
		if err != nil {
			t.Fatal(err)
		}
		marked += kept.Marked
		return nextToKeep(t, nc, c) == through+1
	})
	return marked
}

// nextToKeep is the first sequence that nobody has looked at, as the record says, 0 where
// there is none.
func nextToKeep(t *testing.T, nc *nats.Conn, c jetstream.Config) uint64 {
	t.Helper()
	stream, err := jetStreamOf(t, nc).Stream(deadline(t), c.SnapshotsStream)
	if err != nil {
		t.Fatal(err)
	}
	m, err := stream.GetLastMsgForSubject(deadline(t), c.EventsStream+".snapshots.%versions.kept")
	if errors.Is(err, natsjs.ErrMsgNotFound) {
		return 0
	}
	if err != nil {
		t.Fatal(err)
	}
	var record struct{ LastSequence uint64 }
	if err := json.Unmarshal(m.Data, &record); err != nil {
		t.Fatal(err)
	}
	return record.LastSequence + 1
}

// wantEnded wants an actor to be at a version, which has no event any more, for every
// caller; it ends with one event more.
func wantEnded(t *testing.T, store *jetstream.Store, actorID string, version int64) {
	t.Helper()
	wantLatest(t, store, actorID, version)
	wantConflictAt(t, store, event("none-"+actorID, actorID, 0), version, eventstore.Expect(actorID, eventstore.ExpectNone))
	wantConflictAt(t, store, event("one-"+actorID, actorID, 1), version)
	wantTruncated(t, store, actorID, 0, 0)
	wantTruncated(t, store, actorID, version, -1)
	if saved := save(t, store, event("next-"+actorID, actorID, 0)); saved[0].Version != version+1 {
		t.Errorf("the next event of %s is saved as version %d, want %d", actorID, saved[0].Version, version+1)
	}
	wantTruncated(t, store, actorID, 0, version+1)
}

// An actor does not begin anew when its last event has expired: the Store that has saved
// sees to that by itself.
func TestVersionsOutliveEvents(t *testing.T) {
	t.Parallel()
	onSystems(t, func(t *testing.T, cluster *natsserver.Cluster, replicas int) {
		nc, c := cluster.Connect(t), config()
		configs := streamConfigs(c, replicas)
		configs[0].MaxAge = 20 * time.Second
		configs[0].Duplicates = configs[0].MaxAge
		createStreams(t, nc, configs...)
		store := open(t, nc, c)
		save(t, store, event("a", "order-1", 0), event("b", "order-1", 0), event("c", "order-2", 80), event("d", "order-3", 7))
		saveSnapshot(t, store, "order-2", 50)
		saveSnapshot(t, store, "order-3", 7)
		if err := store.DeleteSnapshot(deadline(t), "order-3", 7); err != nil {
			t.Fatal(err)
		}
		awaitExpired(t, nc, c)
		for name, other := range map[string]*jetstream.Store{"same": store, "new": open(t, nc, c)} {
			for actorID, version := range map[string]int64{"order-1": 2, "order-2": 80, "order-3": 7} {
				wantLatest(t, other, actorID, version)
				wantConflictAt(t, other, event(name+actorID, actorID, 0), version, eventstore.Expect(actorID, eventstore.ExpectNone))
			}
		}
		wantEnded(t, open(t, nc, c), "order-1", 2)
		wantEnded(t, store, "order-2", 80)
		if snapshot, err := store.GetLatestSnapshot(deadline(t), "order-2"); err != nil || snapshot.Version != 50 {
			t.Errorf("the snapshot is %+v, %v", snapshot, err)
		}
	})
}

// awaitExpired waits until a stream has no message any more, on all of its servers.
func awaitExpired(t *testing.T, nc *nats.Conn, c jetstream.Config) {
	t.Helper()
	js := jetStreamOf(t, nc)
	ctx := deadline(t)
	testenv.Eventually(t, time.Minute, "events to expire", func() error {
		stream, err := js.Stream(ctx, c.EventsStream)
		if err != nil {
			return err
		}
		if left := stream.CachedInfo().State.Msgs; left > 0 {
			return fmt.Errorf("%d messages are left", left)
		}
		return nil
	})
}

// What remembers the version of an actor changes nothing of its snapshot.
func TestSnapshotsThatRemember(t *testing.T) {
	t.Parallel()
	onSystems(t, func(t *testing.T, cluster *natsserver.Cluster, replicas int) {
		nc, c := cluster.Connect(t), config()
		createStreams(t, nc, streamConfigs(c, replicas)...)
		store := open(t, nc, c)
		ctx := deadline(t)
		before := eventstore.Snapshot{
			ActorID: "order-1", Version: 50, Data: []byte{0, 1}, Timestamp: time.Unix(1, 2).UTC(), Metadata: map[string]string{"schema": "ü 2"},
		}
		save(t, store, event("a", "order-1", 50), event("b", "order-2", 3), event("c", "order-3", 4), event("d", "order-4", 5))
		if err := store.SaveSnapshot(ctx, before); err != nil {
			t.Fatal(err)
		}
		saveSnapshot(t, store, "order-4", 5)
		publish(t, nc, jetstream.SnapshotsSubject(c.EventsStream, "order-3"), nats.Header{"foreign": {"x"}}, "no snapshot")
		save(t, store, event("e", "order-1", 80))
		if marked := keep(t, nc, c, store, 5); marked != 3 {
			t.Errorf("%d versions are stored, want those of order-1, order-2 and order-3", marked)
		}
		expire(t, nc, c, replicas)
		after, err := store.GetLatestSnapshot(ctx, "order-1")
		if err != nil || after.Version != before.Version || !bytes.Equal(after.Data, before.Data) || !after.Timestamp.Equal(before.Timestamp) || !maps.Equal(after.Metadata, before.Metadata) {
			t.Errorf("the snapshot is %+v (%v), want %+v", after, err, before)
		}
		// Who examines what is no snapshot finds it.
		if m := lastSnapshot(t, nc, c, "order-3"); string(m.Data) != "no snapshot" || m.Header.Get("foreign") != "x" {
			t.Errorf("in the place of what is no snapshot is %+v", m)
		}
		if _, err := store.GetLatestSnapshot(ctx, "order-3"); !errors.Is(err, eventstore.ErrNoSnapshot) {
			t.Errorf("what is no snapshot: %v", err)
		}
		// No snapshot that is saved from then on forgets the version.
		saveSnapshot(t, store, "order-1", 60)
		saveSnapshot(t, store, "order-3", 1)
		for actorID, version := range map[string]int64{"order-1": 80, "order-2": 3, "order-3": 4, "order-4": 5} {
			wantEnded(t, open(t, nc, c), actorID, version)
		}
	})
}

// lastSnapshot is the last message of the snapshots of an actor.
func lastSnapshot(t *testing.T, nc *nats.Conn, c jetstream.Config, actorID string) *natsjs.RawStreamMsg {
	t.Helper()
	stream, err := jetStreamOf(t, nc).Stream(deadline(t), c.SnapshotsStream)
	if err != nil {
		t.Fatal(err)
	}
	m, err := stream.GetLastMsgForSubject(deadline(t), jetstream.SnapshotsSubject(c.EventsStream, actorID))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// Each event has its turn: that of an actor which goes on is not the last one.
func TestActorsThatGoOn(t *testing.T) {
	t.Parallel()
	store, c, nc := newStore(t)
	save(t, store, event("a", "order-1", 1), event("b", "order-2", 1))
	if marked := keep(t, nc, c, store, 2); marked != 2 {
		t.Errorf("%d versions are stored, want 2", marked)
	}
	save(t, store, event("c", "order-1", 2), event("d", "order-1", 3))
	if marked := keep(t, nc, c, store, 4); marked != 1 {
		t.Errorf("%d versions are stored, want 1", marked)
	}
	// Nothing is to be seen of it while there are events.
	for i, reader := range []*jetstream.Store{store, open(t, nc, c)} {
		wantLatest(t, reader, "order-1", int64(3+i))
		wantTruncated(t, reader, "order-1", 0, -1)
		wantTruncated(t, reader, "order-2", 0, -1)
		saved := save(t, reader, event(fmt.Sprintf("next-%d", i), "order-1", 0))
		if m := storedMessage(t, nc, c.EventsStream, saved[0].Sequence); m.Header.Get("aether-after") != "" || m.Header.Get("aether-prev") == "" {
			t.Errorf("an actor with events goes on with %v", m.Header)
		}
	}
	wantVersionsOf(t, store, "order-1", 1, 2, 3, 4, 5)
	purge(t, nc, c, 3)
	wantTruncated(t, store, "order-1", 0, 2)
	wantTruncated(t, store, "order-2", 0, 0)
}

func wantVersionsOf(t *testing.T, store *jetstream.Store, actorID string, want ...int64) {
	t.Helper()
	events, err := store.GetEvents(deadline(t), actorID, 0, eventstore.UpToDate())
	if err != nil || fmt.Sprint(versions(events)) != fmt.Sprint(want) {
		t.Errorf("versions of %s are %v (%v), want %v", actorID, versions(events), err, want)
	}
}

// What is no event hides no version, whatever comes after what.
func TestVersionsBesideWhatIsNoEvent(t *testing.T) {
	t.Parallel()
	for name, header := range malformed() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			store, c, nc := newStore(t)
			subject := jetstream.EventsSubject(c.EventsStream, "order-1")
			publish(t, nc, subject, header, "")
			save(t, store, event("a", "order-1", 8))
			publish(t, nc, subject, header, "raw")
			publish(t, nc, subject, eventHeader("order-1", "large", "9"), strings.Repeat("x", eventstore.MaxDataBytes+1))
			keep(t, nc, c, store, 4)
			expire(t, nc, c, 1)
			wantEnded(t, open(t, nc, c), "order-1", 8)
		})
	}
}

// Hundreds of actors are kept, in batches, and by many keepers at once.
func TestKeepVersionsOfManyActors(t *testing.T) {
	t.Parallel()
	onSystems(t, func(t *testing.T, cluster *natsserver.Cluster, replicas int) {
		nc, c := cluster.Connect(t), config()
		createStreams(t, nc, streamConfigs(c, replicas)...)
		store := open(t, nc, c)
		const actors = 700
		for from := 1; from <= actors; from += 100 {
			var events []eventstore.Event
			for n := from; n < from+100; n++ {
				events = append(events, event(fmt.Sprintf("e-%d", n), fmt.Sprintf("order-%d", n), int64(n)))
			}
			save(t, store, events...)
		}
		keepers := []*jetstream.Store{store, open(t, nc, c), open(t, nc, c)}
		var keeping errgroup.Group
		for _, keeper := range keepers {
			keeping.Go(func() error {
				_, err := keeper.KeepVersions(deadline(t), jetstream.KeepOptions{MaxAge: soon})
				return err
			})
		}
		if err := keeping.Wait(); err != nil {
			t.Fatal(err)
		}
		keep(t, nc, c, store, actors)
		expire(t, nc, c, replicas)
		reader := open(t, nc, c)
		for n := 1; n <= actors; n++ {
			wantLatest(t, reader, fmt.Sprintf("order-%d", n), int64(n))
		}
		wantEnded(t, reader, "order-700", 700)
	})
}

// Versions are kept while snapshots are saved and deleted.
func TestKeepVersionsBesideSnapshots(t *testing.T) {
	t.Parallel()
	onSystems(t, func(t *testing.T, cluster *natsserver.Cluster, replicas int) {
		nc, c := cluster.Connect(t), config()
		configs := streamConfigs(c, replicas)
		configs[1].MaxMsgsPerSubject = 3
		createStreams(t, nc, configs...)
		store, other := open(t, nc, c), open(t, nc, c)
		const actors, rounds = 5, 6
		for n := range actors {
			for version := range int64(rounds) {
				save(t, store, event(fmt.Sprintf("%d-%d", n, version), fmt.Sprintf("order-%d", n), 10*(version+1)))
			}
		}
		var working errgroup.Group
		for n := range actors {
			working.Go(func() error {
				actorID := fmt.Sprintf("order-%d", n)
				for version := range int64(rounds) {
					if err := other.SaveSnapshot(deadline(t), eventstore.Snapshot{ActorID: actorID, Version: version + 1, Data: []byte("state")}); err != nil {
						return err
					}
					if n%2 == 0 {
						if err := other.DeleteSnapshot(deadline(t), actorID, 0); err != nil {
							return err
						}
					}
				}
				return other.SaveSnapshot(deadline(t), eventstore.Snapshot{ActorID: actorID, Version: 7, Data: []byte(actorID)})
			})
		}
		keep(t, nc, c, store, actors*rounds)
		if err := working.Wait(); err != nil {
			t.Fatal(err)
		}
		expire(t, nc, c, replicas)
		reader := open(t, nc, c)
		for n := range actors {
			actorID := fmt.Sprintf("order-%d", n)
			if snapshot, err := reader.GetLatestSnapshot(deadline(t), actorID); err != nil || snapshot.Version != 7 || string(snapshot.Data) != actorID {
				t.Errorf("the snapshot of %s is %+v (%v)", actorID, snapshot, err)
			}
			wantEnded(t, reader, actorID, 10*rounds)
		}
	})
}
