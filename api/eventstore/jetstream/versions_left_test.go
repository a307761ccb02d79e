package jetstream_test

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/jetstream"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv/natsserver"
)

// contest makes keepers lose: another message is stored on a subject before each one that
// they send there.
type contest struct {
	net.Dialer
	// store stores another message on a subject that begins with the one given.
	store   func(subject string) error
	subject string
	ended   atomic.Bool
	// met is how many messages of the keeper have met another.
	met atomic.Int64
}

// contested connects a keeper to the server of another connection.
func contested(t *testing.T, nc *nats.Conn, subject string) (*contest, *nats.Conn) {
	t.Helper()
	js, life := jetStreamOf(t, nc), deadline(t)
	against := &contest{subject: subject, store: func(subject string) error {
		_, err := js.Publish(life, subject, []byte("no snapshot"))
		return err
	}}
	keeping, err := nats.Connect(nc.ConnectedUrl(), nats.SetCustomDialer(against))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(keeping.Close)
	return against, keeping
}

// Dial is the dialer of the keeper.
func (c *contest) Dial(network, address string) (net.Conn, error) {
	conn, err := c.Dialer.Dial(network, address)
	return contestedConn{conn, c}, err
}

type contestedConn struct {
	net.Conn
	contest *contest
}

func (c contestedConn) Write(b []byte) (int, error) {
	for line := range bytes.Lines(b) {
		fields := strings.Fields(string(line))
		if len(fields) < 2 || fields[0] != "HPUB" || !strings.HasPrefix(fields[1], c.contest.subject) || c.contest.ended.Load() {
			continue
		}
		c.contest.met.Add(1)
		if err := c.contest.store(fields[1]); err != nil {
			return 0, err
		}
	}
	return c.Conn.Write(b)
}

// tries is how often it is tried to store a version of an actor whose snapshots others write.
const tries = 6

// An actor whose snapshots somebody writes all the time keeps no other one waiting, and is not
// forgotten: its version is stored once that ends, also when its events have expired.
func TestActorWhoseSnapshotsAreContested(t *testing.T) {
	t.Parallel()
	for name, snapshot := range map[string]bool{"without a snapshot": false, "with one": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			writer, c, nc := newStore(t)
			save(t, writer, event("a", "order-1", 7), event("b", "order-2", 8))
			if snapshot {
				saveSnapshot(t, writer, "order-1", 7)
				save(t, writer, event("c", "order-1", 9))
			}
			last := save(t, writer, event("d", "order-3", 1))[0].Sequence
			against, keeping := contested(t, nc, jetstream.SnapshotsSubject(c.EventsStream, "order-1"))
			keeper := open(t, keeping, c)
			awaitWindow(t, nc, c, last)
			for pass, want := range []jetstream.KeptVersions{{Looked: int(last), Marked: 2}, {}} {
				against.met.Store(0)
				kept, err := keeper.KeepVersions(deadline(t), jetstream.KeepOptions{MaxAge: soon})
				if !errors.Is(err, jetstream.ErrContested) || !strings.Contains(err.Error(), `"order-1"`) || against.met.Load() != tries {
					t.Errorf("pass %d: %v after %d tries", pass, err, against.met.Load())
				}
				if kept.Looked != want.Looked || kept.Marked != want.Marked || kept.More || kept.Behind <= 0 || nextToKeep(t, nc, c) != last+1 {
					t.Errorf("pass %d: %+v", pass, kept)
				}
			}
			expire(t, nc, c, 1)
			// Who begins now knows of it too, also where nothing else is due.
			other := open(t, keeping, c)
			if kept, err := other.KeepVersions(deadline(t), jetstream.KeepOptions{MaxAge: soon}); !errors.Is(err, jetstream.ErrContested) || kept.Behind <= 0 {
				t.Errorf("another keeper: %+v, %v", kept, err)
			}
			against.ended.Store(true)
			if kept := keepOnce(t, other, soon); kept.Looked != 0 || kept.Marked != 1 {
				t.Errorf("after the contest: %+v", kept)
			}
			if kept := keepOnce(t, other, soon); kept.Marked != 0 || kept.Behind != 0 {
				t.Errorf("when all is done: %+v", kept)
			}
			reader := open(t, nc, c)
			for actorID, version := range map[string]int64{"order-1": map[bool]int64{false: 7, true: 9}[snapshot], "order-2": 8, "order-3": 1} {
				wantEnded(t, reader, actorID, version)
			}
		})
	}
}

// What is left out is tried again before it is due to look at events.
func TestLeftActorsAreTriedBeforeEventsAreDue(t *testing.T) {
	t.Parallel()
	writer, c, nc := expiring(t)
	publish(t, nc, jetstream.EventsSubject(c.EventsStream, "order-1"), eventHeader("order-1", "a", "4"), "")
	against, keeping := contested(t, nc, jetstream.SnapshotsSubject(c.EventsStream, "order-1"))
	keeper := open(t, keeping, c)
	awaitWindow(t, nc, c, 1)
	if _, err := keeper.KeepVersions(deadline(t), jetstream.KeepOptions{MaxAge: soon}); !errors.Is(err, jetstream.ErrContested) {
		t.Fatal(err)
	}
	for range 2 {
		against.met.Store(0)
		if kept, err := keeper.KeepVersions(deadline(t), jetstream.KeepOptions{}); !errors.Is(err, jetstream.ErrContested) || against.met.Load() != tries {
			t.Errorf("%+v, %v after %d tries", kept, err, against.met.Load())
		}
	}
	against.ended.Store(true)
	if kept := keepOnce(t, keeper, 0); kept.Marked != 1 {
		t.Errorf("after the contest: %+v", kept)
	}
	purge(t, nc, c, 1)
	wantLatest(t, writer, "order-1", 4)
}

// So many actors are left out at most: then nothing is looked at that could not be on record.
func TestLeftActorsAreBounded(t *testing.T) {
	t.Parallel()
	writer, c, nc := newStore(t)
	const actors, most = 40, 32
	events := make([]eventstore.Event, actors)
	for i := range events {
		events[i] = event(fmt.Sprint(i), fmt.Sprintf("order-%d", i), int64(i+1))
	}
	save(t, writer, events...)
	against, keeping := contested(t, nc, jetstream.SnapshotsSubject(c.EventsStream, "order-"))
	keeper := open(t, keeping, c)
	awaitWindow(t, nc, c, actors)
	for range 2 {
		kept, err := keeper.KeepVersions(deadline(t), jetstream.KeepOptions{MaxAge: soon})
		if !errors.Is(err, jetstream.ErrContested) || kept.Behind <= 0 || nextToKeep(t, nc, c) != most+1 {
			t.Errorf("%+v, %v, and the next is %d", kept, err, nextToKeep(t, nc, c))
		}
	}
	against.ended.Store(true)
	if kept := keepOnce(t, keeper, soon); kept.Marked != actors || kept.Looked != actors-most {
		t.Errorf("after the contest: %+v", kept)
	}
	expire(t, nc, c, 1)
	reader := open(t, nc, c)
	for i := range actors {
		wantLatest(t, reader, fmt.Sprintf("order-%d", i), int64(i+1))
	}
}

// A snapshot that leaves no room for the version is told of until it is gone, or smaller.
func TestActorWhoseSnapshotIsTooLarge(t *testing.T) {
	t.Parallel()
	store, c, nc := newStore(t)
	save(t, store, event("a", "order-1", 3), event("b", "order-2", 4))
	header := int64(len("NATS/1.0\r\nx: y\r\n\r\n"))
	publish(t, nc, jetstream.SnapshotsSubject(c.EventsStream, "order-1"), nats.Header{"x": {"y"}}, strings.Repeat("x", int(nc.MaxPayload()-header)))
	awaitWindow(t, nc, c, 2)
	for _, marked := range []int{1, 0} {
		kept, err := store.KeepVersions(deadline(t), jetstream.KeepOptions{MaxAge: soon})
		if !errors.Is(err, eventstore.ErrTooLarge) || kept.Marked != marked || nextToKeep(t, nc, c) != 3 {
			t.Errorf("%+v, %v", kept, err)
		}
	}
	saveSnapshot(t, store, "order-1", 2)
	if kept := keepOnce(t, store, soon); kept.Looked != 0 {
		t.Errorf("with a smaller one: %+v", kept)
	}
	expire(t, nc, c, 1)
	reader := open(t, nc, c)
	wantEnded(t, reader, "order-1", 3)
	wantEnded(t, reader, "order-2", 4)
}

// Whoever writes the record all the time has a pass fail that others are to wait for, and not
// go on without an end.
func TestRecordThatIsContested(t *testing.T) {
	t.Parallel()
	writer, c, nc := newStore(t)
	save(t, writer, event("a", "order-1", 1))
	against, keeping := contested(t, nc, c.EventsStream+".snapshots.%versions.kept")
	keeper := open(t, keeping, c)
	awaitWindow(t, nc, c, 1)
	const most = 9
	kept, err := keeper.KeepVersions(deadline(t), jetstream.KeepOptions{MaxAge: soon})
	if !errors.Is(err, eventstore.ErrUnavailable) || kept.Marked != 1 || against.met.Load() != most {
		t.Errorf("%+v, %v after %d tries", kept, err, against.met.Load())
	}
	against.ended.Store(true)
	if kept := keepOnce(t, keeper, soon); kept.Looked != 1 || kept.Marked != 0 {
		t.Errorf("after the contest: %+v", kept)
	}
}

// Snapshots that are stored once more take long: a pass whose time is over stores one, and
// the next one goes on.
func TestKeepLargeSnapshotsForAWhile(t *testing.T) {
	t.Parallel()
	store, c, nc := newStore(t)
	const actors = 3
	for i := range actors {
		actorID := fmt.Sprintf("order-%d", i)
		save(t, store, event("a"+actorID, actorID, 1))
		saveSnapshot(t, store, actorID, 1)
		save(t, store, event("b"+actorID, actorID, 2))
	}
	c.ReadAheadBytes = jetstream.MinReadAheadBytes
	keeper := open(t, nc, c)
	awaitWindow(t, nc, c, 2*actors)
	for n := range actors {
		kept, err := keeper.KeepVersions(deadline(t), jetstream.KeepOptions{MaxAge: soon, AtMost: 1})
		ends := n == actors-1
		if err != nil || kept.Marked != 1 || kept.More == ends || (kept.Looked > 0) != ends {
			t.Errorf("pass %d: %+v, %v", n, kept, err)
		}
	}
	expire(t, nc, c, 1)
	for i := range actors {
		wantLatest(t, open(t, nc, c), fmt.Sprintf("order-%d", i), 2)
	}
}

// Each request of a pass has the time of a request, however long the pass has, and it is known
// whether somebody has answered.
func TestKeepVersionsWithoutAnswer(t *testing.T) {
	t.Parallel()
	writer, c, nc := newStore(t)
	save(t, writer, event("a", "order-1", 1))
	awaitWindow(t, nc, c, 1)
	for on, answered := range map[string]bool{"STREAM.INFO.": false, "STREAM.MSG.GET.": true, "DIRECT.GET.": true, ".snapshots.order.order-1 ": true} {
		t.Run(on, func(t *testing.T) {
			t.Parallel()
			p := newProxy(t, nc.ConnectedUrl())
			keeping, err := nats.Connect("nats://" + p.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(keeping.Close)
			config := c
			config.Timeout = time.Second
			keeper := open(t, keeping, config)
			p.mute(on)
			ctx := deadline(t)
			kept, err := keeper.KeepVersions(ctx, jetstream.KeepOptions{MaxAge: soon})
			if !errors.Is(err, eventstore.ErrUnavailable) || ctx.Err() != nil || kept.Answered != answered {
				t.Errorf("%+v, %v", kept, err)
			}
		})
	}
}

// Where servers take messages that are larger than what a keeper has room for, each comes
// alone.
func TestKeepVersionsBesideHugeMessages(t *testing.T) {
	t.Parallel()
	cluster := natsserver.Run(t, 1, func(o *server.Options) { o.MaxPayload = 8 << 20 })
	nc, c := cluster.Connect(t), config()
	c.Heads, c.ReadAheadBytes = 1, jetstream.MinReadAheadBytes
	createStreams(t, nc, streamConfigs(c, 1)...)
	const huge = 4 << 20
	publish(t, nc, jetstream.EventsSubject(c.EventsStream, "order-1"), eventHeader("order-1", "1", "2"), "")
	publish(t, nc, jetstream.SnapshotsSubject(c.EventsStream, "order-1"), nats.Header{"x": {"y"}}, strings.Repeat("x", huge))
	publish(t, nc, jetstream.EventsSubject(c.EventsStream, "order-2"), eventHeader("order-2", "2", "2"), strings.Repeat("x", huge))
	publish(t, nc, jetstream.EventsSubject(c.EventsStream, "order-3"), eventHeader("order-3", "3", "2"), "")
	store := open(t, nc, c)
	awaitWindow(t, nc, c, 3)
	if kept := keepOnce(t, store, soon); kept.Looked != 3 || kept.Marked != 2 {
		t.Errorf("%+v", kept)
	}
	expire(t, nc, c, 1)
	for actorID, version := range map[string]int64{"order-1": 2, "order-2": 0, "order-3": 2} {
		wantLatest(t, store, actorID, version)
	}
}
