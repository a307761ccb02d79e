package controller

import (
	"errors"
	"os"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	toolscache "k8s.io/client-go/tools/cache"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/stream"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv/natsserver"
)

// A sweep sees streams that were written to go on from where it saw them last, and wakes the
// store whose stream was back there meanwhile, whatever its status has on record.
func TestSweepAsksWhereStreamsWere(t *testing.T) {
	t.Parallel()
	servers := natsserver.Run(t, 1)
	conn := connectionTo(t, servers)
	api, err := jetstream.New(servers.Connect(t))
	if err != nil {
		t.Fatal(err)
	}
	class := &v1alpha1.EventStoreClass{}
	class.Name = "standard"
	store := settledOn(t, conn, class)
	events := store.EventsStreamName()
	publish := func(count int) {
		t.Helper()
		for range count {
			if _, err := api.Publish(t.Context(), events+".events.order.1", []byte("{}"), jetstream.WithRetryAttempts(100)); err != nil {
				t.Fatal(err)
			}
		}
	}
	publish(30)
	live, err := conn.Stream(t.Context(), events)
	if err != nil {
		t.Fatal(err)
	}
	store.Status.Streams[0] = stream.StatusOf(v1alpha1.StreamRoleEvents, live)
	index := storeIndex{toolscache.NewIndexer(toolscache.MetaNamespaceKeyFunc, indexers)}
	if err := index.indexer.Add(store); err != nil {
		t.Fatal(err)
	}
	woken := 0
	sweeps := newSweeper(connector{}, index, homes{cached: anyNamespace{}}, stream.NewMemory(), time.Hour, func(stream.Notice) { woken++ })
	sweep := func(what string, wakes int, place uint64) {
		t.Helper()
		woken = 0
		if err := sweeps.look(t.Context(), class, conn); err != nil {
			t.Fatal(err)
		}
		if seen, _ := sweeps.memory.Seen("standard", events); woken != wakes || seen.LastSequence != place {
			t.Errorf("%s: woken %d times, and it was seen at %d; want %d and %d", what, woken, seen.LastSequence, wakes, place)
		}
		if _, settled := sweeps.of("standard").settled[store.UID]; settled != (wakes == 0) {
			t.Errorf("%s: settled: %t", what, settled)
		}
	}
	sweep("as the status has it", 0, 30)

	copied := t.TempDir()
	restart := func(from, to string) {
		t.Helper()
		servers.StopNode(0)
		if err := errors.Join(os.RemoveAll(to), os.CopyFS(to, os.DirFS(from)), servers.StartNode(0)); err != nil {
			t.Fatal(err)
		}
		testenv.Eventually(t, time.Minute, "the server", func() error {
			_, err := conn.Stream(t.Context(), events)
			return err
		})
	}
	restart(servers.DataDir(0), copied)
	// Less than what would be told.
	publish(2)
	sweep("after two more", 0, 32)
	restart(copied, servers.DataDir(0))
	publish(3)
	sweep("after it lost two, and got three", 1, 32)
	sweep("once more", 1, 32)
	sweeps.forget("standard")
	sweep("after the class was deleted and applied again", 1, 32)

	if err := index.indexer.Delete(store); err != nil {
		t.Fatal(err)
	}
	sweeps.forget("standard")
	if _, seen := sweeps.memory.Seen("standard", events); seen {
		t.Error("a stream is remembered of a class and a store that are gone")
	}
}
