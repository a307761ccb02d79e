package jetstream_test

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/jetstream"
)

// publishRaw stores a message with a header that no client library sends.
func publishRaw(t *testing.T, nc *nats.Conn, subject, header string) {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(nc.ConnectedUrl(), "nats://"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	inbox := nats.NewInbox()
	if _, err := fmt.Fprintf(conn, "CONNECT {\"headers\":true,\"verbose\":false}\r\nSUB %s 1\r\nHPUB %s %s %d %d\r\n%s\r\n", inbox, subject, inbox, len(header), len(header), header); err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	for !strings.Contains(said.String(), `"seq":`) {
		if _, err := io.CopyN(&said, conn, 1); err != nil {
			t.Fatalf("%v after %q", err, said.String())
		}
	}
}

// A message whose header cannot be read, which a client can store, hides nothing: those before
// it and after it are looked at, and versions are stored where it is in the way.
func TestKeepVersionsBesideHeadersThatCannotBeRead(t *testing.T) {
	t.Parallel()
	for name, header := range map[string]string{
		"a line without a name": "NATS/1.0\r\nbad line\r\n\r\n", "an empty name": "NATS/1.0\r\n: x\r\n\r\n", "no line": "\r\n\r\n",
		"another protocol": "OTHER\r\n\r\n", "no end": "NATS/1.0\r\nx: y", "a status": "NATS/1.0 404 No\r\nbad line\r\n\r\n",
		"what JetStream says": "NATS/1.0\r\nNats-Last-Sequence: 7\r\nNats-Num-Pending: x\r\nNats-Sequence: 9\r\nNats-Time-Stamp: x\r\nStatus: 404\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			store, c, nc := newStore(t)
			last := jetstream.EventsSubject(c.EventsStream, "order-1")
			publishRaw(t, nc, last, header)
			save(t, store, event("b", "order-2", 2), event("c", "order-3", 3))
			publishRaw(t, nc, jetstream.EventsSubject(c.EventsStream, "order-2"), header)
			publishRaw(t, nc, jetstream.SnapshotsSubject(c.EventsStream, "order-3"), header)
			publishRaw(t, nc, last, header)
			save(t, store, event("d", "order-4", 4))
			awaitWindow(t, nc, c, 6)
			if kept := keepOnce(t, store, soon); kept.Looked != 6 || kept.Marked != 3 || nextToKeep(t, nc, c) != 7 {
				t.Errorf("%+v, and the next is %d", kept, nextToKeep(t, nc, c))
			}
			expire(t, nc, c, 1)
			reader := open(t, nc, c)
			for actorID, version := range map[string]int64{"order-2": 2, "order-3": 3, "order-4": 4} {
				wantLatest(t, reader, actorID, version)
			}
		})
	}
}
