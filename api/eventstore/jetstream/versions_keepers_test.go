package jetstream_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/jetstream"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv/natsserver"
)

// expiring makes streams whose events expire after an hour, and a Store that did not
// save to them.
func expiring(t *testing.T) (*jetstream.Store, jetstream.Config, *nats.Conn) {
	t.Helper()
	nc, c := sharedServers(t, 1).Connect(t), config()
	configs := streamConfigs(c, 1)
	configs[0].MaxAge = time.Hour
	createStreams(t, nc, configs...)
	return open(t, nc, c), c, nc
}

func keepOnce(t *testing.T, store *jetstream.Store, maxAge time.Duration) jetstream.KeptVersions {
	t.Helper()
	kept, err := store.KeepVersions(deadline(t), jetstream.KeepOptions{MaxAge: maxAge})
	if err != nil {
		t.Fatal(err)
	}
	return kept
}

// Where events do not expire, or nothing is due, nothing is done.
func TestKeepVersionsWithoutNeed(t *testing.T) {
	t.Parallel()
	store, c, nc := newStore(t)
	save(t, store, event("a", "order-1", 1))
	if kept := keepOnce(t, store, 0); kept != (jetstream.KeptVersions{Answered: true}) || nextToKeep(t, nc, c) != 0 {
		t.Errorf("of events that do not expire %+v is kept", kept)
	}
	store, c, nc = expiring(t)
	publish(t, nc, jetstream.EventsSubject(c.EventsStream, "order-1"), eventHeader("order-1", "a", "1"), "")
	for range 2 {
		kept := keepOnce(t, store, 0)
		if kept.Looked != 0 || kept.Marked != 0 || kept.MaxAge != time.Hour || kept.Next <= time.Minute || kept.Next > 5*time.Minute {
			t.Errorf("before anything is due: %+v", kept)
		}
	}
	if nextToKeep(t, nc, c) != 0 {
		t.Error("a record is stored of what was not done")
	}
	if _, err := store.KeepVersions(deadline(t), jetstream.KeepOptions{MaxAge: -1}); err == nil {
		t.Error("a negative age is taken")
	}
}

// What one has looked at, others do not, and whoever is told to keep at once does.
func TestKeepersShareTheWork(t *testing.T) {
	t.Parallel()
	store, c, nc := expiring(t)
	other := open(t, nc, c)
	publish(t, nc, jetstream.EventsSubject(c.EventsStream, "order-1"), eventHeader("order-1", "a", "1"), "")
	if marked := keep(t, nc, c, store, 1); marked != 1 {
		t.Errorf("%d versions are stored, want 1", marked)
	}
	if kept := keepOnce(t, other, soon); kept.Looked != 0 || kept.Marked != 0 {
		t.Errorf("the second keeper: %+v", kept)
	}
}

// A stream that was deleted and made again has other events at the same sequences.
func TestKeepVersionsOfAStreamMadeAnew(t *testing.T) {
	t.Parallel()
	store, c, nc := newStore(t)
	save(t, store, event("a", "order-1", 1), event("b", "order-1", 2), event("c", "order-2", 5))
	keep(t, nc, c, store, 3)
	if err := jetStreamOf(t, nc).DeleteStream(deadline(t), c.EventsStream); err != nil {
		t.Fatal(err)
	}
	createStreams(t, nc, streamConfigs(c, 1)[0])
	store = open(t, nc, c)
	wantLatest(t, store, "order-1", 2)
	save(t, store, event("d", "order-3", 1), event("e", "order-2", 6))
	if marked := keep(t, nc, c, store, 2); marked != 2 {
		t.Errorf("%d versions are stored, want those of order-2 and order-3", marked)
	}
	expire(t, nc, c, 1)
	for actorID, version := range map[string]int64{"order-1": 2, "order-2": 6, "order-3": 1} {
		wantEnded(t, store, actorID, version)
	}
}

// awaitWindow waits until all messages up to one are in their window.
func awaitWindow(t *testing.T, nc *nats.Conn, c jetstream.Config, through uint64) {
	t.Helper()
	eventually(t, "all is in its window", func() bool {
		return time.Since(storedMessage(t, nc, c.EventsStream, through).Time) > soon
	})
}

// Who has little time does one batch, and says that there is more.
func TestKeepVersionsForAWhile(t *testing.T) {
	t.Parallel()
	store, c, nc := newStore(t)
	const batch = 32
	for from := range 3 {
		events := make([]eventstore.Event, batch)
		for i := range events {
			events[i] = event(fmt.Sprintf("%d-%d", from, i), fmt.Sprintf("order-%d", i), int64(from+1))
		}
		save(t, store, events...)
	}
	awaitWindow(t, nc, c, 3*batch)
	for n := uint64(1); n <= 3; n++ {
		kept, err := store.KeepVersions(deadline(t), jetstream.KeepOptions{MaxAge: soon, AtMost: 1})
		if err != nil || kept.Looked != batch || kept.More != (n < 3) || kept.More && kept.Next != 0 || nextToKeep(t, nc, c) != n*batch+1 {
			t.Errorf("batch %d: %+v, %v", n, kept, err)
		}
	}
	info, err := jetStreamOf(t, nc).Stream(deadline(t), c.EventsStream)
	if err != nil {
		t.Fatal(err)
	}
	created := info.CachedInfo().Created
	if _, err := store.KeepVersions(deadline(t), jetstream.KeepOptions{MaxAge: soon, Created: created.Truncate(time.Microsecond)}); err != nil {
		t.Error(err)
	}
	if _, err := store.KeepVersions(deadline(t), jetstream.KeepOptions{MaxAge: soon, Created: created.Add(time.Second)}); !errors.Is(err, eventstore.ErrUnavailable) {
		t.Errorf("of another stream of the name: %v", err)
	}
}

// A record that another program has written over is as good as none.
func TestVersionsRecordThatCannotBeRead(t *testing.T) {
	t.Parallel()
	store, c, nc := newStore(t)
	save(t, store, event("a", "order-1", 1))
	keep(t, nc, c, store, 1)
	publish(t, nc, c.EventsStream+".snapshots.%versions.kept", nil, "?")
	if marked := keep(t, nc, c, store, 1); marked != 0 {
		t.Errorf("%d versions are stored again", marked)
	}
}

// A full stream of snapshots takes no versions: it is said, and nothing is passed over.
func TestKeepVersionsWithoutRoom(t *testing.T) {
	t.Parallel()
	nc, c := sharedServers(t, 1).Connect(t), config()
	configs := streamConfigs(c, 1)
	configs[1].Discard, configs[1].MaxBytes = natsjs.DiscardNew, 2048
	createStreams(t, nc, configs...)
	store := open(t, nc, c)
	save(t, store, event("a", "order-1", 1), event("b", "order-2", 2))
	if err := store.SaveSnapshot(deadline(t), eventstore.Snapshot{ActorID: "order-1", Version: 1, Data: bytes.Repeat([]byte{1}, 1600)}); err != nil {
		t.Fatal(err)
	}
	awaitWindow(t, nc, c, 2)
	kept, err := store.KeepVersions(deadline(t), jetstream.KeepOptions{MaxAge: soon})
	if !errors.Is(err, eventstore.ErrStoreFull) || !strings.Contains(err.Error(), "order-2") || !strings.Contains(err.Error(), "make room in stream "+c.SnapshotsStream) {
		t.Errorf("without room: %v", err)
	}
	if kept.Behind <= 0 || nextToKeep(t, nc, c) != 0 {
		t.Errorf("without room: %+v, and the next is %d", kept, nextToKeep(t, nc, c))
	}
	configs[1].MaxBytes = 1 << 20
	if _, err := jetStreamOf(t, nc).UpdateStream(deadline(t), configs[1]); err != nil {
		t.Fatal(err)
	}
	if marked := keep(t, nc, c, store, 2); marked != 1 {
		t.Errorf("%d versions are stored, want that of order-2", marked)
	}
}

// restricted is a server where the user u may publish what admin may, but for some
// subjects.
func restricted(t *testing.T, denied ...string) *natsserver.Cluster {
	return natsserver.Run(t, 1, func(o *server.Options) {
		o.Users = []*server.User{
			{Username: "admin", Password: "p"},
			{Username: "u", Password: "p", Permissions: &server.Permissions{Publish: &server.SubjectPermission{Allow: []string{">"}, Deny: denied}}},
		}
	})
}

// A keeper that ends after it has stored versions, and before it has said so, has another
// store none again.
func TestKeeperThatDies(t *testing.T) {
	t.Parallel()
	c := config()
	cluster := restricted(t, "*.snapshots.%versions.*")
	admin := cluster.Connect(t, nats.UserInfo("admin", "p"))
	createStreams(t, admin, streamConfigs(c, 1)...)
	dies, other := open(t, cluster.Connect(t, nats.UserInfo("u", "p")), c), open(t, admin, c)
	save(t, other, event("a", "order-1", 1), event("b", "order-2", 2))
	awaitWindow(t, admin, c, 2)
	kept, err := dies.KeepVersions(deadline(t), jetstream.KeepOptions{MaxAge: soon})
	if !errors.Is(err, eventstore.ErrPermissionDenied) || kept.Marked != 2 {
		t.Errorf("it stores %d versions and ends with %v", kept.Marked, err)
	}
	if again := keep(t, admin, c, other, 2); again != 0 {
		t.Errorf("%d versions are stored again", again)
	}
}

// logged is a log that tests read.
type logged struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logged) count(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.text.String(), text)
}

// A Store that may not ask how old events become leaves it to the operator, and saves.
func TestStoreThatMayNotKeep(t *testing.T) {
	t.Parallel()
	c := config()
	cluster := restricted(t, "$JS.API.STREAM.INFO.*")
	createStreams(t, cluster.Connect(t, nats.UserInfo("admin", "p")), streamConfigs(c, 1)...)
	log := &logged{}
	nc := cluster.Connect(t, nats.UserInfo("u", "p"))
	store := open(t, nc, c, eventstore.WithLogger(slog.New(slog.NewTextHandler(log, nil))))
	if _, err := store.GetLatestVersion(deadline(t), "order-1"); err != nil {
		t.Fatal(err)
	}
	save(t, store, event("a", "order-1", 1))
	eventually(t, "it says that others keep", func() bool { return log.count("left to the operator") > 0 })
	save(t, store, event("b", "order-1", 2))
	if log.count("left to the operator") != 1 || log.count("WARN") != 0 {
		t.Errorf("it says %s", log.text.String())
	}
	// Where it is known that it may not, it does not ask.
	c.OperatorMakesConsumers = true
	told := nc.LastError()
	asked := open(t, nc, c, eventstore.WithLogger(slog.New(slog.NewTextHandler(log, nil))))
	save(t, asked, event("c", "order-1", 3))
	if err := asked.Close(); err != nil || nc.LastError() != told || log.count("\n") != 1 {
		t.Errorf("%v, the server says %v, and it says %s", err, nc.LastError(), log.text.String())
	}
}

// A Store tells once that it cannot keep, and once that it can again.
func TestStoreTellsThatItCannotKeep(t *testing.T) {
	t.Parallel()
	nc, c := sharedServers(t, 1).Connect(t), config()
	configs := streamConfigs(c, 1)
	configs[0].MaxAge, configs[0].Duplicates = 5*time.Second, 5*time.Second
	configs[1].Discard, configs[1].MaxBytes = natsjs.DiscardNew, 100
	createStreams(t, nc, configs...)
	log := &logged{}
	store := open(t, nc, c, eventstore.WithLogger(slog.New(slog.NewTextHandler(log, nil))))
	save(t, store, event("a", "order-1", 1))
	eventually(t, "it says that it cannot", func() bool { return log.count("level=WARN") > 0 })
	configs[1].MaxBytes = 1 << 20
	if _, err := jetStreamOf(t, nc).UpdateStream(deadline(t), configs[1]); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it says that it can", func() bool { return log.count("kept again") > 0 })
	if log.count("level=WARN") != 1 || log.count("make room") != 1 {
		t.Errorf("it says %s", log.text.String())
	}
}

// Each snapshot that is stored once more takes the place of an older one, and is deleted
// with the others.
func TestSnapshotsThatRememberAreDeleted(t *testing.T) {
	t.Parallel()
	nc, c := sharedServers(t, 1).Connect(t), config()
	configs := streamConfigs(c, 1)
	configs[1].MaxMsgsPerSubject = 3
	createStreams(t, nc, configs...)
	store := open(t, nc, c)
	save(t, store, event("a", "order-1", 9))
	for _, version := range []int64{7, 8} {
		saveSnapshot(t, store, "order-1", version)
	}
	save(t, store, event("b", "order-1", 10))
	keep(t, nc, c, store, 2)
	expire(t, nc, c, 1)
	if err := store.DeleteSnapshot(deadline(t), "order-1", 8); err != nil {
		t.Fatal(err)
	}
	stream, err := jetStreamOf(t, nc).Stream(deadline(t), c.SnapshotsStream)
	if err != nil {
		t.Fatal(err)
	}
	for sequence := stream.CachedInfo().State.FirstSeq; sequence <= stream.CachedInfo().State.LastSeq; sequence++ {
		m, err := stream.GetMsg(deadline(t), sequence)
		if err == nil && m.Subject == jetstream.SnapshotsSubject(c.EventsStream, "order-1") && len(m.Data) > 0 {
			t.Errorf("message %d is left of what was deleted: %s", sequence, m.Data)
		}
	}
	// One that is older than the one that was deleted can be saved, and forgets nothing.
	saveSnapshot(t, store, "order-1", 6)
	wantEnded(t, open(t, nc, c), "order-1", 10)
}

// An actor of which nothing is left is loaded at its version, where that is accepted.
func TestRepositoryOfWhatHasExpired(t *testing.T) {
	t.Parallel()
	store, c, nc := newStore(t)
	save(t, store, event("a", "order-1", 3), event("b", "order-2", 5))
	saveSnapshot(t, store, "order-2", 4)
	keep(t, nc, c, store, 2)
	expire(t, nc, c, 1)
	counter := eventstore.Repository[int]{
		Store: store, SnapshotEvery: 100, Decode: func([]byte) (int, error) { return 40, nil },
		Apply: func(n int, _ eventstore.Event) (int, error) { return n + 1, nil },
	}
	for actorID, want := range map[string]eventstore.Loaded[int]{"order-1": {Version: 3}, "order-2": {State: 40, Version: 5, SnapshotVersion: 4}} {
		counter.AcceptTruncated = false
		var truncated *eventstore.TruncatedError
		if _, err := counter.Load(deadline(t), actorID); !errors.As(err, &truncated) {
			t.Errorf("load %s: %v, want that its events have expired", actorID, err)
		}
		counter.AcceptTruncated = true
		if actor, err := counter.Load(deadline(t), actorID); err != nil || actor != want {
			t.Errorf("loaded %+v (%v), want %+v", actor, err, want)
		}
		actor, err := counter.Update(deadline(t), actorID, func(eventstore.Loaded[int]) ([]eventstore.Event, error) {
			return []eventstore.Event{{ID: "next-" + actorID, EventType: "Tested"}}, nil
		})
		if err != nil || actor.Version != want.Version+1 || actor.State != want.State+1 {
			t.Errorf("updated to %+v (%v)", actor, err)
		}
	}
}
