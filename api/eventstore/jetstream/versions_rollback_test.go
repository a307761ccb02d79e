package jetstream_test

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/nats-io/nats.go"

	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv/natsserver"
)

// goingBack is a server that stops, has one of its streams put back to a copy, and starts.
type goingBack struct {
	t       *testing.T
	servers *natsserver.Cluster
	// directory is that of the stream, and copied what it was put back to.
	directory, copied string
}

func newGoingBack(t *testing.T, servers *natsserver.Cluster, stream string) *goingBack {
	t.Helper()
	g := &goingBack{t: t, servers: servers, copied: t.TempDir()}
	err := filepath.WalkDir(servers.DataDir(0), func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && d.Name() == stream {
			g.directory = path
		}
		return err
	})
	if err != nil || g.directory == "" {
		t.Fatalf("find the directory of stream %s: %q, %v", stream, g.directory, err)
	}
	return g
}

// stopped does something while the server is down.
func (g *goingBack) stopped(do func() error) *nats.Conn {
	g.t.Helper()
	g.servers.StopNode(0)
	if err := do(); err != nil {
		g.t.Fatal(err)
	}
	if err := g.servers.StartNode(0); err != nil {
		g.t.Fatal(err)
	}
	return g.servers.Connect(g.t)
}

func (g *goingBack) copyStream() *nats.Conn {
	return g.stopped(func() error { return os.CopyFS(g.copied, os.DirFS(g.directory)) })
}

func (g *goingBack) goBack() *nats.Conn {
	return g.stopped(func() error {
		if err := os.RemoveAll(g.directory); err != nil {
			return err
		}
		return os.CopyFS(g.directory, os.DirFS(g.copied))
	})
}

// The stream of events goes back with its server, and that of snapshots, which says how far
// versions are kept, does not: it may be on another server. What is saved then was never
// looked at, also where its sequences were.
func TestKeepVersionsOfAStreamThatWentBack(t *testing.T) {
	t.Parallel()
	for name, saved := range map[string]int{"and is shorter": 1, "and has caught up": 9, "and was overtaken": 12} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			servers, c := natsserver.Run(t, 1), config()
			nc := servers.Connect(t)
			createStreams(t, nc, streamConfigs(c, 1)...)
			save(t, open(t, nc, c), event("a", "order-1", 1))
			back := newGoingBack(t, servers, c.EventsStream)
			nc = back.copyStream()
			store := open(t, nc, c)
			for i := range 9 {
				save(t, store, event(fmt.Sprint("b", i), fmt.Sprint("order-b", i), 1))
			}
			keep(t, nc, c, store, 10)
			nc = back.goBack()
			store = open(t, nc, c)
			for i := range saved {
				save(t, store, event(fmt.Sprint("c", i), fmt.Sprint("order-c", i), 7))
			}
			awaitWindow(t, nc, c, uint64(saved+1))
			if kept := keepOnce(t, store, soon); kept.Looked != saved+1 || kept.Marked != saved {
				t.Errorf("after it went back: %+v, want that %d are looked at, and %d stored", kept, saved+1, saved)
			}
			if kept := keepOnce(t, store, soon); kept.Looked != 0 {
				t.Errorf("once that was done: %+v", kept)
			}
			expire(t, nc, c, 1)
			reader := open(t, nc, c)
			for i := range saved {
				wantLatest(t, reader, fmt.Sprint("order-c", i), 7)
			}
		})
	}
}

// Who erases the message up to which all was looked at has what is before it looked at
// again: nothing shows that it is the same as before.
func TestKeepVersionsAfterTheirPlaceWasErased(t *testing.T) {
	t.Parallel()
	store, c, nc := newStore(t)
	save(t, store, event("a", "order-1", 1), event("b", "order-2", 2), event("c", "order-3", 3))
	keep(t, nc, c, store, 3)
	stream, err := jetStreamOf(t, nc).Stream(deadline(t), c.EventsStream)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.DeleteMsg(deadline(t), 3); err != nil {
		t.Fatal(err)
	}
	if kept := keepOnce(t, store, soon); kept.Looked != 2 || kept.Marked != 0 {
		t.Errorf("after it was erased: %+v, want that 2 are looked at", kept)
	}
	// Where nothing is left before it, it is at its end.
	purge(t, nc, c, 3)
	if kept := keepOnce(t, store, soon); kept.Looked != 0 {
		t.Errorf("after all was purged: %+v", kept)
	}
}
