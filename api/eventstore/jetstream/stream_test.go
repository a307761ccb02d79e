package jetstream_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/jetstream"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv/natsserver"
)

// A stream that was deleted and made again has new sequences. One of them is that at
// which a Store thinks an actor to be, which was so in the old stream.
func TestStreamMadeAnew(t *testing.T) {
	t.Parallel()
	nc, c := sharedServers(t, 1).Connect(t), config()
	createStreams(t, nc, streamConfigs(c, 1)...)
	a, b := open(t, nc, c), open(t, nc, c)
	ctx := deadline(t)
	save := func(store *jetstream.Store, id, actorID string, version int64) {
		t.Helper()
		if saved, err := store.SaveEvent(ctx, event(id, actorID, 0)); err != nil || saved.Version != version {
			t.Fatalf("save %s: %+v, %v, want version %d", id, saved, err, version)
		}
	}
	for n := range 3 {
		save(a, fmt.Sprintf("o%d", n), "z-1", int64(n+1))
	}
	save(a, "o4", "order-1", 1)
	save(a, "o5", "order-1", 2)
	began := time.Now()
	js := jetStreamOf(t, nc)
	if err := js.DeleteStream(ctx, c.EventsStream); err != nil {
		t.Fatal(err)
	}
	createStreams(t, nc, streamConfigs(c, 1)[0])
	for n := range 5 {
		save(b, fmt.Sprintf("n%d", n), "order-1", int64(n+1))
	}
	eventually(t, "a Store looks for the stream again", func() bool { return time.Since(began) > jetstream.StreamCheck })
	save(a, "n6", "order-1", 6)
	save(b, "n7", "order-1", 7)
	save(a, "n8", "z-1", 1)
	result, err := a.GetEventsWithErrors(ctx, "order-1", 0)
	if err != nil || len(result.Events) != 7 || len(result.Errors) != 0 {
		t.Errorf("%d events and errors %v (%v), want 7", len(result.Events), result.Errors, err)
	}
}

// replaced stands between a Store and the leaders of its streams. They answer as those
// do that were cut off from their followers after the first message of each stream:
// nothing else makes them do that on demand.
type replaced struct {
	// answers is how often they still answer so.
	answers atomic.Int64
}

func newReplaced(t *testing.T) (*replaced, *jetstream.Store) {
	t.Helper()
	nc, c := sharedServers(t, 1).Connect(t), config()
	createStreams(t, nc, streamConfigs(c, 1)...)
	c.Domain = c.EventsStream
	r := &replaced{}
	prefix := "$JS." + c.Domain + ".API."
	if _, err := nc.Subscribe(prefix+">", func(m *nats.Msg) { go r.forward(t, nc, "$JS.API."+strings.TrimPrefix(m.Subject, prefix), m) }); err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	return r, open(t, nc, c)
}

func (r *replaced) forward(t *testing.T, nc *nats.Conn, subject string, m *nats.Msg) {
	data := m.Data
	if strings.Contains(subject, "STREAM.MSG.GET") && r.answers.Add(-1) >= 0 {
		then := 1
		if strings.Contains(string(data), "next_by_subj") {
			then = 1 << 40
		}
		data, _ = json.Marshal(map[string]int{"seq": then})
	}
	if err := nc.PublishMsg(&nats.Msg{Subject: subject, Reply: m.Reply, Data: data}); err != nil {
		t.Errorf("forward to %s: %v", subject, err)
	}
}

// What is less than this Store has acknowledged is asked for again.
func TestLeaderThatWasReplaced(t *testing.T) {
	t.Parallel()
	r, store := newReplaced(t)
	ctx := deadline(t)
	for version := range int64(3) {
		if _, err := store.SaveEvent(ctx, event(fmt.Sprint(version), "order-1", version+1)); err != nil {
			t.Fatal(err)
		}
		if err := store.SaveSnapshot(ctx, eventstore.Snapshot{ActorID: "order-1", Version: version + 1}); err != nil {
			t.Fatal(err)
		}
	}
	r.answers.Store(7)
	if version, err := store.GetLatestVersion(ctx, "order-1"); err != nil || version != 3 {
		t.Errorf("latest version %d (%v), want 3", version, err)
	}
	r.answers.Store(7)
	if events, err := store.GetEvents(ctx, "order-1", 0, eventstore.UpToDate()); err != nil || len(events) != 3 {
		t.Errorf("%d events (%v), want 3", len(events), err)
	}
	// The stream of snapshots holds one of an actor: the older ones are gone.
	r.answers.Store(7)
	if snapshot, err := store.GetLatestSnapshot(ctx, "order-1"); err != nil || snapshot.Version != 3 {
		t.Errorf("snapshot of version %d (%v), want 3", snapshot.Version, err)
	}
	// It is believed at last, since the end of a stream can be erased.
	r.answers.Store(1 << 40)
	if version, err := store.GetLatestVersion(ctx, "order-1"); err != nil || version != 1 {
		t.Errorf("latest version %d (%v), want 1", version, err)
	}
}

// An actor whose events have expired is no sign of anything.
func TestExpiredEventsAreBelieved(t *testing.T) {
	t.Parallel()
	store, c, nc := newStore(t)
	ctx := deadline(t)
	for _, actorID := range []string{"order-1", "order-2"} {
		if _, err := store.SaveEvent(ctx, event(actorID, actorID, 1)); err != nil {
			t.Fatal(err)
		}
	}
	if answer, err := nc.Request("$JS.API.STREAM.MSG.DELETE."+c.EventsStream, []byte(`{"seq":1}`), time.Minute); err != nil || strings.Contains(string(answer.Data), `"error"`) {
		t.Fatalf("%s, %v", answer.Data, err)
	}
	if version, err := store.GetLatestVersion(ctx, "order-1"); err != nil || version != 0 {
		t.Errorf("latest version %d (%v), want 0", version, err)
	}
}

// Nobody answers for a stream while its server restarts. That is no stream that is not
// there: a save waits for it as long as the Store waits for anything.
func TestSaveWhileTheServerRestarts(t *testing.T) {
	t.Parallel()
	cluster := natsserver.Run(t, 3)
	nc, c := cluster.Connect(t), config()
	streams := streamConfigs(c, 1)
	createStreams(t, nc, streams...)
	js := jetStreamOf(t, nc)
	ctx := deadline(t)
	holder := func() string {
		stream, err := js.Stream(ctx, c.EventsStream)
		if err != nil {
			t.Fatal(err)
		}
		return stream.CachedInfo().Cluster.Leader
	}()
	with, other := 0, 0
	for node := range cluster.Size() {
		if cluster.Node(node).Name() == holder {
			with = node
		} else {
			other = node
		}
	}
	elsewhere, err := nats.Connect(cluster.URLs()[other], nats.MaxReconnects(-1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(elsewhere.Close)
	store := open(t, elsewhere, c)
	if _, err := store.SaveEvent(ctx, event("a", "order-1", 1)); err != nil {
		t.Fatal(err)
	}
	cluster.StopNode(with)
	began, saved := time.Now(), make(chan error, 2)
	go func() { _, err := store.SaveEvent(ctx, event("b", "order-1", 2)); saved <- err }()
	go func() { _, err := store.SaveEvent(ctx, event("c", "order-2", 0)); saved <- err }()
	eventually(t, "more time passes than a stream that is not there is asked for", func() bool { return time.Since(began) > 4*time.Second })
	if err := cluster.StartNode(with); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := <-saved; err != nil {
			t.Errorf("save: %v", err)
		}
	}
}

// A stream that is not there is told of sooner.
func TestSaveWithoutAStream(t *testing.T) {
	t.Parallel()
	store := open(t, sharedServers(t, 1).Connect(t), config())
	for _, version := range []int64{0, 1} {
		_, err := store.SaveEvent(deadline(t), event("a", "order-1", version))
		if !errors.Is(err, eventstore.ErrUnavailable) || !strings.Contains(err.Error(), "stream not found") {
			t.Errorf("save: %v, want that the stream is not found", err)
		}
	}
}
