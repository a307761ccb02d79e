package jetstream_test

import (
	"context"
	"testing"
	"time"

	natsjs "github.com/nats-io/nats.go/jetstream"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv/natsserver"
)

// Actors wait, each for an event that a member has in hand or was given back, and that
// one goes, by hand or because it is old. The actors go on with what is left, also when
// other members join.
func TestDurableWhatActorsWaitForIsGone(t *testing.T) {
	t.Parallel()
	onSystems(t, func(t *testing.T, cluster *natsserver.Cluster, replicas int) {
		for name, expires := range map[string]bool{"erased": false, "expired": true} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				const actors = 20
				nc := cluster.Connect(t)
				c := config()
				configs := streamConfigs(c, replicas)
				createStreams(t, nc, configs...)
				js, err := natsjs.New(nc)
				if err != nil {
					t.Fatal(err)
				}
				ctx := deadline(t)
				store := open(t, nc, c)
				opts := eventstore.DurableOptions{MaxInHand: 2 * actors}
				saveRows(ctx, t, store, rowOf("order", actors, 1))
				saveRows(ctx, t, store, rowOf("order", actors, 2))
				l := newLedger(t, eventstore.DefaultMaxDeliveries)
				// What is not to be ordered: the first are gone.
				for _, row := range rowOf("order", actors, 1) {
					l.tried[row.ActorID] = 2
				}
				member := joined(t, store, opts)
				for n := range actors {
					d, err := member.Next(ctx)
					if err != nil {
						t.Fatal(err)
					}
					if n%2 == 0 {
						if err := member.Nak(ctx, d.Event.Sequence, 3*time.Second, "later"); err != nil {
							t.Fatal(err)
						}
					}
				}
				stream, err := js.Stream(ctx, c.EventsStream)
				if err != nil {
					t.Fatal(err)
				}
				if expires {
					configs[0].MaxAge, configs[0].Duplicates = time.Second, time.Second
					if _, err := js.UpdateStream(ctx, configs[0]); err != nil {
						t.Fatal(err)
					}
				} else if err := stream.Purge(ctx, natsjs.WithPurgeSequence(2*actors+1)); err != nil {
					t.Fatal(err)
				}
				eventually(t, "they are gone", func() bool {
					info, err := stream.Info(ctx)
					return err == nil && info.State.Msgs == 0
				})
				if expires {
					configs[0].MaxAge = 0
					if _, err := js.UpdateStream(ctx, configs[0]); err != nil {
						t.Fatal(err)
					}
				}
				saveRows(ctx, t, store, rowOf("order", actors, 3))
				if err := member.Close(); err != nil {
					t.Fatal(err)
				}
				member = joined(t, open(t, cluster.Connect(t), c), opts)
				l.workedOff(ctx, member, func() {}, func() bool { return l.settled == actors })
				wantNothing(ctx, t, member)
			})
		}
	})
}

// An actor waits for an event that is to come again in hours, and it is erased: the actor goes
// on, and does not wait until then.
func TestDurableDoesNotWaitForWhatWasErased(t *testing.T) {
	t.Parallel()
	onSystems(t, func(t *testing.T, cluster *natsserver.Cluster, replicas int) {
		nc := cluster.Connect(t)
		c := config()
		createStreams(t, nc, streamConfigs(c, replicas)...)
		ctx, cancel := context.WithTimeout(deadline(t), 2*time.Minute)
		defer cancel()
		store := open(t, nc, c)
		const actors = 5
		saveRows(ctx, t, store, rowOf("order", actors, 1))
		saveRows(ctx, t, store, rowOf("order", actors, 2))
		member := joined(t, store, eventstore.DurableOptions{})
		stream, err := jetStreamOf(t, nc).Stream(ctx, c.EventsStream)
		if err != nil {
			t.Fatal(err)
		}
		wait := map[string]bool{}
		for n := range actors {
			d, err := member.Next(ctx)
			if err != nil {
				t.Fatal(err)
			}
			if err := member.Nak(ctx, d.Event.Sequence, 24*time.Hour, "tomorrow"); err != nil {
				t.Fatal(err)
			}
			if n == 0 {
				// This one is there still, and waited for.
				continue
			}
			wait[d.Event.ActorID] = true
			if err := stream.DeleteMsg(ctx, d.Event.Sequence); err != nil {
				t.Fatal(err)
			}
		}
		for len(wait) > 0 {
			d, err := member.Next(ctx)
			if err != nil {
				t.Fatalf("%d actors wait: %v", len(wait), err)
			}
			if !wait[d.Event.ActorID] || d.Event.Version != 2 {
				t.Fatalf("version %d of %s came", d.Event.Version, d.Event.ActorID)
			}
			delete(wait, d.Event.ActorID)
			if err := member.Ack(ctx, d.Event.Sequence); err != nil {
				t.Fatal(err)
			}
		}
		wantNothing(ctx, t, member)
	})
}
