package jetstream_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/jetstream"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv/natsserver"
)

// working is a member that works off what it gets, on a connection of its own.
type working struct {
	eventstore.DurableSubscription
	nc   *nats.Conn
	stop func()
}

// parkAll has each event of so many actors parked.
func (l *ledger) parkAll(ctx context.Context, store *jetstream.Store, actors int) {
	l.Helper()
	member := joined(l.T, store, eventstore.DurableOptions{MaxDeliveries: 1})
	parking, stop := context.WithCancel(ctx)
	defer stop()
	var mu sync.Mutex
	left := actors
	l.work(parking, member, 16, func(d eventstore.Delivery) bool {
		if err := member.Nak(ctx, d.Event.Sequence, 0, "not now"); err != nil {
			l.Errorf("park: %v", err)
		}
		mu.Lock()
		defer mu.Unlock()
		if left--; left == 0 {
			stop()
		}
		return false
	})
	if err := member.Close(); err != nil {
		l.Fatal(err)
	}
}

// replayed has events replayed, and asks again where the answer does not come.
func (l *ledger) replayed(ctx context.Context, member eventstore.DurableSubscription, sequences []uint64) {
	for {
		soon, cancel := context.WithTimeout(ctx, 15*time.Second)
		_, err := member.Replay(soon, sequences...)
		cancel()
		if err == nil {
			return
		}
		if ctx.Err() != nil || !errors.Is(err, eventstore.ErrUnavailable) {
			l.Errorf("replay: %v", err)
			return
		}
	}
}

// Parked events are replayed while one coordinator after another is killed: each is delivered
// until it is done, none after that, and none is left.
func TestDurableReplayWhileCoordinatorsChange(t *testing.T) {
	t.Parallel()
	onSystems(t, func(t *testing.T, cluster *natsserver.Cluster, replicas int) {
		c := config()
		createStreams(t, cluster.Connect(t), streamConfigs(c, replicas)...)
		ctx, cancel := context.WithTimeout(deadline(t), 5*time.Minute)
		defer cancel()
		store := open(t, cluster.Connect(t), c)
		actors, rounds := sized(2000, 200), sized(10, 4)
		saveRows(ctx, t, store, rowOf("order", actors, 1))
		opts := eventstore.DurableOptions{AckWait: time.Second, MaxInHand: 8, MaxDeliveries: 1000}
		l := newLedger(t, opts.MaxDeliveries+1)
		l.parkAll(ctx, store, actors)
		var all sync.WaitGroup
		defer all.Wait()
		join := func() *working {
			w := &working{nc: cluster.Connect(t)}
			w.DurableSubscription = joined(t, open(t, w.nc, c), opts)
			work, stop := context.WithCancel(ctx)
			w.stop = stop
			all.Go(func() { l.work(work, w, 2, func(eventstore.Delivery) bool { return true }) })
			return w
		}
		members := []*working{join(), join(), join()}
		parked := func() (sequences []uint64) {
			list, err := members[0].Parked(ctx)
			if err != nil {
				t.Fatal(err)
			}
			for _, p := range list {
				sequences = append(sequences, p.Sequence)
			}
			return sequences
		}
		for round := range rounds {
			sequences := parked()
			some := sequences[:len(sequences)/(rounds-round)]
			var leader *working
			eventually(t, "somebody coordinates", func() bool {
				at := slices.IndexFunc(members, func(w *working) bool { return jetstream.Coordinates(w.DurableSubscription) })
				if at >= 0 {
					leader = members[at]
					members = append(slices.Delete(members, at, at+1), join())
				}
				return at >= 0
			})
			var replaying sync.WaitGroup
			replaying.Go(func() { l.replayed(ctx, members[0], some) })
			if round%2 == 0 {
				// Some of it is under way.
				l.until(ctx, func() bool { return len(l.tried) > round*actors/rounds })
			}
			// It can tell nobody.
			leader.stop()
			leader.nc.Close()
			all.Go(func() { _ = leader.Close() })
			replaying.Wait()
		}
		eventually(t, "all are done, and none is parked", func() bool {
			left := len(parked())
			l.mu.Lock()
			defer l.mu.Unlock()
			return len(l.tried) == actors && left == 0
		})
		for _, w := range members {
			w.stop()
		}
	})
}
