package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/stream"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv/link"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv/natsserver"
)

// keep leaves the file of a socket behind, as a killed process does.
func keep(listener net.Listener) { listener.(*net.UnixListener).SetUnlinkOnClose(false) }

// bind makes the streams of a store as the operator makes them, and its binding
// below root.
func bind(t *testing.T, cluster *natsserver.Cluster, root, name string, nc *nats.Conn, more map[string]string) {
	t.Helper()
	store := &v1alpha1.EventStore{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: "1"},
		Spec:       v1alpha1.EventStoreSpec{Namespace: "shop", Replicas: int32(cluster.Size()), Retention: v1alpha1.Retention{MaxAge: "1d"}},
	}
	createStreams(t, nc, store)
	writeBinding(t, filepath.Join(root, name), map[string]string{
		"type": "eventstore", "provider": "nats", "servers": cluster.URL(), "namespace": "shop",
		"stream": store.EventsStreamName(), "snapshot-stream": store.SnapshotsStreamName(),
	})
	writeBinding(t, filepath.Join(root, name), more)
}

func createStreams(t *testing.T, nc *nats.Conn, store *v1alpha1.EventStore) {
	t.Helper()
	js, err := natsjs.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	wanted, err := stream.Desired(store, stream.Home{}, v1alpha1.Defaults{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	for _, w := range wanted {
		if err := natsserver.CreateStream(ctx, js, w.Config); err != nil {
			t.Fatal(err)
		}
	}
}

func writeBinding(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestStoresOfOneBindingRoot(t *testing.T) {
	t.Parallel()
	cluster := natsserver.Run(t, 1)
	nc, root := cluster.Connect(t), t.TempDir()
	bind(t, cluster, root, "orders", nc, nil)
	bind(t, cluster, root, "payments", nc, nil)
	before := cluster.Node(0).NumClients()
	s := startHere(t, map[string]string{"SERVICE_BINDING_ROOT": root})
	s.waitReady("")
	if got := cluster.Node(0).NumClients() - before; got != 1 {
		t.Errorf("%d connections for two stores of one NATS system", got)
	}
	if _, body := s.get(s.api + "/v1/stores"); body != `{"stores":[{"name":"orders","namespace":"shop"},{"name":"payments","namespace":"shop"}]}`+"\n" {
		t.Errorf("stores %s", body)
	}
	if status, body := s.post("payments", `{"id":"1","eventType":"Paid","actorId":"a/b.*> ü","version":7,"data":{"total": 1.50}}`); status != http.StatusCreated ||
		!strings.Contains(body, `"version":7,"sequence":1,"duplicate":false`) {
		t.Errorf("save: %d %s", status, body)
	}
	if status, body := s.post("payments", `{"id":"2","eventType":"Paid","actorId":"a/b.*> ü","version":7}`); status != http.StatusConflict ||
		!strings.Contains(body, `"attemptedVersion":7,"currentVersion":7`) {
		t.Errorf("conflict: %d %s", status, body)
	}
	if status, body := s.get(s.api + "/v1/stores/payments/actors/a%2Fb.*%3E%20%C3%BC/events"); status != http.StatusOK || !strings.Contains(body, `"data":{"total":1.50}`) {
		t.Errorf("events: %d %s", status, body)
	}
	if _, body := s.get(s.api + "/v1/stores/orders/actors/a%2Fb.*%3E%20%C3%BC/version"); !strings.Contains(body, `"version":0`) {
		t.Errorf("the event is in the other store: %s", body)
	}
	if err := s.stop(); err != nil {
		t.Error(err)
	}
}

// The sidecar starts before NATS does, says what it waits for, and answers in
// bounded time meanwhile.
func TestNATSThatIsNotThereYet(t *testing.T) {
	t.Parallel()
	cluster := natsserver.Run(t, 1)
	root := t.TempDir()
	bind(t, cluster, root, "orders", cluster.Connect(t), nil)
	cluster.StopNode(0)
	s := startHere(t, map[string]string{"SERVICE_BINDING_ROOT": root}, "--request-timeout=2s")
	s.waitReady("store orders is not ready")
	event := `{"id":"1","eventType":"T","actorId":"order-1","version":1}`
	if status, body := s.post("orders", event); status != http.StatusServiceUnavailable || !strings.Contains(body, `"code":"unavailable"`) {
		t.Errorf("save without NATS: %d %s", status, body)
	}
	if err := cluster.StartNode(0); err != nil {
		t.Fatal(err)
	}
	s.waitReady("")
	// What was answered as unavailable was not sent later.
	if _, body := s.get(s.api + "/v1/stores/orders/actors/order-1/version"); !strings.Contains(body, `"version":0`) {
		t.Errorf("a save that was refused was stored: %s", body)
	}
	if status, body := s.post("orders", event); status != http.StatusCreated || !strings.Contains(body, `"duplicate":false`) {
		t.Errorf("save: %d %s", status, body)
	}
}

// Credentials that the servers refuse can be replaced in the binding.
func TestCredentialsAreReadAgain(t *testing.T) {
	t.Parallel()
	cluster := natsserver.Run(t, 1, natsserver.WithUser("app", "right"))
	root := t.TempDir()
	bind(t, cluster, root, "orders", cluster.Connect(t, nats.UserInfo("app", "right")), map[string]string{"username": "app", "password": "wrong"})
	s := startHere(t, map[string]string{"SERVICE_BINDING_ROOT": root})
	s.waitReady("store orders is not ready")
	writeBinding(t, filepath.Join(root, "orders"), map[string]string{"password": "right\n"})
	s.waitReady("")
}

// buildDir is where build has put the binary; empty when nothing was built.
var buildDir string

// build makes the binary, with the tag of the image, once for all tests.
var build = sync.OnceValues(func() (string, error) {
	var err error
	if buildDir, err = os.MkdirTemp("", "sidecar-"); err != nil {
		return "", err
	}
	path := filepath.Join(buildDir, "aether-sidecar")
	out, err := exec.Command("go", "build", "-tags", "grpcnotrace", "-o", path, ".").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build the sidecar: %w: %s", err, out)
	}
	return path, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if buildDir != "" {
		_ = os.RemoveAll(buildDir)
	}
	os.Exit(code)
}

// startBinary runs the program in a process of its own; stop is SIGTERM.
func startBinary(t *testing.T, env map[string]string, args ...string) *started {
	t.Helper()
	path, err := build()
	if err != nil {
		t.Fatal(err)
	}
	command := exec.Command(path, append([]string{"--listen=127.0.0.1:0", "--health-listen=127.0.0.1:0"}, args...)...)
	for name, value := range env {
		command.Env = append(command.Env, name+"="+value)
	}
	logs, err := command.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	s := &started{T: t}
	end := func(signal os.Signal) error {
		if err := command.Process.Signal(signal); err != nil {
			return err
		}
		return command.Wait()
	}
	s.stop = sync.OnceValue(func() error { return end(syscall.SIGTERM) })
	s.kill = func() { _ = end(os.Kill) }
	t.Cleanup(func() { _ = s.stop() })
	s.readLogs(logs)
	return s
}

// writer saves events of one actor until it is told to stop, and remembers what
// was acknowledged.
type writer struct {
	acknowledged []eventstore.Saved
	err          error
}

func (w *writer) write(ctx context.Context, store eventstore.Store, actorID string, saved chan<- struct{}) {
	for n := 1; ctx.Err() == nil; n++ {
		answer, err := store.SaveEvent(ctx, newEvent(fmt.Sprintf("%s-%d", actorID, n), actorID))
		if err != nil {
			w.err = err
			return
		}
		w.acknowledged = append(w.acknowledged, answer)
		select {
		case saved <- struct{}{}:
		default:
		}
	}
}

// check reads back what was acknowledged, through another sidecar.
func (w *writer) check(t *testing.T, store eventstore.Store, actorID string) {
	t.Helper()
	events, err := store.GetEvents(t.Context(), actorID, 0)
	if err != nil {
		t.Fatal(err)
	}
	// One more may be stored: the one without an answer.
	if len(events) < len(w.acknowledged) || len(events) > len(w.acknowledged)+1 {
		t.Errorf("%d events of %s are stored, and %d were acknowledged", len(events), actorID, len(w.acknowledged))
		return
	}
	for i, saved := range w.acknowledged {
		if events[i].ID != saved.ID || events[i].Version != saved.Version || events[i].Sequence != saved.Sequence {
			t.Errorf("stored %s at version %d, acknowledged %+v", events[i].ID, events[i].Version, saved)
		}
	}
}

func TestSIGTERMLosesNothingThatWasAcknowledged(t *testing.T) {
	t.Parallel()
	for _, size := range []int{1, 3} {
		t.Run(fmt.Sprintf("%d nodes", size), func(t *testing.T) {
			t.Parallel()
			cluster := natsserver.Run(t, size)
			root := t.TempDir()
			bind(t, cluster, root, "orders", cluster.Connect(t), nil)
			env := map[string]string{"SERVICE_BINDING_ROOT": root}
			first, second := startBinary(t, env), startHere(t, env)
			first.waitReady("")
			second.waitReady("")

			const writers, each = 8, 5
			ctx, cancel := context.WithTimeout(t.Context(), deadline)
			defer cancel()
			saved := make(chan struct{})
			var all [writers]writer
			var writing sync.WaitGroup
			for i := range all {
				store := first.open("orders")
				writing.Go(func() { all[i].write(ctx, store, fmt.Sprintf("order-%d", i), saved) })
			}
			// A client that follows does not hold the sidecar up.
			following, err := first.open("orders").Subscribe(ctx, eventstore.SubscribeOptions{})
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = following.Close() }()
			for range writers * each {
				<-saved
			}
			if err := first.stop(); err != nil {
				t.Errorf("the sidecar ended with %v after SIGTERM", err)
			}
			writing.Wait()
			for i := range all {
				if !errors.Is(all[i].err, eventstore.ErrUnavailable) && !errors.Is(all[i].err, eventstore.ErrUnknownOutcome) {
					t.Errorf("a save after the end failed with %v", all[i].err)
				}
				all[i].check(t, second.open("orders"), fmt.Sprintf("order-%d", i))
			}
		})
	}
}

// One NATS node of three stops while events are saved: the saves go on.
func TestNATSNodeThatStops(t *testing.T) {
	t.Parallel()
	cluster := natsserver.Run(t, 3)
	root := t.TempDir()
	bind(t, cluster, root, "orders", cluster.Connect(t), nil)
	s := startHere(t, map[string]string{"SERVICE_BINDING_ROOT": root})
	s.waitReady("")
	store := s.open("orders")
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	var w writer
	for n := 1; n <= 60; n++ {
		if n == 20 {
			cluster.StopNode(0)
		}
		event := newEvent(fmt.Sprintf("e-%d", n), "order-1")
		event.Version = int64(n)
		saved, err := store.SaveEvent(ctx, event)
		for err != nil && ctx.Err() == nil && (errors.Is(err, eventstore.ErrUnavailable) || errors.Is(err, eventstore.ErrUnknownOutcome)) {
			// What an application should do: save the same event again.
			saved, err = store.SaveEvent(ctx, event)
		}
		if err != nil {
			t.Fatal(err)
		}
		w.acknowledged = append(w.acknowledged, saved)
	}
	w.check(t, store, "order-1")
}

// NATS is gone for a while: calls are answered as unavailable meanwhile, and
// everything is there again by itself.
func TestNATSThatGoesAway(t *testing.T) {
	t.Parallel()
	cluster := natsserver.Run(t, 1)
	root := t.TempDir()
	bind(t, cluster, root, "orders", cluster.Connect(t), nil)
	s := startBinary(t, map[string]string{"SERVICE_BINDING_ROOT": root}, "--request-timeout=3s")
	s.waitReady("")
	event := func(n int) string {
		return fmt.Sprintf(`{"id":"%d","eventType":"T","actorId":"order-1","version":%d}`, n, n)
	}
	if status, body := s.post("orders", event(1)); status != http.StatusCreated {
		t.Fatalf("save: %d %s", status, body)
	}
	followed, err := s.open("orders").Subscribe(t.Context(), eventstore.SubscribeOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = followed.Close() }()
	cluster.StopNode(0)
	s.waitReady("store orders is not ready")
	actor := s.api + "/v1/stores/orders/actors/order-1"
	if status, body := s.post("orders", event(2)); status != http.StatusServiceUnavailable || !strings.Contains(body, `"code":"unavailable"`) ||
		!strings.Contains(body, "the connection to NATS is lost") {
		t.Errorf("save without NATS: %d %s", status, body)
	}
	for _, path := range []string{"/events", "/version", "/snapshot"} {
		if status, body := s.get(actor + path); status != http.StatusServiceUnavailable || !strings.Contains(body, `"code":"unavailable"`) {
			t.Errorf("%s without NATS: %d %s", path, status, body)
		}
	}
	if _, body := s.get(s.health + "/metrics"); !strings.Contains(body, `aether_store_connected{store="orders"} 0`) {
		t.Error("the metrics do not tell that the connection is lost")
	}
	if err := cluster.StartNode(0); err != nil {
		t.Fatal(err)
	}
	s.waitReady("")
	if status, body := s.post("orders", event(2)); status != http.StatusCreated || !strings.Contains(body, `"duplicate":false`) {
		t.Errorf("save: %d %s", status, body)
	}
	if status, body := s.get(actor + "/events"); status != http.StatusOK || strings.Count(body, `"eventType"`) != 2 {
		t.Errorf("events: %d %s", status, body)
	}
	// A stream that was open goes on where it was.
	for version := int64(1); version <= 2; version++ {
		if got, err := followed.Next(t.Context()); err != nil || got.Version != version {
			t.Errorf("followed %+v, %v, want version %d", got, err, version)
		}
	}
}

// A server whose machine has lost its power closes no connection: the sidecar leaves
// it, and goes on through another of its cluster.
func TestServerThatIsSilent(t *testing.T) {
	t.Parallel()
	cluster := natsserver.Run(t, 3)
	root := t.TempDir()
	silent := link.To(t, cluster.URLs()[0])
	bind(t, cluster, root, "orders", cluster.Connect(t), map[string]string{"servers": silent.URL()})
	s := startHere(t, map[string]string{"SERVICE_BINDING_ROOT": root})
	s.waitReady("")
	event := func(n int) string {
		return fmt.Sprintf(`{"id":"%d","eventType":"T","actorId":"order-1","version":%d}`, n, n)
	}
	if status, body := s.post("orders", event(1)); status != http.StatusCreated {
		t.Fatalf("save: %d %s", status, body)
	}
	silent.Silence()
	testenv.Eventually(t, time.Minute, "a save", func() error {
		if status, body := s.post("orders", event(2)); status != http.StatusCreated {
			return fmt.Errorf("%d %s", status, body)
		}
		return nil
	})
}
