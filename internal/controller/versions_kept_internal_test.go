package controller

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/apimachinery/pkg/types"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
	layout "git.flowmade.one/flowmade-one/aether-operator/api/eventstore/jetstream"
	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/stream"
)

// watched is a reconciler that knows of stores, and what it wakes.
func watched(t *testing.T, stores ...*v1alpha1.EventStore) (r *VersionReconciler, woken chan string) {
	t.Helper()
	indexer := toolscache.NewIndexer(toolscache.MetaNamespaceKeyFunc, indexers)
	for _, store := range stores {
		if err := indexer.Add(store); err != nil {
			t.Fatal(err)
		}
	}
	woken = make(chan string, 100)
	r = newVersionReconciler(nil, nil, storeIndex{indexer}, func(n stream.Notice) { woken <- n.Stream })
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- r.watch(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return r, woken
}

func aged(name, age string) *v1alpha1.EventStore {
	return keptStoreOf(func(s *v1alpha1.EventStore) { s.Name, s.Status.Streams[0].MaxAge = name, age })
}

// wantWoken wants those to be woken after a while that wait for their turn, and no others.
func wantWoken(t *testing.T, woken chan string, after time.Duration, want ...string) {
	t.Helper()
	time.Sleep(after)
	synctest.Wait()
	for _, name := range want {
		select {
		case got := <-woken:
			if got != name {
				t.Errorf("after %s %s is woken, want %s", after, got, name)
			}
		default:
			t.Errorf("after %s %s is not woken", after, name)
		}
	}
	if len(woken) > 0 {
		t.Errorf("after %s %s is woken besides", after, <-woken)
	}
}

// A store that does not come to its turn is told of before its events have expired, and once.
func TestStoreThatWaitsIsTold(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		waits, observed := aged("waits", "20s"), aged("observed", "20s")
		observed.Spec.ManagementPolicy = v1alpha1.ManagementObserve
		r, woken := watched(t, waits, aged("later", "1h"), aged("never", "0"), observed, aged("unknown", ""))
		began := time.Now()
		wantWoken(t, woken, 5*time.Second)
		key := client.ObjectKeyFromObject(waits)
		if fault, known := r.outcome(key); known {
			t.Errorf("in time %v is told", fault)
		}
		wantWoken(t, woken, 2*time.Second, "shop_waits")
		fault, known := r.outcome(key)
		since, ends := began.Add(time.Second), began.Add(11*time.Second)
		for _, at := range []time.Time{since, ends} {
			if !known || fault.Reason != v1alpha1.ReasonVersionsBehind || !strings.Contains(fault.Error(), at.UTC().Format(time.RFC3339)) {
				t.Errorf("%v is told, want since when it waits, and until when: %s", fault, at)
			}
		}
		if behind, known := r.behind(key, time.Now()); !known || behind != 6*time.Second {
			t.Errorf("it is behind by %s (known: %t)", behind, known)
		}
		wantWoken(t, woken, time.Minute)
		// The turn began before that was in the status, and takes it back.
		done := layout.KeptVersions{MaxAge: 20 * time.Second, Next: 5 * time.Second}
		if !r.note(waits, layout.KeepOptions{}, done, nil) || r.note(waits, layout.KeepOptions{}, done, nil) {
			t.Error("what was told is not taken back once")
		}
		wantWoken(t, woken, 9*time.Second)
		wantWoken(t, woken, 2*time.Second, "shop_waits")
	})
}

// Who has a turn that does not come to its end is told in the same way.
func TestStoreThatDoesNotComeToAnEndIsTold(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := aged("orders", "20s")
		r, woken := watched(t, store)
		if r.note(store, layout.KeepOptions{}, layout.KeptVersions{MaxAge: 20 * time.Second, More: true, Behind: time.Second}, nil) {
			t.Error("it is told of at once")
		}
		wantWoken(t, woken, 3*time.Second)
		wantWoken(t, woken, 2*time.Second, "shop_orders")
		// An age that was lowered by hand counts before a turn has seen it.
		store.Status.Streams[0].MaxAge = "8s"
		r.forget(client.ObjectKeyFromObject(store))
		wantWoken(t, woken, 4*time.Second, "shop_orders")
	})
}

// What is known of a store without a turn orders the line.
func TestFactsOfWaitingStores(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		short, long, never := aged("short", "20s"), aged("long", "1d"), aged("never", "0")
		short.Spec.ClassName = "standard"
		r, _ := watched(t, short, long, never)
		ends := func(name string) time.Duration {
			return time.Until(r.facts(types.NamespacedName{Namespace: "shop", Name: name}).ends)
		}
		for name, want := range map[string]time.Duration{"short": 10 * time.Second, "long": 12 * time.Hour, "never": keepForever, "deleted": keepForever} {
			if got := ends(name); got != want {
				t.Errorf("%s: %s are left, want %s", name, got, want)
			}
		}
		if class := r.facts(client.ObjectKeyFromObject(short)).class; class != "standard" {
			t.Errorf("the class is %q", class)
		}
		// A turn knows better.
		r.note(long, layout.KeepOptions{}, layout.KeptVersions{MaxAge: 24 * time.Hour, More: true, Behind: 12*time.Hour - time.Second}, nil)
		if got := ends("long"); got != time.Second {
			t.Errorf("after a turn %s are left", got)
		}
		// Of a store that was not answered in time no more turns are begun than of a class that is silent.
		for _, c := range []struct {
			err  error
			want bool
		}{
			{stream.Retrying(v1alpha1.ReasonJetStreamUnavailable, "no answer: %w", eventstore.ErrUnavailable), true},
			{stream.Retrying(v1alpha1.ReasonVersionsBehind, "contested"), false},
			{stream.Stalled(v1alpha1.ReasonRefusedByServer, "too large, and no answer: %w", eventstore.ErrUnavailable), true},
			{nil, false},
		} {
			r.note(long, layout.KeepOptions{}, layout.KeptVersions{MaxAge: 24 * time.Hour}, c.err)
			if late := r.facts(client.ObjectKeyFromObject(long)).late; late != c.want {
				t.Errorf("after %v it is late: %t", c.err, late)
			}
		}
	})
}
