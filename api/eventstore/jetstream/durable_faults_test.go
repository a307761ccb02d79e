package jetstream_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv/link"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv/natsserver"
)

// linked is a connection to one server that goes silent with its link, and finds out
// after some seconds.
func linked(t *testing.T, l *link.Link) *nats.Conn {
	t.Helper()
	nc, err := nats.Connect(l.URL(), nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond), nats.PingInterval(time.Second), nats.MaxPingsOutstanding(2), nats.ReconnectBufSize(-1), nats.IgnoreDiscoveredServers())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

// Members work and give back at random while a coordinator and then a member go silent, both
// streams change their leaders, and a server stops: all is handled, in order, and
// nothing again that was acknowledged.
func TestDurableWhileServersFail(t *testing.T) {
	t.Parallel()
	cluster := natsserver.Run(t, 3)
	c := config()
	c.Timeout = 15 * time.Second
	control := cluster.Connect(t)
	createStreams(t, control, streamConfigs(c, 3)...)
	ctx := deadline(t)
	const actors = 50
	each := int64(sized(200, 40))
	store := open(t, control, c)
	for version := int64(1); version <= each; version++ {
		saveRows(ctx, t, store, rowOf("order", actors, version))
	}
	links := []*link.Link{link.To(t, cluster.URLs()[0]), link.To(t, cluster.URLs()[0])}
	opts := eventstore.DurableOptions{AckWait: 3 * time.Second, MaxInHand: 8, MaxDeliveries: 10_000}
	l := newLedger(t, opts.MaxDeliveries)
	working, stop := context.WithCancel(ctx)
	defer stop()
	var members sync.WaitGroup
	defer members.Wait()
	defer stop()
	join := func(nc *nats.Conn) {
		member := joined(t, open(t, nc, c), opts)
		members.Go(func() { l.workAtRandom(working, member) })
	}
	// The first that is silent coordinates.
	join(linked(t, links[0]))
	l.until(ctx, func() bool { return l.settled > 0 })
	join(linked(t, links[1]))
	for range 6 {
		join(cluster.Connect(t))
	}
	stepDown := func(stream string) {
		// It fails where there is no leader just then.
		_, _ = control.Request("$JS.API.STREAM.LEADER.STEPDOWN."+stream, nil, 5*time.Second)
	}
	for n, fault := range []func(){
		links[0].Silence,
		func() { stepDown(c.SnapshotsStream) },
		func() { links[0].Resume(); links[1].Silence() },
		func() { stepDown(c.EventsStream) },
		links[1].Resume,
		func() { cluster.StopNode(1) },
		func() {
			if err := cluster.StartNode(1); err != nil {
				t.Fatal(err)
			}
		},
		func() { stepDown(c.SnapshotsStream); stepDown(c.EventsStream) },
	} {
		began := time.Now()
		l.await(ctx, (n+1)*actors*int(each)/9)
		fault()
		t.Logf("fault %d after %d events, %.1fs after the one before", n, (n+1)*actors*int(each)/9, time.Since(began).Seconds())
	}
	l.await(ctx, actors*int(each))
}

// workAtRandom is work that gives one of ten back, for some time or none.
func (l *ledger) workAtRandom(ctx context.Context, member eventstore.DurableSubscription) {
	l.work(ctx, member, 4, func(d eventstore.Delivery) bool {
		if rand.IntN(10) > 0 {
			return true
		}
		err := member.Nak(ctx, d.Event.Sequence, time.Duration(rand.IntN(200))*time.Millisecond, "at random")
		if err != nil && ctx.Err() == nil && !errors.Is(err, eventstore.ErrNotInHand) && !errors.Is(err, eventstore.ErrUnavailable) {
			l.Errorf("give back: %v", err)
		}
		return false
	})
}

// All members lose their connections for good and can tell nobody, again and again. What
// ends them each time is delivered as often as it may be and parked, and the rest is done.
func TestDurableAllMembersAreKilled(t *testing.T) {
	t.Parallel()
	cluster := sharedServers(t, 1)
	_, c, _ := newStore(t)
	ctx := deadline(t)
	const most, size = 3, 3
	rounds, actors := sized(10, 4), sized(400, 120)
	store := open(t, cluster.Connect(t), c)
	saveRows(ctx, t, store, rowOf("order", actors, 1))
	saveRows(ctx, t, store, rowOf("poison", size, 1))
	opts := eventstore.DurableOptions{Name: "projection", AckWait: time.Second, MaxInHand: 4, MaxDeliveries: most}
	l := newLedger(t, most)
	var ending sync.WaitGroup
	for round := range rounds {
		// Nobody asks for more when the connections end, and the members learn of that alone.
		working, stop := context.WithCancel(ctx)
		killed, kill := context.WithCancel(ctx)
		var members sync.WaitGroup
		var conns []*nats.Conn
		for range size {
			nc := cluster.Connect(t)
			conns = append(conns, nc)
			member, err := open(t, nc, c).SubscribeDurable(ctx, opts)
			if err != nil {
				t.Fatal(err)
			}
			ending.Go(func() {
				<-killed.Done()
				_ = member.Close()
			})
			members.Go(func() {
				l.work(working, member, 2, func(d eventstore.Delivery) bool { return d.Event.ActorID[:5] == "order" })
			})
		}
		l.await(ctx, (round+1)*actors/(rounds+2))
		stop()
		for _, nc := range conns {
			nc.Close()
		}
		kill()
		members.Wait()
	}
	ending.Wait()
	member := joined(t, store, opts)
	working, stop := context.WithCancel(ctx)
	defer stop()
	worked := make(chan struct{})
	go func() {
		defer close(worked)
		l.work(working, member, 4, func(d eventstore.Delivery) bool { return d.Event.ActorID[:5] == "order" })
	}()
	eventually(t, "every event is done or parked", func() bool {
		parked, err := member.Parked(ctx)
		if err != nil {
			t.Fatal(err)
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		// The answer to an acknowledgement may have been lost.
		known, never := map[string]bool{}, 0
		for actor := range l.tried {
			known[actor] = true
		}
		for _, p := range parked {
			if l.acked[p.Sequence] {
				t.Errorf("event %d is parked, and was acknowledged", p.Sequence)
			}
			if l.given[p.Sequence] == 0 {
				never++
			}
			known[p.ActorID] = true
		}
		if len(known) < actors+size {
			return false
		}
		t.Logf("%d done, %d parked, %d of them never given to an application", l.settled, len(parked), never)
		return true
	})
	stop()
	<-worked
}

// A member gets a large event itself. If that takes longer than it may have the event, and
// another has done it meanwhile, its application is not given it any more.
func TestDurableLargeEventThatComesTooLate(t *testing.T) {
	t.Parallel()
	_, c, _ := newStore(t)
	ctx, cancel := context.WithTimeout(deadline(t), time.Minute)
	defer cancel()
	store := open(t, sharedServers(t, 1).Connect(t), c)
	other := joined(t, store, eventstore.DurableOptions{AckWait: time.Second, MaxInHand: 1})
	l := newLedger(t, eventstore.DefaultMaxDeliveries)
	saveOf(t, store, "order-1", 1)
	if err := l.ack(ctx, other, l.taken(ctx, other, "order-1", 1).Event); err != nil {
		t.Fatal(err)
	}
	way := link.To(t, sharedServers(t, 1).URL())
	// It has the most room.
	member := joined(t, open(t, linked(t, way), c), eventstore.DurableOptions{AckWait: time.Second})
	wantNothing(ctx, t, member)
	large := event("large", "order-1", 2)
	large.ContentType, large.Data = "text/plain", make([]byte, 200<<10)
	if _, err := store.SaveEvent(ctx, large); err != nil {
		t.Fatal(err)
	}
	wantNothing(ctx, t, other)
	way.Silence()
	late := make(chan error, 1)
	go func() {
		d, err := member.Next(ctx)
		if err == nil {
			l.take(d)
		}
		late <- err
	}()
	if err := l.ack(ctx, other, l.taken(ctx, other, "order-1", 2).Event); err != nil {
		t.Fatal(err)
	}
	way.Resume()
	saveOf(t, store, "order-1", 3)
	if err := <-late; err != nil {
		t.Error(err)
	}
	if l.given[2] > 1 {
		t.Errorf("the large event was given %d times", l.given[2])
	}
}
