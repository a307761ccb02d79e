package jetstream_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"golang.org/x/sync/semaphore"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/jetstream"
)

// Many groups read ahead in the memory that there is for all of them, and so do their members.
// What has no room is delivered all the same, and all is given back.
func TestDurablesShareTheMemory(t *testing.T) {
	t.Parallel()
	const groups, events, size, room = 6, 30, 100 << 10, 1 << 20
	store, c, nc := newStore(t)
	ctx, cancel := context.WithTimeout(deadline(t), 4*time.Minute)
	defer cancel()
	for n := range events {
		large := event(fmt.Sprint(n), fmt.Sprintf("order-%d", n), 1)
		large.ContentType, large.Data = "text/plain", make([]byte, size)
		if _, err := store.SaveEvent(ctx, large); err != nil {
			t.Fatal(err)
		}
	}
	c.Memory, c.AheadMemory = semaphore.NewWeighted(4*room), semaphore.NewWeighted(room)
	limited := open(t, nc, c)
	elsewhere := open(t, sharedServers(t, 1).Connect(t), c)
	var coordinators, members []eventstore.DurableSubscription
	for n := range groups {
		opts := eventstore.DurableOptions{Name: fmt.Sprint("g", n), MaxInHand: 8}
		coordinator := joined(t, limited, opts)
		first, err := coordinator.Next(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if err := coordinator.Release(ctx, first.Event.Sequence); err != nil {
			t.Fatal(err)
		}
		coordinators, members = append(coordinators, coordinator), append(members, joined(t, elsewhere, opts))
	}
	all := append(coordinators, members...)
	kept := func() (bytes int) {
		for _, member := range all {
			ahead, inLine := jetstream.KeptBy(member)
			bytes += ahead + inLine
		}
		return bytes
	}
	for n, member := range members {
		eventually(t, "all is read", func() bool {
			status, err := elsewhere.GetDurableStatus(ctx, fmt.Sprint("g", n))
			return err == nil && status.Lag == 0
		})
		for range events {
			d, err := member.Next(ctx)
			if err != nil {
				t.Fatal(err)
			}
			if len(d.Event.Data) != size || d.Attempt != 1 {
				t.Errorf("attempt %d of an event of %d bytes", d.Attempt, len(d.Event.Data))
			}
			// Each counts its header and its subject too.
			if bytes := kept(); bytes > room {
				t.Fatalf("%d bytes are kept, and there is room for %d", bytes, room)
			}
			if err := member.Ack(ctx, d.Event.Sequence); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, member := range all {
		if err := member.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if !c.AheadMemory.TryAcquire(room) || !c.Memory.TryAcquire(4*room) {
		t.Error("memory is kept")
	}
}
