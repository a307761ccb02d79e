package jetstream_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/jetstream"
	"git.flowmade.one/flowmade-one/aether-operator/internal/natsconn"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv/natsserver"
)

var subscriptions = flag.Int("subscriptions", 200, "how many subscriptions TestServersPause has")

// Every server stands still for 10 seconds: within a minute there are as many consumers as
// subscriptions, each of which misses nothing, and saves of every store went on.
func TestServersPause(t *testing.T) {
	t.Parallel()
	servers := natsserver.RunProcesses(t, 3)
	direct := servers.Connect(t)
	followed, other := config(), config()
	streams := append(streamConfigs(followed, 3), streamConfigs(other, 3)...)
	for i := range streams {
		streams[i].MaxConsumers = 100_000
	}
	createStreams(t, direct, streams...)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	f := &followers{}
	defer f.working.Wait()
	defer cancel()
	for first := 0; first < *subscriptions; first += 50 {
		// A sidecar has some dozens on one connection.
		f.follow(ctx, t, openLively(t, servers, followed), min(50, *subscriptions-first))
	}
	count := &consumers{stream: followed.EventsStream}
	if err := count.connect(direct); err != nil {
		t.Fatal(err)
	}
	testenv.Eventually(t, time.Minute, "as many consumers as subscriptions", func() error { return count.want(ctx, *subscriptions) })
	savers := []*saver{newSaver(open(t, servers.Connect(t), followed)), newSaver(open(t, servers.Connect(t), other))}
	for _, s := range savers {
		s.working.Go(func() { s.work(ctx, t) })
		s.wantMore(t)
	}

	if err := servers.Pause(); err != nil {
		t.Fatal(err)
	}
	pause, end := context.WithTimeout(ctx, 10*time.Second)
	defer end()
	<-pause.Done()
	if err := servers.Resume(); err != nil {
		t.Fatal(err)
	}

	resumed := time.Now()
	for _, s := range savers {
		s.wantMore(t)
	}
	t.Logf("saves went on %s after the pause", time.Since(resumed).Round(time.Millisecond))
	testenv.Eventually(t, time.Minute, "every subscription to go on", func() error { return f.behind(savers[0].last.Load()) })
	t.Logf("subscriptions went on %s after the pause", time.Since(resumed).Round(time.Millisecond))
	testenv.Eventually(t, time.Minute-time.Since(resumed), "as many consumers as subscriptions", func() error { return count.want(ctx, *subscriptions) })
	t.Logf("%d subscriptions had as many consumers %s after the pause, and %d at most", *subscriptions, time.Since(resumed).Round(time.Millisecond), count.most)
	if count.most > *subscriptions*3/2 {
		t.Errorf("there were %d consumers for %d subscriptions", count.most, *subscriptions)
	}
	for _, s := range savers {
		s.wantMore(t)
		close(s.done)
		s.working.Wait()
	}
	testenv.Eventually(t, time.Minute, "every subscription to have every event", func() error { return f.behind(savers[0].last.Load()) })
}

// Subscriptions whose connection says nothing for a while make no other consumers: there would
// be as many more as are asked for meanwhile.
func TestSubscriptionsOfSilentConnection(t *testing.T) {
	t.Parallel()
	way, direct, nc := newLink(t)
	c := config()
	createStreams(t, direct, streamConfigs(c, 1)...)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	f := &followers{}
	defer f.working.Wait()
	defer cancel()
	const many = 200
	f.follow(ctx, t, open(t, nc, c), many)
	way.Silence()
	silence, end := context.WithTimeout(ctx, 8*time.Second)
	defer end()
	<-silence.Done()
	way.Resume()
	saved, err := open(t, direct, c).SaveEvent(ctx, event("1", "order-1", 1))
	if err != nil {
		t.Fatal(err)
	}
	testenv.Eventually(t, time.Minute, "every subscription to go on", func() error { return f.behind(saved.Sequence) })
	count := &consumers{stream: c.EventsStream}
	if err := count.connect(direct); err != nil {
		t.Fatal(err)
	}
	if err := count.want(ctx, many); err != nil {
		t.Errorf("%d subscriptions: %v", many, err)
	}
}

// openLively opens a store on a connection that gives up a silent server, as sidecars do.
func openLively(t *testing.T, servers *natsserver.Processes, c jetstream.Config) *jetstream.Store {
	t.Helper()
	nc := servers.Connect(t, natsconn.Lively()...)
	c.Silent = func() { _ = nc.ForceReconnect() }
	return open(t, nc, c)
}

// followers are subscriptions, each with the sequence that it has come to.
type followers struct {
	working sync.WaitGroup
	reached []*atomic.Uint64
}

func (f *followers) follow(ctx context.Context, t *testing.T, store *jetstream.Store, count int) {
	t.Helper()
	for range count {
		subscription, err := store.Subscribe(ctx, eventstore.SubscribeOptions{FromNow: true})
		if err != nil {
			t.Fatalf("after %d subscriptions: %v", len(f.reached), err)
		}
		reached := &atomic.Uint64{}
		f.reached = append(f.reached, reached)
		f.working.Go(func() {
			for {
				event, err := subscription.Next(ctx)
				if ctx.Err() != nil {
					return
				}
				if before := reached.Swap(event.Sequence); err != nil || before != 0 && event.Sequence != before+1 {
					t.Errorf("after %d came %d (%v)", before, event.Sequence, err)
					return
				}
			}
		})
	}
}

// behind says how many have not come to a sequence.
func (f *followers) behind(sequence uint64) error {
	count := 0
	for _, reached := range f.reached {
		if reached.Load() < sequence {
			count++
		}
	}
	if count > 0 {
		return fmt.Errorf("%d have not come to %d", count, sequence)
	}
	return nil
}

// consumers are those of a stream, and how many there were at most.
type consumers struct {
	stream string
	js     natsjs.JetStream
	most   int
}

func (c *consumers) connect(nc *nats.Conn) (err error) {
	c.js, err = natsjs.New(nc)
	return err
}

func (c *consumers) want(ctx context.Context, count int) error {
	stream, err := c.js.Stream(ctx, c.stream)
	if err != nil {
		return err
	}
	now := stream.CachedInfo().State.Consumers
	if c.most = max(c.most, now); now != count {
		return fmt.Errorf("there are %d", now)
	}
	return nil
}

// saver saves one event after the other.
type saver struct {
	store   *jetstream.Store
	working sync.WaitGroup
	done    chan struct{}
	saved   atomic.Int64
	last    atomic.Uint64
}

func newSaver(store *jetstream.Store) *saver { return &saver{store: store, done: make(chan struct{})} }

func (s *saver) work(ctx context.Context, t *testing.T) {
	next := time.NewTicker(200 * time.Millisecond)
	defer next.Stop()
	for version := int64(1); ; {
		select {
		case <-s.done:
			return
		case <-ctx.Done():
			return
		case <-next.C:
		}
		saved, err := s.store.SaveEvent(ctx, event(fmt.Sprint(version), "order-1", version))
		switch {
		case err == nil:
			s.last.Store(saved.Sequence)
			s.saved.Add(1)
			version++
		case ctx.Err() == nil && !errors.Is(err, eventstore.ErrUnknownOutcome):
			t.Errorf("save version %d: %v", version, err)
			return
		}
	}
}

func (s *saver) wantMore(t *testing.T) {
	t.Helper()
	before := s.saved.Load()
	eventually(t, "saves to go on", func() bool { return s.saved.Load() > before+2 })
}
