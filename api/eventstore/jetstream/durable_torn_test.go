package jetstream_test

import (
	"context"
	"errors"
	"testing"
	"time"

	natsjs "github.com/nats-io/nats.go/jetstream"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
)

// A part of the records is removed by hand, and with it what waits: the members are told, as is
// who asks how it is doing, and nobody takes it for nothing. Deleted, it can be made anew.
func TestDurableWhoseRecordsAreRemoved(t *testing.T) {
	t.Parallel()
	for name, lives := range map[string]bool{"under its members": true, "while there is none": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			store, c, nc := newStore(t)
			ctx, cancel := context.WithTimeout(deadline(t), time.Minute)
			defer cancel()
			saveRows(ctx, t, store, rowOf("order", 2, 1))
			member := joined(t, store, eventstore.DurableOptions{})
			for range 2 {
				d, err := member.Next(ctx)
				if err != nil {
					t.Fatal(err)
				}
				if err := member.Nak(ctx, d.Event.Sequence, 3*time.Second, "later"); err != nil {
					t.Fatal(err)
				}
			}
			if !lives {
				if err := member.Close(); err != nil {
					t.Fatal(err)
				}
			}
			stream, err := jetStreamOf(t, nc).Stream(ctx, c.SnapshotsStream)
			if err != nil {
				t.Fatal(err)
			}
			if err := stream.Purge(ctx, natsjs.WithPurgeSubject(c.EventsStream+".snapshots.%waiting.*")); err != nil {
				t.Fatal(err)
			}
			if !lives {
				member = joined(t, store, eventstore.DurableOptions{})
			}
			if d, err := member.Next(ctx); !errors.Is(err, eventstore.ErrDurableTorn) {
				t.Fatalf("version %d of %q, %v: want %v", d.Event.Version, d.Event.ActorID, err, eventstore.ErrDurableTorn)
			}
			if _, err := store.GetDurableStatus(ctx, "projection"); !errors.Is(err, eventstore.ErrDurableTorn) {
				t.Errorf("status: %v, want %v", err, eventstore.ErrDurableTorn)
			}
			if err := store.DeleteDurable(ctx, "projection"); err != nil {
				t.Fatal(err)
			}
			if d, err := joined(t, store, eventstore.DurableOptions{}).Next(ctx); err != nil || d.Attempt != 1 {
				t.Errorf("made anew: attempt %d, %v", d.Attempt, err)
			}
		})
	}
}

// The record itself is removed by hand, and others of the same name are left: what is made anew
// goes on beside them.
func TestDurableWhoseRecordIsRemoved(t *testing.T) {
	t.Parallel()
	store, c, nc := newStore(t)
	ctx, cancel := context.WithTimeout(deadline(t), time.Minute)
	defer cancel()
	saveRows(ctx, t, store, rowOf("order", 1, 1))
	for range 5 {
		// Each that coordinates counts.
		member := joined(t, store, eventstore.DurableOptions{})
		d, err := member.Next(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if err := member.Nak(ctx, d.Event.Sequence, 0, "again"); err != nil {
			t.Fatal(err)
		}
		if err := member.Close(); err != nil {
			t.Fatal(err)
		}
	}
	stream, err := jetStreamOf(t, nc).Stream(ctx, c.SnapshotsStream)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Purge(ctx, natsjs.WithPurgeSubject(c.EventsStream+".snapshots.%durable.projection")); err != nil {
		t.Fatal(err)
	}
	member := joined(t, store, eventstore.DurableOptions{})
	for attempt := 1; attempt <= 2; attempt++ {
		d, err := member.Next(ctx)
		if err != nil || d.Attempt != attempt {
			t.Fatalf("attempt %d, %v: want %d", d.Attempt, err, attempt)
		}
		// Another coordinates once it finds the records that are left, and has taken it back
		// perhaps before it is asked.
		if err := member.Nak(ctx, d.Event.Sequence, 0, "again"); err != nil && !errors.Is(err, eventstore.ErrNotInHand) {
			t.Fatal(err)
		}
	}
}
