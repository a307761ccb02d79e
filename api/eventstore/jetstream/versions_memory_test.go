package jetstream_test

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/jetstream"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv/natsserver"
)

// mostHeap runs something, and gives the most bytes that were alive meanwhile beyond those
// before. It is of no use while others run: its test is not parallel.
func mostHeap(run func()) int64 {
	alive := func() uint64 {
		var now runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&now)
		return now.HeapAlloc
	}
	before, most := alive(), uint64(0)
	done := make(chan struct{})
	go func() {
		defer close(done)
		run()
	}()
	for {
		most = max(most, alive())
		select {
		case <-done:
			return int64(most) - int64(before)
		default:
		}
	}
}

// Who keeps versions has a limited memory for all stores. A writer chooses the headers of its
// messages: thousands of short ones in one of 64 KiB.
func TestKeeperOfMessagesWithManyHeaders(t *testing.T) {
	nc, c := natsserver.RunProcesses(t, 1).Connect(t), config()
	c.Heads, c.ReadAheadBytes = 1, jetstream.MinReadAheadBytes
	createStreams(t, nc, streamConfigs(c, 1)...)
	names := nats.Header{}
	for n := range 9_000 {
		names[fmt.Sprintf("%c%c%c", 'a'+n%26, 'a'+n/26%26, 'a'+n/676)] = []string{""}
	}
	const actors = 128
	for i := range actors {
		actor := fmt.Sprintf("order-%d", i)
		header := eventHeader(actor, fmt.Sprint(i), "2")
		if i%2 == 0 {
			for name := range names {
				header[name] = names[name]
			}
		}
		publish(t, nc, jetstream.EventsSubject(c.EventsStream, actor), header, "")
		publish(t, nc, jetstream.SnapshotsSubject(c.EventsStream, actor), names, "x")
	}
	store := open(t, nc, c)
	var kept jetstream.KeptVersions
	var err error
	used := mostHeap(func() { kept, err = store.KeepVersions(deadline(t), jetstream.KeepOptions{MaxAge: time.Millisecond}) })
	if err != nil || kept.Looked != actors || kept.Marked != actors {
		t.Errorf("%+v, %v", kept, err)
	}
	t.Logf("%d MiB", used>>20)
	if used > 32<<20 {
		t.Errorf("one store takes %d MiB of the memory of who keeps", used>>20)
	}
}

// What the keeper looks at comes with its data: it asks for no more than it has room for.
func TestKeeperOfLargeSnapshots(t *testing.T) {
	t.Parallel()
	writer, c, nc := newStore(t)
	keeping, err := nats.Connect(nc.ConnectedUrl())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(keeping.Close)
	const actors = 40
	for _, version := range []int64{1, 2} {
		for i := range actors {
			actor := fmt.Sprintf("order-%d", i)
			save(t, writer, event(fmt.Sprintf("%d-%d", i, version), actor, version))
			if version > 1 {
				continue
			}
			if err := writer.SaveSnapshot(deadline(t), eventstore.Snapshot{ActorID: actor, Version: 1, Data: []byte(strings.Repeat("x", 900<<10))}); err != nil {
				t.Fatal(err)
			}
		}
	}
	keeper := c
	keeper.Heads, keeper.ReadAheadBytes = 1, jetstream.MinReadAheadBytes
	store := open(t, keeping, keeper)
	awaitWindow(t, nc, c, 2*actors)
	before := keeping.Stats().InMsgs
	if kept := keepOnce(t, store, soon); kept.Marked != actors {
		t.Errorf("%+v, want %d marked", kept, actors)
	}
	// Of each actor two events in a page, the last event for each, the snapshot to look at
	// and to store again, and its acknowledgement.
	if got := int(keeping.Stats().InMsgs - before); got > 7*actors+10 {
		t.Errorf("to keep %d versions %d messages came", actors, got)
	}
}
