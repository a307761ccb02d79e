package sidecar_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/memory"
	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/sidecar"
	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/v1/eventstorev1connect"
	server "git.flowmade.one/flowmade-one/aether-operator/internal/sidecar"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv/natsserver"
)

// seen counts the calls of a path that a sidecar has had.
type seen struct {
	mu    sync.Mutex
	calls map[string]int
}

func (s *seen) of(path string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls[path]
}

// serveSeen runs a sidecar, of an older version where it has no SaveBatches.
func serveSeen(t *testing.T, transport string, config server.Config, older bool) (endpoint string, counted *seen) {
	t.Helper()
	s, err := server.New(config)
	if err != nil {
		t.Fatal(err)
	}
	counted = &seen{calls: map[string]int{}}
	running := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		counted.mu.Lock()
		counted.calls[r.URL.Path]++
		counted.mu.Unlock()
		if older && r.URL.Path == eventstorev1connect.EventStoreServiceSaveBatchesProcedure {
			// As the service answers what it does not have.
			http.NotFound(w, r)
			return
		}
		s.Handler().ServeHTTP(w, r)
	}))
	endpoint = "http://" + running.Listener.Addr().String()
	if transport == "socket" {
		_ = running.Listener.Close()
		path := filepath.Join(t.TempDir(), "s")
		running.Listener, endpoint = listen(t, "unix", path), "unix://"+path
	}
	running.Start()
	t.Cleanup(running.Close)
	return endpoint, counted
}

// onlyOnce is a Store that is told each event at most once.
type onlyOnce struct {
	eventstore.Store
	told  sync.Map
	twice atomic.Int64
}

func (o *onlyOnce) SaveEvents(ctx context.Context, events []eventstore.Event, opts ...eventstore.SaveOption) ([]eventstore.Saved, error) {
	for i := range events {
		if _, before := o.told.LoadOrStore(events[i].ID, true); before {
			o.twice.Add(1)
		}
	}
	return o.Store.SaveEvents(ctx, events, opts...)
}

// A shared actor has so few sharers that they do not spend the test on deciding
// who is next.
const manyWriters, manySaves, sharers = 64, 20, 4

// write has many writers save at once, to actors of their own and to ones that
// a few of them share, and wants each save answered, counted and notified once.
func write(t *testing.T, endpoint string, data int) {
	t.Helper()
	bus, metrics := &eventstore.Bus{}, &eventstore.Metrics{}
	stored := bus.Subscribe(eventstore.InternalNamespace, 3*manyWriters*manySaves)
	store := open(t, endpoint, "", eventstore.WithBus(bus), eventstore.WithMetrics(metrics))
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	var writing sync.WaitGroup
	for writer := range manyWriters {
		writing.Go(func() {
			own, shared := fmt.Sprintf("order-%d", writer), fmt.Sprintf("shared-%d", writer/sharers)
			for version := int64(1); version <= manySaves; version++ {
				save := func(event eventstore.Event) (eventstore.Saved, error) {
					event.ID, event.EventType = fmt.Sprintf("%s-%d-%d", event.ActorID, writer, version), "Tested"
					event.ContentType, event.Data = "a/b", make([]byte, data)
					return store.SaveEvent(ctx, event)
				}
				if saved, err := save(eventstore.Event{ActorID: own, Version: version}); err != nil || saved.Version != version || saved.ActorID != own || saved.Duplicate {
					t.Errorf("version %d of %s: %+v, %v", version, own, saved, err)
				}
				if _, err := save(eventstore.Event{ActorID: shared}); err != nil {
					t.Errorf("save to the shared actor: %v", err)
				}
				var conflict *eventstore.VersionConflictError
				_, err := store.SaveEvent(ctx, eventstore.Event{ID: fmt.Sprintf("late-%d-%d", writer, version), EventType: "Tested", ActorID: own, Version: version})
				if !errors.As(err, &conflict) || conflict.ActorID != own || conflict.CurrentVersion != version {
					t.Errorf("version %d of %s again: error %v, want a conflict", version, own, err)
				}
			}
		})
	}
	writing.Wait()
	const each = manyWriters * manySaves
	stored.Close()
	if metrics.EventsSaved.Load() != 2*each || metrics.VersionConflicts.Load() != each || metrics.SaveErrors.Load() != 0 || len(stored.C()) != 2*each {
		t.Errorf("%d saved, %d conflicts, %d errors and %d notifications, want %d, %d, 0 and %d", metrics.EventsSaved.Load(),
			metrics.VersionConflicts.Load(), metrics.SaveErrors.Load(), len(stored.C()), 2*each, each, 2*each)
	}
	for n := range manyWriters / sharers {
		events, err := store.GetEvents(ctx, fmt.Sprintf("shared-%d", n), 0)
		if err != nil || len(events) != sharers*manySaves {
			t.Errorf("%d events of a shared actor, %v, want %d", len(events), err, sharers*manySaves)
		}
		for i := range events {
			if events[i].Version != int64(i+1) {
				t.Fatalf("event %d of a shared actor has version %d", i, events[i].Version)
			}
		}
	}
}

func TestManyWriters(t *testing.T) {
	t.Parallel()
	for transport := range transports {
		t.Run("memory over "+transport, func(t *testing.T) {
			t.Parallel()
			store := &onlyOnce{Store: memory.New()}
			endpoint, counted := serveSeen(t, transport, server.Config{Stores: []server.Store{{Name: "orders", Store: store}}}, false)
			write(t, endpoint, 10)
			wantTogether(t, counted)
			if twice := store.twice.Load(); twice > 0 {
				t.Errorf("%d events were sent twice", twice)
			}
		})
		t.Run("JetStream over "+transport, func(t *testing.T) {
			t.Parallel()
			nc := natsserver.Run(t, 1).Connect(t, nats.ReconnectBufSize(-1))
			endpoint, counted := serveSeen(t, transport, server.Config{RequestTimeout: 3 * time.Minute, Stores: []server.Store{jetStreamStore(t, nc, 1)}}, false)
			write(t, endpoint, 10)
			wantTogether(t, counted)
		})
	}
}

// wantTogether wants that saves shared calls.
func wantTogether(t *testing.T, counted *seen) {
	t.Helper()
	alone, together := counted.of(eventstorev1connect.EventStoreServiceSaveEventsProcedure), counted.of(eventstorev1connect.EventStoreServiceSaveBatchesProcedure)
	if together == 0 || alone+together >= 3*manyWriters*manySaves/2 {
		t.Errorf("%d saves took %d calls alone and %d together", 3*manyWriters*manySaves, alone, together)
	}
}

// An older sidecar has no SaveBatches: it is asked once by each call that is
// under way, nothing is lost, and nothing is sent twice.
func TestOlderSidecar(t *testing.T) {
	t.Parallel()
	for transport := range transports {
		t.Run(transport, func(t *testing.T) {
			t.Parallel()
			store := &onlyOnce{Store: memory.New()}
			endpoint, counted := serveSeen(t, transport, server.Config{Stores: []server.Store{{Name: "orders", Store: store}}}, true)
			write(t, endpoint, 10)
			if asked := counted.of(eventstorev1connect.EventStoreServiceSaveBatchesProcedure); asked < 1 || asked > 4 {
				t.Errorf("it was asked %d times", asked)
			}
			if alone := counted.of(eventstorev1connect.EventStoreServiceSaveEventsProcedure); alone != 3*manyWriters*manySaves || store.twice.Load() > 0 {
				t.Errorf("%d saves took %d calls, and %d events were sent twice", 3*manyWriters*manySaves, alone, store.twice.Load())
			}
		})
	}
}

// A sidecar with a limit below what goes together takes each by itself.
func TestManyWritersOfLargeEvents(t *testing.T) {
	t.Parallel()
	store := &onlyOnce{Store: memory.New()}
	endpoint, _ := serveSeen(t, "tcp", server.Config{MaxBodyBytes: 6 << 10, Stores: []server.Store{{Name: "orders", Store: store}}}, false)
	write(t, endpoint, 4<<10)
	if twice := store.twice.Load(); twice > 0 {
		t.Errorf("%d events were sent twice", twice)
	}
}

// Close ends no save, neither one that is under way nor one in line.
func TestCloseLosesNoSave(t *testing.T) {
	t.Parallel()
	const saves = 8
	store := &gatedStore{Store: memory.New(), began: make(chan struct{}, saves), release: make(chan struct{})}
	dialed, err := sidecar.New(serve(t, server.Config{Stores: []server.Store{{Name: "orders", Store: store}}}), "orders")
	if err != nil {
		t.Fatal(err)
	}
	var saving sync.WaitGroup
	for n := range saves {
		saving.Go(func() {
			if _, err := dialed.SaveEvent(t.Context(), event(fmt.Sprint(n), fmt.Sprintf("order-%d", n))); err != nil {
				t.Errorf("save %d: %v", n, err)
			}
		})
	}
	<-store.began
	if err := dialed.Close(); err != nil {
		t.Error(err)
	}
	close(store.release)
	saving.Wait()
	_ = dialed.Close()
}

// gatedStore is a Store whose saves wait until they are released.
type gatedStore struct {
	eventstore.Store
	began, release chan struct{}
}

func (g *gatedStore) SaveEvents(ctx context.Context, events []eventstore.Event, opts ...eventstore.SaveOption) ([]eventstore.Saved, error) {
	g.began <- struct{}{}
	<-g.release
	return g.Store.SaveEvents(ctx, events, opts...)
}
