package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/KimMachineGun/automemlimit/memlimit"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
	client "git.flowmade.one/flowmade-one/aether-operator/api/eventstore/sidecar"
)

// deadline bounds every wait of these tests.
const deadline = 2 * time.Minute

// noEnvironment is an environment without variables.
func noEnvironment(string) string { return "" }

func environment(variables map[string]string) func(string) string {
	return func(name string) string { return variables[name] }
}

// started is a sidecar that serves, in this process or its own.
type started struct {
	*testing.T
	api, health string
	// stop tells it to end and waits until it has; its error is how it ended.
	stop func() error
	// kill ends a process of its own in the middle of what it does.
	kill func()
}

// startHere runs the program in this process.
func startHere(t *testing.T, env map[string]string, args ...string) *started {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	logs, writer := io.Pipe()
	ended := make(chan error, 1)
	args = append(args, "--listen=127.0.0.1:0", "--health-listen=127.0.0.1:0")
	go func() {
		err := run(ctx, args, environment(env), io.Discard, writer)
		_ = writer.CloseWithError(io.EOF)
		ended <- err
	}()
	s := &started{T: t}
	var once sync.Once
	var stopErr error
	s.stop = func() error {
		once.Do(func() { cancel(); stopErr = <-ended })
		return stopErr
	}
	t.Cleanup(func() { _ = s.stop() })
	s.readLogs(logs)
	return s
}

// readLogs waits for the line that tells the addresses, and keeps reading.
func (s *started) readLogs(logs io.Reader) {
	s.Helper()
	serving := make(chan [2]string, 1)
	var text bytes.Buffer
	done := make(chan struct{})
	go func() {
		defer close(done)
		for lines := bufio.NewScanner(logs); lines.Scan(); {
			var line struct {
				Msg    string
				API    []string
				Health string
			}
			if json.Unmarshal(lines.Bytes(), &line) == nil && line.Msg == "serving" {
				serving <- [2]string{"http://" + line.API[0], "http://" + line.Health}
				continue
			}
			text.Write(append(lines.Bytes(), '\n'))
		}
	}()
	s.Cleanup(func() {
		if s.Failed() {
			_ = s.stop()
			<-done
			s.Logf("log of the sidecar:\n%s", &text)
		}
	})
	select {
	case addresses := <-serving:
		s.api, s.health = addresses[0], addresses[1]
	case <-done:
		s.Fatalf("the sidecar ended before it served: %v\n%s", s.stop(), &text)
	case <-time.After(deadline):
		s.Fatal("the sidecar does not serve")
	}
}

// get is the status and the body of a GET.
func (s *started) get(url string) (int, string) {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.Context(), deadline)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		s.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		s.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		s.Fatal(err)
	}
	return response.StatusCode, string(body)
}

func (s *started) post(store, event string) (int, string) {
	s.Helper()
	response, err := (&http.Client{Timeout: deadline}).Post(s.api+"/v1/stores/"+store+"/events", "application/json", strings.NewReader(event))
	if err != nil {
		s.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		s.Fatal(err)
	}
	return response.StatusCode, string(body)
}

// waitReady waits for readyz to answer 200, or with wanted in its body.
func (s *started) waitReady(wanted string) {
	s.Helper()
	var status int
	var body string
	for end := time.Now().Add(deadline); time.Now().Before(end); {
		if status, body = s.get(s.health + "/readyz"); wanted == "" && status == http.StatusOK || wanted != "" && strings.Contains(body, wanted) {
			return
		}
	}
	s.Fatalf("readyz answers %d %s", status, body)
}

func (s *started) open(store string) *client.Store {
	s.Helper()
	opened, err := client.New(s.api, store)
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { _ = opened.Close() })
	return opened
}

func TestMemory(t *testing.T) {
	t.Parallel()
	socket := filepath.Join(t.TempDir(), "s")
	s := startHere(t, map[string]string{"AETHER_SOCKET": socket, "AETHER_STORES": "ignored"}, "--memory", "--store", "orders", "--store", "payments")
	s.waitReady("")
	if _, body := s.get(s.api + "/v1/stores"); body != `{"stores":[{"name":"orders"},{"name":"payments"}]}`+"\n" {
		t.Errorf("stores %s", body)
	}
	if status, body := s.post("orders", `{"id":"1","eventType":"OrderPlaced","actorId":"order-1","data":{"total":42}}`); status != http.StatusCreated {
		t.Errorf("save: %d %s", status, body)
	}
	overSocket, err := client.New("unix://"+socket, "")
	if err != nil {
		t.Fatal(err)
	}
	events, err := overSocket.GetEvents(t.Context(), "order-1", 0)
	if err != nil || len(events) != 1 || string(events[0].Data) != `{"total":42}` {
		t.Errorf("over the socket: %+v, %v", events, err)
	}
	if _, body := s.get(s.health + "/metrics"); !strings.Contains(body, `aether_store_events_saved_total{store="orders"} 1`) {
		t.Error("the metrics of the store are missing")
	}
	if err := s.stop(); err != nil {
		t.Errorf("stopped with %v", err)
	}
	if _, err := os.Stat(socket); err == nil {
		t.Error("the socket was left behind")
	}
}

// A test against the sidecar need not wait for minutes to see what production forgets.
func TestDuplicateWindow(t *testing.T) {
	t.Parallel()
	s := startHere(t, nil, "--memory", "--store", "orders", "--duplicate-window", "1ns")
	s.waitReady("")
	for _, actorID := range []string{"order-1", "order-2"} {
		if status, body := s.post("orders", `{"id":"1","eventType":"OrderPlaced","actorId":"`+actorID+`"}`); status != http.StatusCreated {
			t.Errorf("%s: %d %s", actorID, status, body)
		}
	}
}

// A socket that a killed process left is replaced; one in use and a file are not.
func TestSocket(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	inUse := filepath.Join(dir, "in-use")
	startHere(t, map[string]string{"AETHER_SOCKET": inUse}, "--memory", "--store=a")
	left, file := filepath.Join(dir, "left"), filepath.Join(dir, "file")
	listener, err := listenUnix(left)
	if err != nil {
		t.Fatal(err)
	}
	keep(listener)
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	startHere(t, map[string]string{"AETHER_SOCKET": left}, "--memory", "--store=a")
	for path, want := range map[string]string{inUse: "in use", file: "is no socket"} {
		err := run(t.Context(), []string{"--memory", "--store=a", "--listen=127.0.0.1:0", "--health-listen=127.0.0.1:0"}, environment(map[string]string{"AETHER_SOCKET": path}), io.Discard, io.Discard)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %q", path, err, want)
		}
	}
}

func TestOptions(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	for _, dir := range []string{"orders", "invoices"} {
		if err := os.Mkdir(filepath.Join(root, dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	bound := map[string]string{"SERVICE_BINDING_ROOT": root}
	for name, c := range map[string]struct {
		args []string
		env  map[string]string
		want []string
	}{
		"flags win over the environment": {[]string{"--store=b", "--store=a"}, map[string]string{"SERVICE_BINDING_ROOT": root, "AETHER_STORES": "c"}, []string{"b", "a"}},
		"environment":                    {nil, map[string]string{"SERVICE_BINDING_ROOT": root, "AETHER_STORES": "c, b,"}, []string{"c", "b"}},
		"every binding":                  {nil, bound, []string{"invoices", "orders"}},
		"memory":                         {[]string{"--memory"}, map[string]string{"AETHER_STORES": "c"}, []string{"c"}},
	} {
		o, err := parseOptions(c.args, environment(c.env), io.Discard)
		if err != nil || fmt.Sprint(o.stores) != fmt.Sprint(c.want) {
			t.Errorf("%s: stores %q, %v, want %q", name, o.stores, err, c.want)
		}
	}
}

func TestRefusedOptions(t *testing.T) {
	t.Parallel()
	empty := t.TempDir()
	for want, c := range map[string]struct {
		args []string
		env  map[string]string
	}{
		"--memory has no bindings":                   {[]string{"--memory"}, nil},
		"SERVICE_BINDING_ROOT is not set":            {nil, nil},
		"there is no binding below":                  {nil, map[string]string{"SERVICE_BINDING_ROOT": empty}},
		"no such file":                               {nil, map[string]string{"SERVICE_BINDING_ROOT": filepath.Join(empty, "none")}},
		"type is missing":                            {[]string{"--store=orders"}, map[string]string{"SERVICE_BINDING_ROOT": empty}},
		`"../orders" is no DNS label`:                {[]string{"--store=../orders"}, map[string]string{"SERVICE_BINDING_ROOT": empty}},
		"store a is named twice":                     {[]string{"--memory", "--store=a", "--store=a"}, nil},
		`argument "orders" is not understood`:        {[]string{"orders"}, nil},
		`--log-level is "loud"`:                      {[]string{"--log-level=loud"}, nil},
		"unknown flag":                               {[]string{"--colour"}, nil},
		"--max-body-bytes not below":                 {[]string{"--memory", "--store=a", "--max-body-bytes=-1"}, nil},
		"bodies of 1000000000 bytes do not fit":      {[]string{"--memory", "--store=a", "--max-body-bytes=1000000000"}, nil},
		"--request-timeout, --max-calls":             {[]string{"--memory", "--store=a", "--request-timeout=0s"}, nil},
		"--duplicate-window must be above 0":         {[]string{"--memory", "--store=a", "--duplicate-window=0s"}, nil},
		"--duplicate-window is for --memory":         {[]string{"--duplicate-window=1s"}, nil},
		`--allow-origin is "localhost:3000"`:         {[]string{"--memory", "--store=a", "--allow-origin=localhost:3000"}, nil},
		"listen for the API, --listen":               {[]string{"--memory", "--store=a", "--listen=256.0.0.1:1"}, nil},
		"listen for health and metrics, --health-li": {[]string{"--memory", "--store=a", "--listen=127.0.0.1:0", "--health-listen=256.0.0.1:1"}, nil},
	} {
		err := run(t.Context(), c.args, environment(c.env), io.Discard, io.Discard)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
}

func TestVersionAndHelp(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	if err := run(t.Context(), []string{"--version"}, noEnvironment, &out, io.Discard); err != nil || !strings.HasPrefix(out.String(), "aether-sidecar ") {
		t.Errorf("version %q, %v", &out, err)
	}
	out.Reset()
	if err := run(t.Context(), []string{"--help"}, noEnvironment, io.Discard, &out); err != nil || !strings.Contains(out.String(), "--max-body-bytes") {
		t.Errorf("help %q, %v", &out, err)
	}
}

func TestRedacted(t *testing.T) {
	t.Parallel()
	got := fmt.Sprint(redacted([]string{"nats://a:4222", "tls://user:p@ss@b:4222", "token@c"}))
	if want := "[nats://a:4222 tls://***@b:4222 ***@c]"; got != want {
		t.Errorf("redacted %s, want %s", got, want)
	}
}

func newEvent(id, actorID string) eventstore.Event {
	return eventstore.Event{ID: id, EventType: "Tested", ActorID: actorID, Data: []byte(`{"n":1.50}`)}
}

// Not parallel: the limit is that of the whole process.
func TestLimitMemory(t *testing.T) {
	// It is as before when the test ends, and until then there is none.
	t.Setenv("GOMEMLIMIT", "")
	if err := os.Unsetenv("GOMEMLIMIT"); err != nil {
		t.Fatal(err)
	}
	before := debug.SetMemoryLimit(-1)
	percent, procs := debug.SetGCPercent(100), runtime.GOMAXPROCS(0)
	t.Cleanup(func() { debug.SetMemoryLimit(before); debug.SetGCPercent(percent); runtime.GOMAXPROCS(procs) })
	for _, c := range []struct {
		name      string
		container memlimit.Provider
		want      int64
		percent   int
		procs     int
		err       error
	}{
		{"no container", func() (uint64, error) { return 0, memlimit.ErrNoCgroup }, before, 100, 8, nil},
		{"no limit", func() (uint64, error) { return 0, memlimit.ErrNoLimit }, math.MaxInt64, 100, 8, nil},
		{"unreadable", func() (uint64, error) { return 0, fs.ErrPermission }, math.MaxInt64, 100, 8, fs.ErrPermission},
		{"a large limit", memlimit.Limit(4294967290), 3435973832, lazyGC, 8, nil},
		{"the default limit", memlimit.Limit(64 << 20), 53687091, lazyGC, 2, nil},
		{"a small limit", memlimit.Limit(20 << 20), 16777216, lazyGC, 1, nil},
	} {
		runtime.GOMAXPROCS(8)
		if err := limitMemory(c.container); !errors.Is(err, c.err) {
			t.Errorf("%s: %v, want %v", c.name, err, c.err)
		}
		if got := debug.SetMemoryLimit(-1); got != c.want {
			t.Errorf("%s: the limit is %d, want %d", c.name, got, c.want)
		}
		got := debug.SetGCPercent(100)
		debug.SetGCPercent(got)
		if got != c.percent {
			t.Errorf("%s: garbage is collected at %d %%, want %d %%", c.name, got, c.percent)
		}
		if got := runtime.GOMAXPROCS(0); got != c.procs {
			t.Errorf("%s: %d processors are used, want %d", c.name, got, c.procs)
		}
	}
}
