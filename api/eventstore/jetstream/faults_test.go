package jetstream_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"go.uber.org/goleak"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/jetstream"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv/natsserver"
)

func event(id, actorID string, version int64) eventstore.Event {
	return eventstore.Event{ID: id, EventType: "Tested", ActorID: actorID, Version: version, Data: fmt.Appendf(nil, "%q", id)}
}

// proxy stands between a client and a server. Once the client has sent a certain
// text, the server's answers are kept back.
type proxy struct {
	net.Listener
	server string
	muted  atomic.Bool
	mu     sync.Mutex
	muteOn string
	// heard is how often the client has sent that text. Listening, nothing is kept back.
	heard     int
	listening bool
	conns     []net.Conn
}

func newProxy(t *testing.T, url string) *proxy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{Listener: listener, server: strings.TrimPrefix(url, "nats://")}
	var serving sync.WaitGroup
	serving.Go(func() { p.serve(&serving) })
	t.Cleanup(func() {
		_ = listener.Close()
		p.cut()
		serving.Wait()
	})
	return p
}

func (p *proxy) serve(serving *sync.WaitGroup) {
	for {
		client, err := p.Accept()
		if err != nil {
			return
		}
		upstream, err := net.Dial("tcp", p.server)
		if err != nil {
			_ = client.Close()
			continue
		}
		p.mu.Lock()
		p.conns = append(p.conns, client, upstream)
		p.mu.Unlock()
		serving.Go(func() {
			_, _ = io.Copy(writer(func(b []byte) (int, error) { p.listen(b); return upstream.Write(b) }), client)
			_ = upstream.Close()
		})
		serving.Go(func() {
			_, _ = io.Copy(writer(func(b []byte) (int, error) { return p.answer(client, b) }), upstream)
			_ = client.Close()
		})
	}
}

type writer func([]byte) (int, error)

func (w writer) Write(b []byte) (int, error) { return w(b) }

func (p *proxy) listen(b []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if n := bytes.Count(b, []byte(p.muteOn)); p.muteOn != "" && n > 0 {
		p.heard += n
		p.muted.Store(!p.listening)
	}
}

func (p *proxy) answer(client net.Conn, b []byte) (int, error) {
	if p.muted.Load() {
		return len(b), nil
	}
	return client.Write(b)
}

// mute keeps all answers back once the client has sent the text.
func (p *proxy) mute(on string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.muteOn, p.heard, p.listening = on, 0, false
}

// listenFor counts how often the client sends the text, and keeps nothing back.
func (p *proxy) listenFor(text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.muteOn, p.heard, p.listening = text, 0, true
}

// hears says how often the client has sent what answers are kept back for.
func (p *proxy) hears() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.heard
}

// cut ends all connections; those made later are not muted.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.muteOn = ""
	p.muted.Store(false)
	for _, conn := range p.conns {
		_ = conn.Close()
	}
	p.conns = nil
}

// proxied is a store whose answers can be kept back, and one on the same
// streams whose cannot.
func proxied(t *testing.T, opts ...eventstore.Option) (far, near *jetstream.Store, p *proxy, c jetstream.Config) {
	t.Helper()
	near, c, _ = newStore(t)
	p = newProxy(t, sharedServers(t, 1).URL())
	nc, err := nats.Connect("nats://"+p.Addr().String(), nats.MaxReconnects(-1), nats.ReconnectWait(10*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return open(t, nc, c, opts...), near, p, c
}

// A connection that is lost is made again in less than a second: a call of that
// moment, of which nothing was sent, waits for it.
func TestCallWhileConnecting(t *testing.T) {
	t.Parallel()
	_, c, _ := newStore(t)
	p := newProxy(t, sharedServers(t, 1).URL())
	lost := make(chan struct{}, 1)
	nc, err := nats.Connect("nats://"+p.Addr().String(), nats.MaxReconnects(-1), nats.ReconnectWait(200*time.Millisecond), nats.ReconnectBufSize(-1),
		nats.DisconnectErrHandler(func(*nats.Conn, error) { lost <- struct{}{} }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	store := open(t, nc, c)
	for n := range 3 {
		p.cut()
		<-lost
		if _, err := store.SaveEvent(deadline(t), eventstore.Event{ID: fmt.Sprint(n), EventType: "T", ActorID: "order-1"}); err != nil {
			t.Fatalf("save: %v", err)
		}
		if version, err := store.GetLatestVersion(deadline(t), "order-1"); err != nil || version != int64(n+1) {
			t.Errorf("latest version %d, %v, want %d", version, err, n+1)
		}
	}
}

// eventually polls until done says so.
func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	for ctx := deadline(t); !done(); {
		select {
		case <-ctx.Done():
			t.Errorf("%s: not in time", what)
			return
		case <-ticker.C:
		}
	}
}

// The event is stored and the answer lost: the store finds out, and says it was
// stored now, once.
func TestLostAnswerIsFoundOut(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		events []eventstore.Event
		opts   []eventstore.SaveOption
	}{
		"with a version":           {events: []eventstore.Event{event("a", "order-1", 2)}},
		"without a version":        {events: []eventstore.Event{event("a", "order-1", 0)}},
		"against what is expected": {events: []eventstore.Event{event("a", "order-1", 0)}, opts: []eventstore.SaveOption{eventstore.Expect("order-1", 1)}},
		"a batch":                  {events: []eventstore.Event{event("a", "order-1", 2), event("b", "order-1", 3), event("c", "order-2", 1)}},
		"a batch without versions": {events: []eventstore.Event{event("a", "order-1", 0), event("b", "order-2", 0)}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			metrics := &eventstore.Metrics{}
			far, near, p, config := proxied(t, eventstore.WithMetrics(metrics))
			ctx := deadline(t)
			if _, err := near.SaveEvent(ctx, event("before", "order-1", 1)); err != nil {
				t.Fatal(err)
			}
			p.muteSave(config, c.events)
			var watch sync.WaitGroup
			watch.Go(func() { defer p.cut(); waitStored(t, near, c.events) })
			saved, err := far.SaveEvents(ctx, c.events, c.opts...)
			watch.Wait()
			if err != nil {
				t.Fatalf("save: %v", err)
			}
			for i, one := range saved {
				if one.ID != c.events[i].ID || one.Sequence != uint64(i+2) || one.Duplicate {
					t.Errorf("event %d is saved as %+v", i, one)
				}
			}
			if n := metrics.EventsSaved.Load(); n != int64(len(c.events)) {
				t.Errorf("%d events are counted as saved, want %d", n, len(c.events))
			}
		})
	}
}

func (p *proxy) muteSave(c jetstream.Config, events []eventstore.Event) {
	if len(events) > 1 {
		p.mute("Nats-Batch-Commit")
		return
	}
	p.mute("HPUB " + jetstream.EventsSubject(c.EventsStream, events[0].ActorID))
}

func waitStored(t *testing.T, store *jetstream.Store, events []eventstore.Event) {
	t.Helper()
	last := events[len(events)-1]
	eventually(t, "events are stored", func() bool {
		stored, err := store.GetEvents(deadline(t), last.ActorID, 0)
		return err == nil && slices.ContainsFunc(stored, func(e eventstore.Event) bool { return e.ID == last.ID })
	})
}

// The event is stored, and no answer comes at all: nobody may guess.
func TestUnknownOutcome(t *testing.T) {
	t.Parallel()
	far, near, p, c := proxied(t)
	events := []eventstore.Event{event("a", "order-1", 0)}
	p.muteSave(c, events)
	ctx, cancel := context.WithTimeout(deadline(t), time.Second)
	defer cancel()
	_, err := far.SaveEvent(ctx, events[0])
	if !errors.Is(err, eventstore.ErrUnknownOutcome) || !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, eventstore.ErrUnavailable) {
		t.Errorf("save without an answer: %v, want an unknown outcome and the context's error", err)
	}
	waitStored(t, near, events)
	p.cut()
	saved, err := far.SaveEvent(deadline(t), events[0])
	if want := (eventstore.Saved{ID: "a", ActorID: "order-1", Version: 1, Sequence: 1, Duplicate: true}); err != nil || saved != want {
		t.Errorf("saved again as %+v (%v), want %+v", saved, err, want)
	}
}

// What is not answered but never sent to the stream either is no unknown
// outcome.
func TestReadsWithoutAnswer(t *testing.T) {
	t.Parallel()
	far, _, p, _ := proxied(t)
	p.mute("$JS.API.")
	for name, call := range map[string]func(context.Context) error{
		"save":     func(ctx context.Context) error { _, err := far.SaveEvent(ctx, event("a", "order-1", 0)); return err },
		"get":      func(ctx context.Context) error { _, err := far.GetEvents(ctx, "order-1", 0); return err },
		"latest":   func(ctx context.Context) error { _, err := far.GetLatestVersion(ctx, "order-1"); return err },
		"snapshot": func(ctx context.Context) error { _, err := far.GetLatestSnapshot(ctx, "order-1"); return err },
		"check":    func(ctx context.Context) error { return far.Check(ctx) },
		"subscribe": func(ctx context.Context) error {
			_, err := far.Subscribe(ctx, eventstore.SubscribeOptions{FromNow: true})
			return err
		},
	} {
		ctx, cancel := context.WithTimeout(deadline(t), 100*time.Millisecond)
		if err := call(ctx); !errors.Is(err, eventstore.ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, eventstore.ErrUnknownOutcome) {
			t.Errorf("%s without an answer: %v, want unavailable and the context's error", name, err)
		}
		cancel()
	}
}

// An event that left the duplicate window is recognised by its version.
func TestSavedAgainAfterDuplicateWindow(t *testing.T) {
	t.Parallel()
	store, c, nc := newStore(t)
	// Without Nats-Msg-Id the window does not know them.
	for version := 1; version <= 5; version++ {
		header := eventHeader("order-1", fmt.Sprint("e", version), fmt.Sprint(version))
		publish(t, nc, jetstream.EventsSubject(c.EventsStream, "order-1"), header, fmt.Sprintf("%q", fmt.Sprint("e", version)))
	}
	ctx := deadline(t)
	for version := int64(1); version <= 5; version++ {
		saved, err := store.SaveEvent(ctx, event(fmt.Sprint("e", version), "order-1", version))
		if err != nil || !saved.Duplicate || saved.Version != version || saved.Sequence != uint64(version) {
			t.Errorf("version %d again: %+v (%v)", version, saved, err)
		}
	}
	batch := []eventstore.Event{event("e2", "order-1", 2), event("e4", "order-1", 4), event("e6", "order-1", 6)}
	saved, err := store.SaveEvents(ctx, batch)
	if err != nil || !saved[0].Duplicate || !saved[1].Duplicate || saved[2].Duplicate || saved[2].Sequence != 6 {
		t.Errorf("partly stored batch: %+v (%v)", saved, err)
	}
	changed := event("e3", "order-1", 3)
	changed.Data = nil
	var duplicate *eventstore.DuplicateEventError
	if _, err := store.SaveEvent(ctx, changed); !errors.As(err, &duplicate) || duplicate.Sequence != 3 {
		t.Errorf("changed content: %v, want a duplicate of sequence 3", err)
	}
}

// Without a version an event is recognised among the newest 64 of its actor,
// whatever the server has forgotten, by a Store that has just been opened and by
// one that has not seen what others saved meanwhile.
func TestSavedAgainWithoutVersion(t *testing.T) {
	t.Parallel()
	for _, servers := range []int{1, 3} {
		t.Run(fmt.Sprint(servers, " servers"), func(t *testing.T) {
			t.Parallel()
			nc := sharedServers(t, servers).Connect(t)
			c := config()
			createStreams(t, nc, streamConfigs(c, servers)...)
			// Without Nats-Msg-Id the window does not know them.
			for version := 1; version <= 70; version++ {
				header := eventHeader("order-1", fmt.Sprint("e", version), fmt.Sprint(version))
				publish(t, nc, jetstream.EventsSubject(c.EventsStream, "order-1"), header, fmt.Sprintf("%q", fmt.Sprint("e", version)))
			}
			ctx := deadline(t)
			first, second := open(t, nc, c), open(t, nc, c)
			save := func(store *jetstream.Store, id string, version int64, duplicate bool) {
				t.Helper()
				saved, err := store.SaveEvent(ctx, event(id, "order-1", 0))
				if err != nil || saved.Version != version || saved.Duplicate != duplicate {
					t.Errorf("%s again: %+v (%v), want version %d, duplicate %t", id, saved, err, version, duplicate)
				}
			}
			// Replicas may not have all of it yet.
			eventually(t, "the last event is read", func() bool {
				events, err := first.GetEvents(ctx, "order-1", 69)
				return err == nil && len(events) == 1
			})
			save(first, "e70", 70, true)
			save(first, "e7", 7, true)
			save(first, "new", 71, false)
			save(second, "e9", 9, true)
			save(second, "new", 71, true)
			save(second, "newer", 72, false)
			// The first does not know of it, and the server forgets it here.
			header := eventHeader("order-1", "foreign", "73")
			publish(t, nc, jetstream.EventsSubject(c.EventsStream, "order-1"), header, `"foreign"`)
			save(first, "foreign", 73, true)
			saved, err := first.SaveEvents(ctx, []eventstore.Event{event("e20", "order-1", 0), event("newest", "order-1", 0)})
			if err != nil || !saved[0].Duplicate || saved[0].Version != 20 || saved[1].Duplicate || saved[1].Version != 74 {
				t.Errorf("partly stored batch: %+v (%v)", saved, err)
			}
			changed := event("e30", "order-1", 0)
			changed.Data = nil
			var duplicate *eventstore.DuplicateEventError
			if _, err := second.SaveEvent(ctx, changed); !errors.As(err, &duplicate) || duplicate.Sequence != 30 {
				t.Errorf("changed content: %v, want a duplicate of sequence 30", err)
			}
			if events, err := second.GetEvents(ctx, "order-1", 0, eventstore.UpToDate()); err != nil || len(events) != 74 {
				t.Errorf("%d events (%v), want 74", len(events), err)
			}
		})
	}
}

// Two stores on two connections are two processes: neither knows of the other.
func TestStoresRace(t *testing.T) {
	t.Parallel()
	cluster := sharedServers(t, 3)
	c := config()
	createStreams(t, cluster.Connect(t), streamConfigs(c, 3)...)
	ctx := deadline(t)
	var mu sync.Mutex
	winners := map[int64][]string{}
	var racing sync.WaitGroup
	for i := range 4 {
		store := open(t, cluster.Connect(t), c)
		racing.Go(func() {
			for version := int64(1); version <= 20; version++ {
				id := fmt.Sprintf("%d-%d", i, version)
				_, err := store.SaveEvent(ctx, event(id, "order-1", version))
				var conflict *eventstore.VersionConflictError
				if err != nil && !errors.As(err, &conflict) {
					t.Errorf("save: %v", err)
				}
				if err == nil {
					mu.Lock()
					winners[version] = append(winners[version], id)
					mu.Unlock()
				}
			}
		})
	}
	racing.Wait()
	events, err := open(t, cluster.Connect(t), c).GetEvents(ctx, "order-1", 0)
	if err != nil || len(events) != 20 {
		t.Errorf("%d events are stored (%v), want 20", len(events), err)
	}
	for _, event := range events {
		if w := winners[event.Version]; len(w) != 1 || w[0] != event.ID {
			t.Errorf("version %d is event %s, acknowledged were %v", event.Version, event.ID, w)
		}
	}
}

// A server that stops, one after the other, loses nothing that was acknowledged,
// and a subscription goes on.
func TestNodesStop(t *testing.T) {
	t.Parallel()
	cluster := natsserver.Run(t, 3)
	c := config()
	c.Timeout = 0
	createStreams(t, cluster.Connect(t), streamConfigs(c, 3)...)
	ctx := deadline(t)
	follower, err := open(t, cluster.Connect(t), c).Subscribe(ctx, eventstore.SubscribeOptions{})
	if err != nil {
		t.Fatal(err)
	}
	w := &writers{acknowledged: map[string]eventstore.Saved{}, done: make(chan struct{})}
	for i := range 2 {
		store := open(t, cluster.Connect(t), c)
		w.group.Go(func() { w.write(ctx, t, store, i) })
	}
	group := newMembers()
	for range 2 {
		member, err := open(t, cluster.Connect(t), c).SubscribeDurable(ctx, eventstore.DurableOptions{Name: "projection", AckWait: 2 * time.Second, MaxDeliveries: 1000})
		if err != nil {
			t.Fatal(err)
		}
		group.working.Go(func() { group.work(ctx, t, member) })
	}
	for node := range cluster.Size() {
		w.waitMore(t, 20)
		cluster.StopNode(node)
		w.waitMore(t, 20)
		if err := cluster.StartNode(node); err != nil {
			t.Fatal(err)
		}
		if err := cluster.WaitCurrent(ctx); err != nil {
			t.Fatal(err)
		}
	}
	close(w.done)
	w.group.Wait()
	want := w.count()
	eventually(t, "the members have every event", func() bool { return group.count() >= want })
	group.cancel()
	group.working.Wait()

	w.wantStored(ctx, t, open(t, cluster.Connect(t), c), follower)
}

// wantStored wants all that was acknowledged to be there as it was, and a
// subscription to see the same.
func (w *writers) wantStored(ctx context.Context, t *testing.T, store *jetstream.Store, follower eventstore.Subscription) {
	t.Helper()
	var last uint64
	count := 0
	for actor := range 2 {
		events, err := store.GetEvents(ctx, fmt.Sprintf("order-%d", actor), 0)
		if err != nil {
			t.Fatal(err)
		}
		count += len(events)
		for i, e := range events {
			if e.Version != int64(i+1) {
				t.Fatalf("version %d of %q comes after %d", e.Version, e.ActorID, i)
			}
			if saved := w.acknowledged[e.ID]; saved.Version != 0 && (saved.Version != e.Version || saved.Sequence != e.Sequence) {
				t.Errorf("acknowledged as %+v, stored as version %d at %d", saved, e.Version, e.Sequence)
			}
			delete(w.acknowledged, e.ID)
			last = max(last, e.Sequence)
		}
	}
	if len(w.acknowledged) != 0 {
		t.Errorf("%d acknowledged events are lost: %v", len(w.acknowledged), w.acknowledged)
	}
	for previous := uint64(0); previous < last; count-- {
		e, err := follower.Next(ctx)
		if err != nil {
			t.Fatalf("next after %d of %d: %v", previous, last, err)
		}
		if e.Sequence <= previous {
			t.Fatalf("sequence %d follows on %d", e.Sequence, previous)
		}
		previous = e.Sequence
	}
	if count != 0 {
		t.Errorf("the subscription missed %d events", count)
	}
}

// members of a durable subscription see each event after the one before it of
// its actor; one again where an acknowledgement was lost.
type members struct {
	working sync.WaitGroup
	stop    context.Context
	cancel  context.CancelFunc
	mu      sync.Mutex
	latest  map[string]int64
}

func newMembers() *members {
	stop, cancel := context.WithCancel(context.Background())
	return &members{stop: stop, cancel: cancel, latest: map[string]int64{}}
}

func (m *members) work(ctx context.Context, t *testing.T, member eventstore.DurableSubscription) {
	for {
		delivery, err := member.Next(m.stop)
		if err != nil {
			if m.stop.Err() == nil {
				t.Errorf("next: %v", err)
			}
			return
		}
		m.mu.Lock()
		if e := delivery.Event; e.Version > m.latest[e.ActorID]+1 {
			t.Errorf("version %d of %q comes after %d", e.Version, e.ActorID, m.latest[e.ActorID])
		} else {
			m.latest[e.ActorID] = max(m.latest[e.ActorID], e.Version)
		}
		m.mu.Unlock()
		// One that comes again meanwhile is in the hand of somebody else by now.
		if err := member.Ack(ctx, delivery.Event.Sequence); err != nil && !errors.Is(err, eventstore.ErrNotInHand) {
			t.Errorf("ack: %v", err)
			return
		}
	}
}

func (m *members) count() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	total := 0
	for _, latest := range m.latest {
		total += int(latest)
	}
	return total
}

// writers save, each to its own actor, until done.
type writers struct {
	group        sync.WaitGroup
	done         chan struct{}
	mu           sync.Mutex
	acknowledged map[string]eventstore.Saved
}

func (w *writers) write(ctx context.Context, t *testing.T, store *jetstream.Store, writer int) {
	for n := 0; ; n++ {
		select {
		case <-w.done:
			return
		default:
		}
		e := event(fmt.Sprintf("%d-%d", writer, n), fmt.Sprintf("order-%d", writer), 0)
		for {
			saved, err := store.SaveEvent(ctx, e)
			if err == nil {
				w.mu.Lock()
				w.acknowledged[e.ID] = saved
				w.mu.Unlock()
				break
			}
			// As an application does: the same event again.
			if ctx.Err() != nil || !errors.Is(err, eventstore.ErrUnavailable) && !errors.Is(err, eventstore.ErrUnknownOutcome) {
				t.Errorf("save: %v", err)
				return
			}
		}
	}
}

func (w *writers) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.acknowledged)
}

func (w *writers) waitMore(t *testing.T, n int) {
	t.Helper()
	want := w.count() + n
	eventually(t, "writers go on", func() bool { return w.count() >= want })
}

// Its members are told when a durable subscription goes with its stream.
func TestDurableWhoseStreamIsDeleted(t *testing.T) {
	t.Parallel()
	store, c, nc := newStore(t)
	js := jetStreamOf(t, nc)
	ctx := deadline(t)
	member, err := store.SubscribeDurable(ctx, eventstore.DurableOptions{Name: "projection"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := store.SaveEvent(ctx, event("a", "order-1", 1)); err != nil {
		t.Fatal(err)
	}
	if _, err := member.Next(ctx); err != nil {
		t.Fatal(err)
	}
	if err := js.DeleteStream(ctx, c.EventsStream); err != nil {
		t.Fatal(err)
	}
	if _, err := member.Next(ctx); !errors.Is(err, eventstore.ErrNoDurable) {
		t.Errorf("next: %v, want %v", err, eventstore.ErrNoDurable)
	}
}

// The server removes a consumer, as it does when the node that has it is lost.
func TestSubscriptionWhoseConsumerIsDeleted(t *testing.T) {
	t.Parallel()
	store, c, nc := newStore(t)
	js := jetStreamOf(t, nc)
	ctx := deadline(t)
	subscription, err := store.Subscribe(ctx, eventstore.SubscribeOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for version := int64(1); version <= 5; version++ {
		saved, err := store.SaveEvent(ctx, event(fmt.Sprint(version), "order-1", version))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := subscription.Next(ctx); err != nil || got.Sequence != saved.Sequence {
			t.Fatalf("next is %+v (%v), want sequence %d", got, err, saved.Sequence)
		}
		stream, err := js.Stream(ctx, c.EventsStream)
		if err != nil {
			t.Fatal(err)
		}
		for name := range stream.ConsumerNames(ctx).Name() {
			if err := stream.DeleteConsumer(ctx, name); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestPermissionDenied(t *testing.T) {
	t.Parallel()
	allow := func(subjects ...string) *server.Permissions {
		return &server.Permissions{Publish: &server.SubjectPermission{Allow: subjects}}
	}
	c := config()
	reads := []string{"$JS.API.DIRECT.GET." + c.EventsStream, "$JS.API.DIRECT.GET." + c.SnapshotsStream, "$JS.API.STREAM.MSG.GET.*"}
	cluster := natsserver.Run(t, 1, func(o *server.Options) {
		o.Users = []*server.User{
			{Username: "admin", Password: "p"},
			{Username: "reader", Password: "p", Permissions: allow(reads...)},
			{Username: "one-type", Password: "p", Permissions: allow(append(reads, c.EventsStream+".events.order.>")...)},
			{Username: "nothing", Password: "p", Permissions: allow("none")},
		}
	})
	as := func(user string) *jetstream.Store { return open(t, cluster.Connect(t, nats.UserInfo(user, "p")), c) }
	createStreams(t, cluster.Connect(t, nats.UserInfo("admin", "p")), streamConfigs(c, 1)...)
	ctx := deadline(t)
	reader, oneType, nothing := as("reader"), as("one-type"), as("nothing")
	if _, err := oneType.SaveEvent(ctx, event("a", "order-1", 1)); err != nil {
		t.Errorf("save what is allowed: %v", err)
	}
	if events, err := reader.GetEvents(ctx, "order-1", 0); err != nil || len(events) != 1 {
		t.Errorf("read what is allowed: %d events, %v", len(events), err)
	}
	for name, call := range map[string]func() error{
		"save":      func() error { _, err := reader.SaveEvent(ctx, event("b", "order-1", 2)); return err },
		"save type": func() error { _, err := oneType.SaveEvent(ctx, event("b", "item-1\\\"", 2)); return err },
		"batch": func() error {
			_, err := oneType.SaveEvents(ctx, []eventstore.Event{event("b", "order-1", 2), event("c", "item-1", 1), event("d", "order-1", 3)})
			return err
		},
		"batch begin": func() error {
			_, err := oneType.SaveEvents(ctx, []eventstore.Event{event("c", "item-1", 1), event("d", "order-1", 3)})
			return err
		},
		"batch commit": func() error {
			_, err := oneType.SaveEvents(ctx, []eventstore.Event{event("d", "order-1", 3), event("c", "item-1", 1)})
			return err
		},
		"get":       func() error { _, err := nothing.GetEvents(ctx, "order-1", 0); return err },
		"latest":    func() error { _, err := nothing.GetLatestVersion(ctx, "order-1"); return err },
		"snapshot":  func() error { return reader.SaveSnapshot(ctx, eventstore.Snapshot{ActorID: "order-1", Version: 1}) },
		"subscribe": func() error { _, err := reader.Subscribe(ctx, eventstore.SubscribeOptions{}); return err },
		"check":     func() error { return nothing.Check(ctx) },
	} {
		if err := call(); !errors.Is(err, eventstore.ErrPermissionDenied) || errors.Is(err, eventstore.ErrUnknownOutcome) {
			t.Errorf("%s: %v, want permission denied", name, err)
		}
	}
	if version, err := reader.GetLatestVersion(ctx, "order-1"); err != nil || version != 1 {
		t.Errorf("latest version is %d (%v), want 1", version, err)
	}
}

func TestStoreFull(t *testing.T) {
	t.Parallel()
	nc := sharedServers(t, 1).Connect(t)
	c := config()
	configs := streamConfigs(c, 1)
	configs[0].MaxBytes = 4096
	createStreams(t, nc, configs...)
	store := open(t, nc, c)
	ctx := deadline(t)
	var kept int
	var err error
	for err == nil {
		if _, err = store.SaveEvent(ctx, event(fmt.Sprint(kept), "order-1", 0)); err == nil {
			kept++
		}
	}
	if !errors.Is(err, eventstore.ErrStoreFull) {
		t.Errorf("save into a full store: %v", err)
	}
	if _, err := store.SaveEvents(ctx, []eventstore.Event{event("x", "order-1", 0), event("y", "order-2", 0)}); !errors.Is(err, eventstore.ErrStoreFull) {
		t.Errorf("save a batch into a full store: %v", err)
	}
	if events, err := store.GetEvents(ctx, "order-1", 0); err != nil || len(events) != kept || kept == 0 {
		t.Errorf("%d events are stored (%v), want %d", len(events), err, kept)
	}
}

// The server takes smaller messages than the library: nothing is stored, and the
// connection survives.
func TestServerTakesSmallerMessages(t *testing.T) {
	t.Parallel()
	nc := sharedServers(t, 1).Connect(t)
	c := config()
	configs := streamConfigs(c, 1)
	configs[0].MaxMsgSize = 2048
	createStreams(t, nc, configs...)
	store := open(t, nc, c)
	ctx := deadline(t)
	large := event("a", "order-1", 1)
	large.ContentType, large.Data = "text/plain", make([]byte, 4096)
	if _, err := store.SaveEvent(ctx, large); !errors.Is(err, eventstore.ErrTooLarge) {
		t.Errorf("save: %v, want too large", err)
	}
	if _, err := store.SaveEvents(ctx, []eventstore.Event{event("b", "order-2", 1), large}); !errors.Is(err, eventstore.ErrTooLarge) {
		t.Errorf("save a batch: %v, want too large", err)
	}
	if _, err := store.SaveEvents(ctx, []eventstore.Event{event("b", "order-1", 1), event("c", "order-2", 1)}); err != nil {
		t.Errorf("save what is small: %v", err)
	}
}

// The subject of the store belongs to another stream: nothing may go there.
func TestWrongStream(t *testing.T) {
	t.Parallel()
	nc := sharedServers(t, 1).Connect(t)
	c, other := config(), config()
	configs := append(streamConfigs(c, 1), streamConfigs(other, 1)[0])
	configs[0].Subjects, configs[0].RePublish = []string{c.EventsStream + ".else"}, nil
	configs[2].Subjects, configs[2].RePublish = []string{jetstream.EventsSubjects(c.EventsStream)}, nil
	createStreams(t, nc, configs...)
	store := open(t, nc, c)
	ctx := deadline(t)
	for _, events := range [][]eventstore.Event{{event("a", "order-1", 1)}, {event("a", "order-1", 1), event("b", "order-2", 1)}} {
		if _, err := store.SaveEvents(ctx, events); !errors.Is(err, eventstore.ErrUnavailable) || !strings.Contains(err.Error(), "expected stream does not match") {
			t.Errorf("save into another stream: %v", err)
		}
	}
	js := jetStreamOf(t, nc)
	if stream, err := js.Stream(ctx, other.EventsStream); err != nil || stream.CachedInfo().State.Msgs != 0 {
		t.Errorf("the other stream holds messages (%v)", err)
	}
}

func TestNoStreams(t *testing.T) {
	t.Parallel()
	store := open(t, sharedServers(t, 1).Connect(t), config())
	for name, call := range map[string]func(context.Context) error{
		"save": func(ctx context.Context) error { _, err := store.SaveEvent(ctx, event("a", "order-1", 1)); return err },
		"get":  func(ctx context.Context) error { _, err := store.GetEvents(ctx, "order-1", 0); return err },
		"subscribe": func(ctx context.Context) error {
			_, err := store.Subscribe(ctx, eventstore.SubscribeOptions{})
			return err
		},
		"check": store.Check,
		"snapshot": func(ctx context.Context) error {
			return store.SaveSnapshot(ctx, eventstore.Snapshot{ActorID: "order-1", Version: 1})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			// Long before the context ends: waiting does not help.
			if err := call(deadline(t)); !errors.Is(err, eventstore.ErrUnavailable) || errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("without streams: %v, want unavailable", err)
			}
		})
	}
}

func TestCheckAndDomain(t *testing.T) {
	t.Parallel()
	cluster := natsserver.Run(t, 1, func(o *server.Options) { o.JetStreamDomain = "hub" })
	nc := cluster.Connect(t)
	c := config()
	createStreams(t, nc, streamConfigs(c, 1)...)
	c.Domain = "hub"
	store := open(t, nc, c)
	ctx := deadline(t)
	if err := store.Check(ctx); err != nil {
		t.Errorf("check: %v", err)
	}
	subscription, err := store.Subscribe(ctx, eventstore.SubscribeOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := store.SaveEvent(ctx, event("a", "order-1", 1)); err != nil {
		t.Errorf("save: %v", err)
	}
	if events, err := store.GetEvents(ctx, "order-1", 0); err != nil || len(events) != 1 {
		t.Errorf("get: %d events, %v", len(events), err)
	}
	if e, err := subscription.Next(ctx); err != nil || e.ID != "a" {
		t.Errorf("next: %+v, %v", e, err)
	}
	c.Domain, c.Timeout = "elsewhere", 100*time.Millisecond
	if err := open(t, nc, c).Check(t.Context()); !errors.Is(err, eventstore.ErrUnavailable) {
		t.Errorf("check in a domain that is not there: %v", err)
	}
}

// fakeJetStream answers for a domain that no server has: nothing else cuts an
// answer short on demand.
func fakeJetStream(t *testing.T, nc *nats.Conn, c jetstream.Config, pages func(n int, request map[string]any) []*nats.Msg) {
	t.Helper()
	message := map[string]any{"subject": jetstream.EventsSubject(c.EventsStream, "order-1"), "seq": 3}
	last, err := json.Marshal(map[string]any{"message": message})
	if err != nil {
		t.Fatal(err)
	}
	subscribe := func(subject string, answer nats.MsgHandler) {
		if _, err := nc.Subscribe(subject, answer); err != nil {
			t.Fatal(err)
		}
	}
	subscribe("$JS."+c.Domain+".API.STREAM.MSG.GET."+c.EventsStream, func(m *nats.Msg) { _ = m.Respond(last) })
	n := 0
	subscribe("$JS."+c.Domain+".API.DIRECT.GET."+c.EventsStream, func(m *nats.Msg) {
		var request map[string]any
		_ = json.Unmarshal(m.Data, &request)
		if request["last_by_subj"] != nil {
			_ = m.RespondMsg(pageOf(c, 3)[0])
			return
		}
		n++
		for _, answer := range pages(n, request) {
			_ = m.RespondMsg(answer)
		}
	})
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
}

func pageOf(c jetstream.Config, sequences ...int) []*nats.Msg {
	var page []*nats.Msg
	before := 0
	for _, sequence := range sequences {
		header := eventHeader("order-1", fmt.Sprint("e", sequence), fmt.Sprint(sequence))
		header.Set("Nats-Sequence", fmt.Sprint(sequence))
		header.Set("Nats-Subject", jetstream.EventsSubject(c.EventsStream, "order-1"))
		header.Set("Nats-Last-Sequence", fmt.Sprint(before))
		page = append(page, &nats.Msg{Header: header, Data: []byte("{}")})
		before = sequence
	}
	return append(page, &nats.Msg{Header: nats.Header{"Status": {"204"}, "Nats-Num-Pending": {"0"}, "Nats-Last-Sequence": {fmt.Sprint(before)}}})
}

// An answer that lacks its end, or something in between, is no answer; a replica
// that is behind is asked again.
func TestIncompletePages(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		pages func(jetstream.Config, int) []*nats.Msg
		want  []int64
	}{
		"no end":         {pages: func(c jetstream.Config, _ int) []*nats.Msg { return pageOf(c, 1, 2, 3)[:3] }},
		"no middle":      {pages: func(c jetstream.Config, _ int) []*nats.Msg { return slices.Delete(pageOf(c, 1, 2, 3), 1, 2) }},
		"no last":        {pages: func(c jetstream.Config, _ int) []*nats.Msg { return slices.Delete(pageOf(c, 1, 2, 3), 2, 3) }},
		"behind forever": {pages: func(c jetstream.Config, n int) []*nats.Msg { return pageOf(c, []int{1, 2}[min(n-1, 2):]...) }},
		"refused":        {pages: func(jetstream.Config, int) []*nats.Msg { return []*nats.Msg{{Header: nats.Header{"Status": {"408"}}}} }},
		"whole at last": {pages: func(c jetstream.Config, n int) []*nats.Msg {
			if n == 1 {
				return slices.Delete(pageOf(c, 1, 2, 3), 1, 2)
			}
			return pageOf(c, 1, 2, 3)
		}, want: []int64{1, 2, 3}},
		"behind at first": {pages: func(c jetstream.Config, n int) []*nats.Msg {
			if n == 1 {
				return pageOf(c, 1, 2)
			}
			return pageOf(c, 3)
		}, want: []int64{1, 2, 3}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			nc := sharedServers(t, 1).Connect(t)
			config := config()
			config.Domain = config.EventsStream
			if c.want == nil {
				config.Timeout = 300 * time.Millisecond
			}
			fakeJetStream(t, nc, config, func(n int, _ map[string]any) []*nats.Msg { return c.pages(config, n) })
			events, err := open(t, nc, config).GetEvents(t.Context(), "order-1", 0)
			if c.want == nil && (!errors.Is(err, eventstore.ErrUnavailable) || len(events) != 0) {
				t.Errorf("%d events and %v, want unavailable", len(events), err)
			}
			if c.want != nil && (err != nil || !slices.Equal(versions(events), c.want)) {
				t.Errorf("versions %v (%v), want %v", versions(events), err, c.want)
			}
		})
	}
}

func TestConfig(t *testing.T) {
	t.Parallel()
	nc := sharedServers(t, 1).Connect(t)
	good := config()
	for name, change := range map[string]func(*jetstream.Config){
		"no namespace":     func(c *jetstream.Config) { c.Namespace = "" },
		"no store":         func(c *jetstream.Config) { c.Store = "" },
		"no stream":        func(c *jetstream.Config) { c.EventsStream = "" },
		"a wildcard":       func(c *jetstream.Config) { c.EventsStream = "a.>" },
		"no snapshots":     func(c *jetstream.Config) { c.SnapshotsStream = "" },
		"one stream":       func(c *jetstream.Config) { c.SnapshotsStream = c.EventsStream },
		"a broken domain":  func(c *jetstream.Config) { c.Domain = "a.b" },
		"negative timeout": func(c *jetstream.Config) { c.Timeout = -1 },
		"too little ahead": func(c *jetstream.Config) { c.ReadAheadBytes = jetstream.MinReadAheadBytes - 1 },
	} {
		c := good
		change(&c)
		if _, err := jetstream.New(nc, c); err == nil {
			t.Errorf("%s: accepted %+v", name, c)
		}
	}
	if _, err := jetstream.New(nil, good); err == nil {
		t.Error("no connection: accepted")
	}
}

// Not parallel: goroutines of other tests are not this store's.
func TestCloseLeavesNothingBehind(t *testing.T) {
	nc := sharedServers(t, 1).Connect(t)
	c := config()
	createStreams(t, nc, streamConfigs(c, 1)...)
	// One of the client library, for the requests that made the streams.
	others := nc.NumSubscriptions()
	store := open(t, nc, c)
	ctx := deadline(t)
	running := goleak.IgnoreCurrent()
	var subscriptions []eventstore.Subscription
	var following sync.WaitGroup
	for range 3 {
		subscription, err := store.Subscribe(ctx, eventstore.SubscribeOptions{})
		if err != nil {
			t.Fatal(err)
		}
		subscriptions = append(subscriptions, subscription)
		following.Go(func() {
			for {
				if _, err := subscription.Next(ctx); err != nil {
					if !errors.Is(err, eventstore.ErrSubscriptionClosed) {
						t.Errorf("next: %v", err)
					}
					return
				}
			}
		})
	}
	member, err := store.SubscribeDurable(ctx, eventstore.DurableOptions{Name: "projection"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := store.SubscribeStored(ctx, eventstore.SubscribeOptions{}, 1); err != nil {
		t.Fatal(err)
	}
	if _, err := store.SaveEvents(ctx, []eventstore.Event{event("a", "order-1", 1), event("b", "order-2", 1)}); err != nil {
		t.Fatal(err)
	}
	if _, err := member.Next(ctx); err != nil {
		t.Fatal(err)
	}
	for range store.Events(ctx, "order-1", 0) {
		break
	}
	if err := store.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	following.Wait()
	for _, subscription := range subscriptions {
		if _, err := subscription.Next(ctx); !errors.Is(err, eventstore.ErrSubscriptionClosed) {
			t.Errorf("next after close: %v", err)
		}
	}
	if _, err := store.Subscribe(ctx, eventstore.SubscribeOptions{}); !errors.Is(err, eventstore.ErrSubscriptionClosed) {
		t.Errorf("subscribe after close: %v", err)
	}
	if _, err := member.Next(ctx); !errors.Is(err, eventstore.ErrSubscriptionClosed) {
		t.Errorf("next after close: %v", err)
	}
	// The client library takes the one away that a member has drained in a goroutine of
	// its own, once the server has answered that too.
	eventually(t, "the subscriptions on the connection end", func() bool { return nc.NumSubscriptions() == others })
	// The servers are in this process, and their part of a consumer ends with it.
	js := jetStreamOf(t, nc)
	if err := js.DeleteStream(ctx, c.EventsStream); err != nil {
		t.Fatal(err)
	}
	eventually(t, "goroutines end", func() bool { return goleak.Find(running) == nil })
}
