package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	coordinationv1 "k8s.io/api/coordination/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv/natsserver"
)

const leaseName = "aether-operator.aether.flowmade.one"

// TestHandOver lets three replicas lead one after the other: the first is told to
// end, the second is killed.
func TestHandOver(t *testing.T) {
	kubeconfig := writeKubeconfig(t, applyRights(t), "")
	apply(t, "config/webhook")
	createClass(t, natsserver.Run(t, 1))
	holders := watchHolders(t)

	first := startReplica(t, kubeconfig, "--leader-elect")
	testenv.Eventually(t, deadline, "a leader", func() error { return holders.has(1) })
	second := startReplica(t, kubeconfig, "--leader-elect")
	second.waitUntilReady(t)
	waitUntilReady(t, createStore(t, "before"))

	first.signal(t, syscall.SIGTERM)
	waitUntilReady(t, createStore(t, "during"))
	if err := first.waitUntilEnded(t); err != nil {
		t.Errorf("told to end, the operator ended with: %v", err)
	}
	for line := range strings.Lines(first.logs.String()) {
		// An Event that is just being written is given up, and that is logged.
		if strings.Contains(line, `"level":"ERROR"`) && !strings.Contains(line, `"logger":"events"`) {
			t.Errorf("told to end, the operator logged: %s", line)
		}
	}
	testenv.Eventually(t, deadline, "the leader, nobody and another leader", func() error { return holders.has(3) })
	// It gave the lease back: nobody had to wait for it to run out.
	if all := holders.all(); all[1] != "" || all[2] == all[0] {
		t.Errorf("holders of the lease: %q, want the first, nobody, the second", all)
	}

	third := startReplica(t, kubeconfig, "--leader-elect")
	third.waitUntilReady(t)
	second.signal(t, syscall.SIGKILL)
	waitUntilReady(t, createStore(t, "after"))
	// Nobody gave it back: the third took it when it had run out.
	if all := holders.all(); len(all) != 4 || all[3] == "" || slices.Contains(all[:3], all[3]) {
		t.Errorf("holders of the lease: %q, want the first, nobody, the second, the third", all)
	}
}

// holders are those of the lease, one after the other.
type holders struct {
	mu   sync.Mutex
	seen []string
}

func (h *holders) all() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.seen)
}

func (h *holders) has(count int) error {
	if all := h.all(); len(all) < count {
		return fmt.Errorf("the lease had %d holders: %q", len(all), all)
	}
	return nil
}

// watchHolders sees every version of the lease.
func watchHolders(t *testing.T) *holders {
	t.Helper()
	watching, err := client.NewWithWatch(kubernetes.Config, client.Options{Scheme: kubernetes.Scheme})
	if err != nil {
		t.Fatal(err)
	}
	watch, err := watching.Watch(t.Context(), &coordinationv1.LeaseList{}, client.InNamespace(operatorNamespace), client.MatchingFields{"metadata.name": leaseName})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(watch.Stop)
	h := &holders{}
	go func() {
		for event := range watch.ResultChan() {
			if lease, ok := event.Object.(*coordinationv1.Lease); ok {
				h.add(*lease.Spec.HolderIdentity)
			}
		}
	}()
	return h
}

func (h *holders) add(holder string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.seen) == 0 || h.seen[len(h.seen)-1] != holder {
		h.seen = append(h.seen, holder)
	}
}

func createClass(t *testing.T, nats *natsserver.Cluster) {
	t.Helper()
	class := &v1alpha1.EventStoreClass{ObjectMeta: metav1.ObjectMeta{
		Name: "standard", Annotations: map[string]string{v1alpha1.AnnotationDefaultClass: "true"},
	}}
	for _, url := range nats.URLs() {
		class.Spec.Servers = append(class.Spec.Servers, v1alpha1.ServerURL(url))
	}
	create(t, class)
}

func createStore(t *testing.T, name string) *v1alpha1.EventStore {
	t.Helper()
	store := &v1alpha1.EventStore{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}}
	create(t, store)
	return store
}

func waitUntilReady(t *testing.T, store *v1alpha1.EventStore) {
	t.Helper()
	testenv.Eventually(t, deadline, "EventStore "+store.Name+" to be ready", func() error {
		return checkReady(t.Context(), store)
	})
}

func checkReady(ctx context.Context, store *v1alpha1.EventStore) error {
	if err := kubernetes.Client.Get(ctx, client.ObjectKeyFromObject(store), store); err != nil {
		return err
	}
	if !meta.IsStatusConditionTrue(store.Status.Conditions, v1alpha1.ConditionReady) {
		return fmt.Errorf("conditions: %+v", store.Status.Conditions)
	}
	return nil
}
