package jetstream_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/jetstream"
)

// large is an event of many bytes, which it alone has.
func large(id, actorID string, version int64, size int) eventstore.Event {
	e := event(id, actorID, version)
	e.Data, e.ContentType = bytes.Repeat([]byte(id+" "), size/(len(id)+1)), "text/plain"
	return e
}

// narrow is a Store that has little memory, on streams with what events says: of one
// actor small ones at both ends and large ones between.
func narrow(t *testing.T, size, count int, memory *semaphore.Weighted) (*jetstream.Store, []eventstore.Event) {
	t.Helper()
	near, c, nc := newStore(t)
	var events []eventstore.Event
	for n := range count {
		e := large(fmt.Sprintf("large-%d", n), "order-1", int64(n+1), size)
		if n < 20 || n >= count-4 {
			e = event(fmt.Sprintf("small-%d", n), "order-1", int64(n+1))
		}
		// Between them what makes a read by subject dear.
		between := make([]eventstore.Event, 40)
		for i := range between {
			between[i] = event(fmt.Sprintf("other-%d-%d", n, i), "other-1", 0)
		}
		if _, err := near.SaveEvents(deadline(t), append(between, e)); err != nil {
			t.Fatal(err)
		}
		events = append(events, e)
	}
	c.ReadAheadBytes, c.Memory = jetstream.MinReadAheadBytes, memory
	return open(t, nc, c), events
}

// However large the messages are that a page asks for, no more is kept than there is
// room for, and nothing is missing.
func TestLargeBetweenSmall(t *testing.T) {
	t.Parallel()
	store, want := narrow(t, 300<<10, 100, nil)
	ctx := deadline(t)
	var sequences []uint64
	n := 0
	for got, err := range store.Events(ctx, "order-1", 0) {
		if err != nil || got.ID != want[n].ID || !bytes.Equal(got.Data, want[n].Data) {
			t.Fatalf("event %d is %s of %d bytes (%v)", n, got.ID, len(got.Data), err)
		}
		sequences = append(sequences, got.Sequence)
		n++
	}
	if n != len(want) {
		t.Errorf("%d events, want %d", n, len(want))
	}
	messages, kept, err := store.GetSome(ctx, sequences[20:])
	if err != nil || messages < 1 || kept > jetstream.MinReadAheadBytes+300<<10 {
		t.Errorf("%d messages of %d bytes are kept (%v), want no more than %d and one message", messages, kept, err, jetstream.MinReadAheadBytes)
	}
	for _, newest := range []int{3, 60, 100, 1000} {
		events, err := store.GetEvents(ctx, "order-1", 0, eventstore.Newest(newest))
		slices.Reverse(events)
		wanted := want[max(0, len(want)-newest):]
		if err != nil || len(events) != len(wanted) {
			t.Fatalf("%d of the newest %d events: %v", len(events), newest, err)
		}
		for i := range events {
			if events[i].ID != wanted[i].ID || !bytes.Equal(events[i].Data, wanted[i].Data) {
				t.Errorf("of the newest %d event %d is %s of %d bytes", newest, i, events[i].ID, len(events[i].Data))
			}
		}
	}
}

// The first save without a version reads the ids of 64 events, however large, in the
// room of one page.
func TestColdSavesShareTheMemory(t *testing.T) {
	t.Parallel()
	memory := semaphore.NewWeighted(jetstream.MinReadAheadBytes)
	store, want := narrow(t, 900<<10, 40, memory)
	var saving errgroup.Group
	for n := range 8 {
		saving.Go(func() error {
			for {
				saved, err := store.SaveEvent(deadline(t), event(want[n+20].ID, "order-1", 0))
				if errors.Is(err, eventstore.ErrUnavailable) {
					// The others have taken it for long.
					continue
				}
				var duplicate *eventstore.DuplicateEventError
				if !errors.As(err, &duplicate) || duplicate.Version != int64(n+21) {
					return fmt.Errorf("%+v, %w, want a duplicate of version %d", saved, err, n+21)
				}
				return nil
			}
		})
	}
	if err := saving.Wait(); err != nil {
		t.Error(err)
	}
	// All is given back.
	if !memory.TryAcquire(jetstream.MinReadAheadBytes) {
		t.Fatal("memory is kept")
	}
	began := time.Now()
	_, err := store.SaveEvent(deadline(t), event("late", "nobody-1", 0))
	if !errors.Is(err, eventstore.ErrUnavailable) || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("save without memory, after %s: %v, want unavailable", time.Since(began), err)
	}
	memory.Release(jetstream.MinReadAheadBytes)
	if saved, err := store.SaveEvent(deadline(t), event("late", "nobody-1", 0)); err != nil || saved.Version != 1 {
		t.Errorf("%+v, %v", saved, err)
	}
}

// A read gets each message once.
func TestReadsAskOnce(t *testing.T) {
	t.Parallel()
	_, c, nc := newStore(t)
	reader, err := nats.Connect(nc.ConnectedUrl())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(reader.Close)
	writer, store := open(t, nc, c), open(t, reader, c)
	several := func(actorID string, count int) []eventstore.Event {
		events := make([]eventstore.Event, count)
		for n := range events {
			events[n] = event(fmt.Sprintf("%s-%d", actorID, n), actorID, 0)
		}
		return events
	}
	// What lies side by side is read by subject, what lies far apart is not.
	save(t, writer, several("dense-1", 100)...)
	save(t, writer, append([]eventstore.Event{large("mixed", "mixed-1", 0, 900<<10)}, several("mixed-1", 299)...)...)
	for n := range 100 {
		save(t, writer, append(several(fmt.Sprintf("other-%d", n), 40), event(fmt.Sprintf("sparse-%d", n), "sparse-1", 0))...)
	}
	for actorID, wanted := range map[string]int{"dense-1": 100, "mixed-1": 300, "sparse-1": 100} {
		before := reader.Stats().InMsgs
		events, err := store.GetEvents(deadline(t), actorID, 0)
		if err != nil || len(events) != wanted {
			t.Fatalf("%d events of %s (%v), want %d", len(events), actorID, err, wanted)
		}
		// The last message, the ends of pages, nodes of the index.
		if got := int(reader.Stats().InMsgs - before); got > wanted+20 {
			t.Errorf("a read of %d events of %s got %d messages", wanted, actorID, got)
		}
	}
}
