package main

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv/natsserver"
)

// line is between the sidecar and NATS, and can keep back what NATS says.
type line struct {
	listener net.Listener
	// said receives what the sidecar sends.
	said chan []byte
	// held is locked while nothing comes back.
	held sync.RWMutex
}

func newLine(t *testing.T, to string) *line {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	l := &line{listener: listener, said: make(chan []byte, 10_000)}
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", to)
			if err != nil {
				_ = client.Close()
				return
			}
			go l.pass(server, client, func(p []byte) { l.said <- bytes.Clone(p) })
			go l.pass(client, server, func([]byte) { l.held.RLock(); defer l.held.RUnlock() })
		}
	}()
	return l
}

func (l *line) pass(to io.WriteCloser, from io.ReadCloser, before func([]byte)) {
	defer func() { _, _ = to.Close(), from.Close() }()
	buffer := make([]byte, 64<<10)
	for {
		n, err := from.Read(buffer)
		if n > 0 {
			before(buffer[:n])
			if _, err := to.Write(buffer[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// A save whose answer NATS still owes is answered after SIGTERM, and the sidecar
// ends then.
func TestSIGTERMAnswersWhatIsUnderWay(t *testing.T) {
	t.Parallel()
	cluster := natsserver.Run(t, 1)
	root := t.TempDir()
	bind(t, cluster, root, "orders", cluster.Connect(t), nil)
	l := newLine(t, strings.TrimPrefix(cluster.URL(), "nats://"))
	writeBinding(t, filepath.Join(root, "orders"), map[string]string{"servers": "nats://" + l.listener.Addr().String()})
	s := startBinary(t, map[string]string{"SERVICE_BINDING_ROOT": root})
	s.waitReady("")
	// The next save of this actor asks nothing, and is sent at once.
	if status, body := s.post("orders", `{"id":"first","eventType":"T","actorId":"order-1","version":1}`); status != http.StatusCreated {
		t.Fatalf("save: %d %s", status, body)
	}
	l.held.Lock()
	type answer struct {
		status int
		body   string
	}
	answered := make(chan answer, 1)
	go func() {
		status, body := s.post("orders", `{"id":"under-way","eventType":"T","actorId":"order-1","version":2}`)
		answered <- answer{status, body}
	}()
	var sent []byte
	for !bytes.Contains(sent, []byte("Nats-Msg-Id: under-way")) {
		select {
		case got := <-answered:
			l.held.Unlock()
			t.Fatalf("answered %d %s before NATS has", got.status, got.body)
		case part := <-l.said:
			sent = append(sent, part...)
		}
	}
	ended := make(chan error, 1)
	go func() { ended <- s.stop() }()
	s.waitReady("the sidecar stops")
	l.held.Unlock()
	if got := <-answered; got.status != http.StatusCreated || !strings.Contains(got.body, `"version":2`) {
		t.Errorf("a save under way was answered %d %s", got.status, got.body)
	}
	if err := <-ended; err != nil {
		t.Errorf("the sidecar ended with %v", err)
	}
}
