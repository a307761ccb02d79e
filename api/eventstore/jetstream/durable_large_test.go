package jetstream_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/semaphore"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/jetstream"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv/natsserver"
)

// Events as large as they may be are shared by many members that read as little ahead as they
// may: each comes whole, in the order of its actor, and once.
func TestDurableLargeEventsOfManyMembers(t *testing.T) {
	t.Parallel()
	onSystems(t, func(t *testing.T, cluster *natsserver.Cluster, replicas int) {
		const size, versions = 20, 2
		actors := sized(100, 20)
		c := config()
		createStreams(t, cluster.Connect(t), streamConfigs(c, replicas)...)
		ctx, cancel := context.WithTimeout(deadline(t), 5*time.Minute)
		defer cancel()
		c.ReadAheadBytes, c.Memory, c.AheadMemory = jetstream.MinReadAheadBytes, semaphore.NewWeighted(4<<20), semaphore.NewWeighted(1<<20)
		store := open(t, cluster.Connect(t), c)
		for version := int64(1); version <= versions; version++ {
			for n := range actors {
				large := event(fmt.Sprintf("%d-%d", n, version), fmt.Sprintf("order-%d", n), version)
				large.ContentType, large.Data = "text/plain", make([]byte, eventstore.MaxDataBytes)
				if _, err := store.SaveEvent(ctx, large); err != nil {
					t.Fatal(err)
				}
			}
		}
		l := newLedger(t, 1)
		working, stop := context.WithCancel(ctx)
		defer stop()
		var members sync.WaitGroup
		for range size {
			member := joined(t, open(t, cluster.Connect(t), c), eventstore.DurableOptions{AckWait: 2 * time.Minute, MaxInHand: 4})
			members.Go(func() {
				l.work(working, member, 2, func(d eventstore.Delivery) bool {
					if len(d.Event.Data) != eventstore.MaxDataBytes {
						l.Errorf("an event has %d bytes", len(d.Event.Data))
					}
					return true
				})
			})
		}
		l.await(ctx, versions*actors)
		stop()
		members.Wait()
	})
}
