package jetstream_test

import (
	"context"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"
	"golang.org/x/sync/errgroup"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/jetstream"
	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/storetest"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv/link"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv/natsserver"
)

// servers are shared by the tests that do no harm to them: one alone, and a
// cluster of three.
type servers struct {
	once    sync.Once
	cluster *natsserver.Cluster
	err     error
}

var shared = map[int]*servers{1: {}, 3: {}}

func sharedServers(t *testing.T, size int) *natsserver.Cluster {
	t.Helper()
	s := shared[size]
	s.once.Do(func() {
		dir, err := os.MkdirTemp("", "nats-")
		if err != nil {
			s.err = err
			return
		}
		if s.cluster, s.err = natsserver.Start(dir, size); s.err == nil {
			s.err = keepStream(s.cluster)
		}
		removeLater = append(removeLater, func() {
			if s.cluster != nil {
				s.cluster.Stop()
			}
			_ = os.RemoveAll(dir)
		})
	})
	if s.err != nil {
		t.Fatal(s.err)
	}
	return s.cluster
}

// keepStream makes a stream that stays. With its last stream a server removes
// the directory of all, under the hands of a test that creates one just then.
func keepStream(cluster *natsserver.Cluster) error {
	nc, err := nats.Connect(cluster.URL())
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := natsjs.New(nc)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return natsserver.CreateStream(ctx, js, natsjs.StreamConfig{Name: "keep", Subjects: []string{"keep"}, Replicas: cluster.Size()})
}

var removeLater []func()

// TestMain fails when any test has left a goroutine behind.
func TestMain(m *testing.M) {
	code := m.Run()
	for _, remove := range removeLater {
		remove()
	}
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

var streams atomic.Int64

// config names streams that no other test has.
func config() jetstream.Config {
	name := fmt.Sprintf("shop_orders%d", streams.Add(1))
	return jetstream.Config{
		Namespace: "shop", Store: "orders", EventsStream: name, SnapshotsStream: name + "_snapshots", Timeout: time.Minute,
	}
}

// streamConfigs are the streams as the operator makes them.
func streamConfigs(c jetstream.Config, replicas int) []natsjs.StreamConfig {
	return []natsjs.StreamConfig{{
		Name: c.EventsStream, Subjects: []string{jetstream.EventsSubjects(c.EventsStream)}, Replicas: replicas,
		Discard: natsjs.DiscardNew, Duplicates: 2 * time.Minute, AllowDirect: true, AllowAtomicPublish: true,
		RePublish: &natsjs.RePublish{
			Source: c.EventsStream + ".events.>", Destination: c.EventsStream + ".stored.>", HeadersOnly: true,
		},
	}, {
		Name: c.SnapshotsStream, Subjects: []string{jetstream.SnapshotsSubjects(c.EventsStream)}, Replicas: replicas,
		Discard: natsjs.DiscardOld, MaxMsgsPerSubject: 1, AllowDirect: true,
	}}
}

func createStreams(t *testing.T, nc *nats.Conn, configs ...natsjs.StreamConfig) {
	t.Helper()
	js := jetStreamOf(t, nc)
	ctx := deadline(t)
	for _, c := range configs {
		if err := natsserver.CreateStream(ctx, js, c); err != nil {
			t.Fatalf("create stream %s: %v", c.Name, err)
		}
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		for _, c := range configs {
			// The servers of some tests are gone by now, and their data with them.
			_ = js.DeleteStream(ctx, c.Name)
		}
	})
}

// deadline is the context of one test. Three servers that were stopped one after the
// other may take a minute until the members of a durable subscription get on at their
// pace, and several on a machine that is busy.
func deadline(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func open(t *testing.T, nc *nats.Conn, c jetstream.Config, opts ...eventstore.Option) *jetstream.Store {
	t.Helper()
	store, err := jetstream.New(nc, c, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return store
}

// newStore makes streams on a server alone and opens them.
func newStore(t *testing.T, opts ...eventstore.Option) (*jetstream.Store, jetstream.Config, *nats.Conn) {
	t.Helper()
	nc := sharedServers(t, 1).Connect(t)
	c := config()
	createStreams(t, nc, streamConfigs(c, 1)...)
	return open(t, nc, c, opts...), c, nc
}

// newLink is a way to a server of its own, and connections straight to it and over that way.
func newLink(t *testing.T) (way *link.Link, direct, linked *nats.Conn) {
	t.Helper()
	cluster := natsserver.Run(t, 1)
	way = link.To(t, cluster.URL())
	linked, err := nats.Connect(way.URL(), nats.MaxReconnects(-1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(linked.Close)
	return way, cluster.Connect(t), linked
}

func jetStreamOf(t *testing.T, nc *nats.Conn) natsjs.JetStream {
	t.Helper()
	js, err := natsjs.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return js
}

// systems are what every Store test runs on.
var systems = []struct {
	name              string
	servers, replicas int
}{{"one server", 1, 1}, {"three servers, one replica", 3, 1}, {"three servers, three replicas", 3, 3}}

// onSystems runs a test on each of them.
func onSystems(t *testing.T, run func(t *testing.T, cluster *natsserver.Cluster, replicas int)) {
	t.Helper()
	for _, system := range systems {
		t.Run(system.name, func(t *testing.T) {
			t.Parallel()
			run(t, sharedServers(t, system.servers), system.replicas)
		})
	}
}

func TestStore(t *testing.T) {
	t.Parallel()
	onSystems(t, func(t *testing.T, cluster *natsserver.Cluster, replicas int) {
		storetest.Run(t, func(t *testing.T, opts ...eventstore.Option) eventstore.Store {
			return newStoreOn(t, cluster, replicas, opts...)
		})
	})
}

func TestDurableStore(t *testing.T) {
	t.Parallel()
	onSystems(t, func(t *testing.T, cluster *natsserver.Cluster, replicas int) {
		storetest.RunDurable(t, func(t *testing.T, opts ...eventstore.Option) eventstore.DurableStore {
			return newStoreOn(t, cluster, replicas, opts...)
		})
	})
}

func newStoreOn(t *testing.T, cluster *natsserver.Cluster, replicas int, opts ...eventstore.Option) *jetstream.Store {
	t.Helper()
	nc := cluster.Connect(t)
	config := config()
	createStreams(t, nc, streamConfigs(config, replicas)...)
	return open(t, nc, config, opts...)
}

// Many writers of one Store to one actor go one after another: they do not lose
// against each other, and look where the actor stands again and again.
func TestManyWritersOfOneActor(t *testing.T) {
	t.Parallel()
	onSystems(t, func(t *testing.T, cluster *natsserver.Cluster, replicas int) {
		metrics := &eventstore.Metrics{}
		store := newStoreOn(t, cluster, replicas, eventstore.WithMetrics(metrics))
		var saving errgroup.Group
		const writers, times = 64, 5
		for w := range writers {
			saving.Go(func() error {
				for n := range times {
					if _, err := store.SaveEvent(deadline(t), eventstore.Event{ID: fmt.Sprintf("%d-%d", w, n), EventType: "Tested", ActorID: "hot"}); err != nil {
						return err
					}
				}
				return nil
			})
		}
		if err := saving.Wait(); err != nil {
			t.Fatal(err)
		}
		if version, err := store.GetLatestVersion(deadline(t), "hot"); err != nil || version != writers*times {
			t.Errorf("version %d, %v", version, err)
		}
		// Once, and again only when a save has taken longer than others wait for it.
		if looked := metrics.HeadMisses.Load(); looked > writers {
			t.Errorf("the Store asked %d times where the actor stands", looked)
		}
	})
}
