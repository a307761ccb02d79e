package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/jetstream"
	client "git.flowmade.one/flowmade-one/aether-operator/api/eventstore/sidecar"
	eventstorev1 "git.flowmade.one/flowmade-one/aether-operator/api/eventstore/v1"
	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/v1/eventstorev1connect"
)

// memoryLimit is what the sidecar takes from the memory limit that the injector
// sets, 64Mi: eight tenths.
const memoryLimit = "53687091"

// sidecarProcess is the real program, on a port and a socket.
type sidecarProcess struct {
	command     *exec.Cmd
	api, socket string
	// own is what it had of its own at most, in MiB.
	own float64
}

// startSidecar builds and starts the sidecar for a store, and waits until it is
// ready.
func startSidecar(ctx context.Context, s *system, config jetstream.Config) (*sidecarProcess, error) {
	path := filepath.Join(s.dir, "aether-sidecar")
	// As Dockerfile builds it.
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-tags", "grpcnotrace", "-ldflags", "-s -w", "-o", path, "./cmd/sidecar")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build the sidecar: %w: %s", err, out)
	}
	binding := filepath.Join(s.dir, "bindings", config.Store)
	if err := os.MkdirAll(binding, 0o700); err != nil {
		return nil, err
	}
	for name, content := range map[string]string{
		"type": "eventstore", "provider": "nats", "servers": s.url, "namespace": config.Namespace,
		"stream": config.EventsStream, "snapshot-stream": config.SnapshotsStream,
	} {
		if err := os.WriteFile(filepath.Join(binding, name), []byte(content), 0o600); err != nil {
			return nil, err
		}
	}
	p := &sidecarProcess{command: exec.CommandContext(ctx, path, "--listen=127.0.0.1:0", "--health-listen=127.0.0.1:0"), socket: filepath.Join(s.dir, "sidecar")}
	p.command.Env = []string{"SERVICE_BINDING_ROOT=" + filepath.Dir(binding), "AETHER_SOCKET=" + p.socket, "GOMEMLIMIT=" + memoryLimit, "GOGC=200"}
	logs, err := p.command.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := p.command.Start(); err != nil {
		return nil, err
	}
	return p, p.waitReady(ctx, logs)
}

func (p *sidecarProcess) waitReady(ctx context.Context, logs io.Reader) error {
	lines := bufio.NewScanner(logs)
	for p.api == "" && lines.Scan() {
		var line struct {
			API    []string
			Health string
		}
		if json.Unmarshal(lines.Bytes(), &line) == nil && len(line.API) > 0 {
			p.api = line.API[0]
			for {
				if answer, err := http.Get("http://" + line.Health + "/readyz"); err == nil {
					_ = answer.Body.Close()
					if answer.StatusCode == http.StatusOK {
						break
					}
				}
				if ctx.Err() != nil {
					return ctx.Err()
				}
			}
		}
	}
	if p.api == "" {
		return errors.New("the sidecar ended before it served")
	}
	go func() { _, _ = io.Copy(io.Discard, logs) }()
	return nil
}

func (p *sidecarProcess) stop() error {
	return errors.Join(p.command.Process.Signal(syscall.SIGTERM), p.command.Wait())
}

// mib is a value of the process's status, such as VmRSS, what is resident now, and
// VmHWM, what was at most.
func (p *sidecarProcess) mib(key string) float64 {
	// A process that has ended has none.
	status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.command.Process.Pid))
	for line := range strings.Lines(string(status)) {
		var kib float64
		if value, is := strings.CutPrefix(line, key+":"); is {
			if _, err := fmt.Sscanf(value, "%f kB", &kib); err == nil {
				return kib / 1024
			}
		}
	}
	return 0
}

// clockTick is the unit of processor time in /proc, on every Linux that Go runs on.
const clockTick = 10 * time.Millisecond

// processor is the processor time that the process has taken.
func (p *sidecarProcess) processor() time.Duration {
	// A process that has ended has none.
	stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.command.Process.Pid))
	// The name, in parentheses, may hold anything; user and system time are the 12th
	// and 13th fields after it.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) < 13 {
		return 0
	}
	user, _ := strconv.Atoi(fields[11])
	system, _ := strconv.Atoi(fields[12])
	return time.Duration(user+system) * clockTick
}

// watch notes what the process has of its own at most, without the pages of its
// file, which the kernel takes back when it needs them.
func (p *sidecarProcess) watch(ctx context.Context) {
	for ctx.Err() == nil {
		p.own = max(p.own, p.mib("RssAnon"))
		select {
		case <-ctx.Done():
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func (p *sidecarProcess) most(b *bench, what, more string) {
	b.add("resident memory of the sidecar, at most, under "+what, "at most 64 MiB", fmt.Sprintf("%.1f MiB", p.own),
		"RssAnon, read every 5 ms; with the pages of its file (VmHWM) %.1f MiB; GOMEMLIMIT as it is with a limit of 64Mi%s", p.mib("VmHWM"), more)
}

// way is one way to a store.
type way struct {
	name string
	// save and read are for any number of goroutines.
	save func(ctx context.Context, event eventstore.Event) error
	read func(ctx context.Context, actorID string) (int, error)
	aims bool
}

func storeWay(name string, store eventstore.Store, aims bool) way {
	return way{name: name, aims: aims,
		save: func(ctx context.Context, event eventstore.Event) error {
			_, err := store.SaveEvent(ctx, event)
			return err
		},
		read: func(ctx context.Context, actorID string) (int, error) {
			events, err := store.GetEvents(ctx, actorID, 0)
			return len(events), err
		}}
}

// grpcWay is gRPC's own client.
func grpcWay(name, target string) (way, func() error, error) {
	conn, err := grpc.NewClient(target, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return way{}, nil, err
	}
	return way{name: name,
		save: func(ctx context.Context, event eventstore.Event) error {
			return conn.Invoke(ctx, eventstorev1connect.EventStoreServiceSaveEventProcedure,
				&eventstorev1.SaveEventRequest{Event: eventstorev1.FromEvent(&event)}, &eventstorev1.SaveEventResponse{})
		},
		read: func(ctx context.Context, actorID string) (int, error) {
			var page eventstorev1.GetEventsResponse
			err := conn.Invoke(ctx, eventstorev1connect.EventStoreServiceGetEventsProcedure, &eventstorev1.GetEventsRequest{ActorId: actorID}, &page)
			return len(page.GetEvents()), err
		}}, conn.Close, nil
}

// jsonWay is HTTP with JSON, as any language has it.
func jsonWay(name string, dial func(ctx context.Context, network, address string) (net.Conn, error), base string) way {
	plain := &http.Client{Transport: &http.Transport{DialContext: dial, MaxIdleConnsPerHost: 64}}
	call := func(ctx context.Context, method, path string, body io.Reader, want int) ([]byte, error) {
		request, err := http.NewRequestWithContext(ctx, method, base+path, body)
		if err != nil {
			return nil, err
		}
		answer, err := plain.Do(request)
		if err != nil {
			return nil, err
		}
		defer func() { _ = answer.Body.Close() }()
		content, err := io.ReadAll(answer.Body)
		if err == nil && answer.StatusCode != want {
			err = fmt.Errorf("%s %s answered %d: %s", method, path, answer.StatusCode, content)
		}
		return content, err
	}
	return way{name: name,
		save: func(ctx context.Context, event eventstore.Event) error {
			body, err := json.Marshal(map[string]any{
				"id": event.ID, "eventType": event.EventType, "actorId": event.ActorID, "version": event.Version, "data": json.RawMessage(event.Data),
			})
			if err == nil {
				_, err = call(ctx, http.MethodPost, "/v1/stores/sidecar/events", bytes.NewReader(body), http.StatusCreated)
			}
			return err
		},
		read: func(ctx context.Context, actorID string) (int, error) {
			content, err := call(ctx, http.MethodGet, "/v1/stores/sidecar/actors/"+actorID+"/events", nil, http.StatusOK)
			if err != nil {
				return 0, err
			}
			var page struct{ Events []json.RawMessage }
			err = json.Unmarshal(content, &page)
			return len(page.Events), err
		}}
}

// sidecars measures the sidecar against the library that it is made of.
func (b *bench) sidecars(ctx context.Context) (err error) {
	s, err := b.start(ctx, 1)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	store, config, err := s.store(ctx, "sidecar", 1)
	if err != nil {
		return err
	}
	p, err := startSidecar(ctx, s, config)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.stop()) }()
	// What starting took is given back by then.
	idle := time.NewTimer(5 * time.Second)
	<-idle.C
	b.add("resident memory of the sidecar, idle", "at most 20 MiB", fmt.Sprintf("%.1f MiB", p.mib("VmRSS")),
		"VmRSS with one store, connected and ready; %.1f MiB without the pages of its file", p.mib("RssAnon"))
	ways, closeWays, err := waysTo(store, p)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeWays()) }()
	watching, stopWatching := context.WithCancel(ctx)
	var watch errgroup.Group
	watch.Go(func() error { p.watch(watching); return nil })
	err = b.compare(ctx, p, ways)
	stopWatching()
	if err = errors.Join(err, watch.Wait()); err != nil {
		return err
	}
	p.most(b, "64 writers and readers of small events", "")
	if err := b.pressed(ctx, p, ways); err != nil {
		return err
	}
	return nil
}

// waysTo are the library itself, and all that the sidecar speaks.
func waysTo(store eventstore.Store, p *sidecarProcess) ([]way, func() error, error) {
	overSocket, err := client.New("unix://"+p.socket, "")
	if err != nil {
		return nil, nil, err
	}
	overTCP, err := client.New("http://"+p.api, "")
	if err != nil {
		return nil, nil, err
	}
	grpcSocket, closeSocket, err := grpcWay("gRPC, socket", "unix://"+p.socket)
	if err != nil {
		return nil, nil, err
	}
	grpcTCP, closeTCP, err := grpcWay("gRPC, TCP", p.api)
	if err != nil {
		return nil, nil, err
	}
	dialSocket := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", p.socket)
	}
	return []way{
			storeWay("the library", store, false),
			storeWay("api/eventstore/sidecar (Connect), socket", overSocket, true),
			storeWay("api/eventstore/sidecar (Connect), TCP", overTCP, false),
			grpcSocket, grpcTCP,
			jsonWay("HTTP and JSON, socket", dialSocket, "http://localhost"),
			jsonWay("HTTP and JSON, TCP", nil, "http://"+p.api),
		}, func() error {
			return errors.Join(overSocket.Close(), overTCP.Close(), closeSocket(), closeTCP())
		}, nil
}

// compare measures each way against the first, in turn.
func (b *bench) compare(ctx context.Context, p *sidecarProcess, ways []way) error {
	const writers, times = 64, 60
	read := actor(0)
	for version := int64(1); version <= eventsOfActor; version++ {
		if err := ways[0].save(ctx, newEvent(read, version)); err != nil {
			return err
		}
	}
	var saves, reads, rates []func() error
	processor := make([]time.Duration, len(ways))
	savesTook, readsTook := make([][]time.Duration, len(ways)), make([][]time.Duration, len(ways))
	for i, w := range ways {
		one := w.saver(fmt.Sprintf("one-%d", i))
		saves = append(saves, timed(ctx, 200, &savesTook[i], one))
		reads = append(reads, timed(ctx, 60, &readsTook[i], func(ctx context.Context) error {
			n, err := w.read(ctx, read)
			if err == nil && n != eventsOfActor {
				err = fmt.Errorf("%w: %d", errShort, n)
			}
			return err
		}))
		var many []func(context.Context) error
		for n := range writers {
			many = append(many, w.saver(fmt.Sprintf("many-%d-%d", i, n)))
		}
		all := together(ctx, times, many)
		rates = append(rates, func() error {
			before := p.processor()
			err := all()
			processor[i] += p.processor() - before
			return err
		})
	}
	for _, c := range []struct {
		what string
		runs []func() error
		took [][]time.Duration
	}{{"SaveEvent", saves, savesTook}, {fmt.Sprintf("GetEvents of %d", eventsOfActor), reads, readsTook}} {
		if _, _, err := turns(rounds, c.runs...); err != nil {
			return err
		}
		direct := median(c.took[0])
		for i, w := range ways[1:] {
			took := median(c.took[i+1])
			b.add(fmt.Sprintf("%s through the sidecar, %s, against the library: median latency", c.what, w.name), w.aim("at most 2.5"),
				fmt.Sprintf("%.2f", float64(took)/float64(direct)), "%s against %s", took, direct)
		}
	}
	took, ratios, err := turns(rounds, rates...)
	if err != nil {
		return err
	}
	for i, w := range ways[1:] {
		b.add(fmt.Sprintf("SaveEvent through the sidecar, %s, against the library, %d writers: rate", w.name, writers), w.aim("at least 0.5"),
			fmt.Sprintf("%.2f", 1/ratios[i+1]), "%s against %s; medians of %d turns of %d; the sidecar took %s of processor time for one",
			perSecond(writers*times, took[i+1]), perSecond(writers*times, took[0]), rounds, writers*times,
			// With the turn to warm up.
			(processor[i+1] / time.Duration(writers*times*(rounds+1))).Round(time.Microsecond))
	}
	return nil
}

func (w way) aim(aim string) string {
	if w.aims {
		return aim
	}
	return ""
}

// saver saves to one actor, version after version.
func (w way) saver(actorID string) func(context.Context) error {
	var version atomic.Int64
	return func(ctx context.Context) error { return w.save(ctx, newEvent(actorID, version.Add(1))) }
}

// timed does something so many times, and notes how long each took.
func timed(ctx context.Context, times int, took *[]time.Duration, do func(context.Context) error) func() error {
	return func() error {
		for range times {
			started := time.Now()
			if err := do(ctx); err != nil {
				return err
			}
			*took = append(*took, time.Since(started))
		}
		return nil
	}
}

// pressed measures the memory of a sidecar that has more to do than it has memory
// for: saves and reads of the largest events, all at once.
func (b *bench) pressed(ctx context.Context, p *sidecarProcess, ways []way) error {
	large := make([]byte, 900<<10)
	for i := range large {
		large[i] = 'x'
	}
	var refused, answered atomic.Int64
	pressing, pressed := errgroup.WithContext(ctx)
	watching, stopWatching := context.WithCancel(ctx)
	var watch errgroup.Group
	watch.Go(func() error { p.watch(watching); return nil })
	for n := range 64 {
		w := ways[1+n%(len(ways)-1)]
		pressing.Go(func() error {
			for version := int64(1); version <= 4; version++ {
				event := newEvent(fmt.Sprintf("large-%d", n), version)
				event.Data = append([]byte(`"`), append(large, '"')...)
				// What is refused is what this is about.
				if w.save(pressed, event) != nil {
					refused.Add(1)
					continue
				}
				answered.Add(1)
				if _, err := w.read(pressed, event.ActorID); err != nil {
					refused.Add(1)
				} else {
					answered.Add(1)
				}
			}
			return pressed.Err()
		})
	}
	err := pressing.Wait()
	stopWatching()
	if err = errors.Join(err, watch.Wait()); err != nil {
		return err
	}
	p.most(b, "64 writers and readers of events of 900 KiB", fmt.Sprintf("; %d calls were answered and %d refused", answered.Load(), refused.Load()))
	return nil
}
