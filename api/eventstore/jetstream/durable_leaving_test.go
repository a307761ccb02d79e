package jetstream_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
)

// All members end at once, or one right after the other, each with events that it has
// taken ahead. Whoever joins then has them at once, and does not wait until AckWait is
// over.
func TestDurableAllMembersEnd(t *testing.T) {
	t.Parallel()
	const rounds, actors, size = 6, 40, 4
	for name, end := range map[string]func([]eventstore.DurableSubscription) error{
		"at once": func(members []eventstore.DurableSubscription) error {
			var ending sync.WaitGroup
			for _, member := range members {
				ending.Go(func() { _ = member.Close() })
			}
			ending.Wait()
			return nil
		},
		"one after the other": func(members []eventstore.DurableSubscription) error {
			for _, member := range members {
				if err := member.Close(); err != nil {
					return err
				}
			}
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, _, again := newGroup(t)
			ctx, cancel := context.WithTimeout(deadline(t), 2*time.Minute)
			defer cancel()
			saveRows(ctx, t, again(), rowOf("order", actors, 1))
			opts := eventstore.DurableOptions{AckWait: time.Hour, MaxInHand: 8, MaxDeliveries: rounds + 1}
			l := newLedger(t, rounds+1)
			for range rounds {
				var members []eventstore.DurableSubscription
				for range size {
					members = append(members, joined(t, again(), opts))
				}
				for _, member := range members {
					d, err := member.Next(ctx)
					if err != nil {
						t.Fatal(err)
					}
					l.take(d)
				}
				if err := end(members); err != nil {
					t.Fatal(err)
				}
			}
			member := joined(t, again(), opts)
			l.workedOff(ctx, member, func() {}, func() bool { return l.settled == actors })
		})
	}
}
