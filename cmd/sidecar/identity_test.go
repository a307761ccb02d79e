package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	kubernetes "sigs.k8s.io/controller-runtime/pkg/client"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/controller"
	"git.flowmade.one/flowmade-one/aether-operator/internal/sidecar/binding"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv/callout"
)

// startOperator runs an API server, and the operator with a class that asks for
// service accounts.
func startOperator(t *testing.T, class string) *testenv.Kubernetes {
	t.Helper()
	ctrl.SetLogger(logr.Discard())
	kube, err := testenv.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := kube.Stop(); err != nil {
			t.Error(err)
		}
	})
	setup, err := callout.New()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "nats-")
	if err != nil {
		t.Fatal(err)
	}
	servers, err := setup.Start(dir, 1)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		servers.Stop()
		_ = os.RemoveAll(dir)
	})
	for _, object := range setup.Class(class, servers) {
		if err := kube.Client.Create(t.Context(), object); err != nil {
			t.Fatal(err)
		}
	}
	mgr, err := ctrl.NewManager(kube.Config, ctrl.Options{
		Scheme: testenv.Scheme(), Cache: controller.CacheOptions(), Metrics: metricsserver.Options{BindAddress: "0"},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	if err := controller.SetupWithManager(ctx, mgr, controller.Options{Registerer: prometheus.NewRegistry()}); err != nil {
		t.Fatal(err)
	}
	stopped := make(chan error, 1)
	go func() { stopped <- mgr.Start(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-stopped; err != nil {
			t.Error(err)
		}
	})
	return kube
}

// mount writes the binding of a store, once the operator has written it, below
// root, as a kubelet does.
func mount(t *testing.T, kube *testenv.Kubernetes, root string, store *v1alpha1.EventStore) {
	t.Helper()
	secret := &corev1.Secret{}
	testenv.Eventually(t, deadline, "the binding of "+store.Name, func() error {
		return kube.Client.Get(t.Context(), kubernetes.ObjectKey{Namespace: store.Namespace, Name: v1alpha1.BindingName(store.Name)}, secret)
	})
	files := map[string]string{}
	for key, value := range secret.Data {
		files[key] = string(value)
	}
	if files["access"] != "ServiceAccount" || files["password"] != "" || files["issuer.nk"] != "" {
		t.Errorf("the binding has the keys %v", files)
	}
	writeBinding(t, filepath.Join(root, store.Name), files)
}

// A sidecar uses its stores with nothing but the token of its pod; what is taken
// from the service account it can do no more, and what is given back it can.
func TestServiceAccount(t *testing.T) {
	t.Parallel()
	kube := startOperator(t, "standard")
	ctx, root := t.Context(), t.TempDir()
	stores := make([]*v1alpha1.EventStore, 2)
	for i, name := range []string{"orders", "payments"} {
		stores[i] = &v1alpha1.EventStore{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}}
		stores[i].Spec.ClassName = "standard"
		if err := kube.Client.Create(ctx, stores[i]); err != nil {
			t.Fatal(err)
		}
		mount(t, kube, root, stores[i])
	}
	pod, err := kube.NewPod(ctx, "default", "checkout", "checkout")
	if err != nil {
		t.Fatal(err)
	}
	tokenFile := filepath.Join(t.TempDir(), "token")
	rotate := func() {
		token, err := kube.Token(ctx, pod)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(tokenFile, []byte(token), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	rotate()
	s := startHere(t, map[string]string{"SERVICE_BINDING_ROOT": root, "AETHER_TOKEN_FILE": tokenFile}, "--request-timeout=3s")
	s.waitReady("")
	// Each is another event: one that is stored already is no write any more.
	version := 0
	save := func(store string) (int, string) {
		version++
		return s.post(store, fmt.Sprintf(`{"id":"%d","eventType":"T","actorId":"order-1","version":%d}`, version, version))
	}
	for _, store := range []string{"orders", "payments"} {
		if status, body := save(store); status != http.StatusCreated {
			t.Errorf("save to %s: %d %s", store, status, body)
		}
	}
	access := func(entries ...v1alpha1.AccessEntry) {
		t.Helper()
		if err := kube.Client.Get(ctx, kubernetes.ObjectKeyFromObject(stores[0]), stores[0]); err != nil {
			t.Fatal(err)
		}
		before := stores[0].DeepCopy()
		stores[0].Spec.Access = entries
		if err := kube.Client.Patch(ctx, stores[0], kubernetes.MergeFrom(before)); err != nil {
			t.Fatal(err)
		}
	}
	eventually := func(what string, wantStatus int, store string) {
		t.Helper()
		testenv.Eventually(t, deadline, what, func() error {
			if status, body := save(store); status != wantStatus {
				return fmt.Errorf("%d %s", status, body)
			}
			return nil
		})
	}
	// The token of before is worth nothing any more: the new one is read.
	rotate()
	access(v1alpha1.AccessEntry{ServiceAccount: "checkout", Role: v1alpha1.RoleReader})
	eventually("a save of a reader to be refused", http.StatusForbidden, "orders")
	if status, body := s.get(s.api + "/v1/stores/orders/actors/order-1/version"); status != http.StatusOK || !strings.Contains(body, `"version":`) {
		t.Errorf("a read of a reader: %d %s", status, body)
	}
	access(v1alpha1.AccessEntry{ServiceAccount: "somebody-else"})
	testenv.Eventually(t, deadline, "a read to be refused", func() error {
		if status, body := s.get(s.api + "/v1/stores/orders/actors/order-1/version"); status != http.StatusForbidden {
			return fmt.Errorf("%d %s", status, body)
		}
		return nil
	})
	eventually("the other store to go on", http.StatusCreated, "payments")
	access()
	eventually("access that is given back", http.StatusCreated, "orders")
}

func TestPodUID(t *testing.T) {
	t.Parallel()
	// {"kubernetes.io":{"pod":{"uid":"0c2f"}}}
	const bound = "e30.eyJrdWJlcm5ldGVzLmlvIjp7InBvZCI6eyJ1aWQiOiIwYzJmIn19fQ.c2ln"
	if uid, err := podUID(bound + "\n"); err != nil || uid != "0c2f" {
		t.Errorf("%q, %v", uid, err)
	}
	for token, want := range map[string]string{
		"": "no JWT", "a.b": "no JWT", "a.!.c": "cannot be decoded", "e30.bm8.c2ln": "not JSON", "e30.e30.c2ln": "bound to no pod",
		// {"kubernetes.io":{"pod":{"uid":"a.>"}}}
		"e30.eyJrdWJlcm5ldGVzLmlvIjp7InBvZCI6eyJ1aWQiOiJhLj4ifX19.c2ln": "bound to no pod",
	} {
		if uid, err := podUID(token); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("token %q: %q, %v, want %q", token, uid, err, want)
		}
	}
}

// What keeps a sidecar from proving who it is, is said before it serves.
func TestIdentityThatCannotBe(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	writeBinding(t, filepath.Join(root, "orders"), map[string]string{
		"type": "eventstore", "provider": "nats", "servers": "nats://127.0.0.1:1", "namespace": "shop",
		"stream": "shop_orders", "snapshot-stream": "shop_orders_snapshots", "access": "ServiceAccount",
	})
	garbage := filepath.Join(root, "garbage")
	if err := os.WriteFile(garbage, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	for want, file := range map[string]string{"AETHER_TOKEN_FILE is not set": "", "no such file": filepath.Join(root, "none"), "it is no JWT": garbage} {
		err := run(t.Context(), []string{"--store=orders"}, environment(map[string]string{"SERVICE_BINDING_ROOT": root, "AETHER_TOKEN_FILE": file}), os.Stdout, os.Stderr)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

// Stores share a connection while the names of their streams fit into its first
// line.
func TestStreamsOfOneConnection(t *testing.T) {
	t.Parallel()
	c := &connections{}
	for i := range 20 {
		c.bindings = append(c.bindings, binding.Binding{ServiceAccount: true, Servers: []string{"nats://a"}, Stream: fmt.Sprintf("%s_%d", strings.Repeat("x", 120), i)})
	}
	c.bindings = append(c.bindings, binding.Binding{ServiceAccount: true, Servers: []string{"nats://b"}, Stream: "elsewhere"})
	var groups [][]string
	for _, b := range c.bindings {
		served := false
		for _, made := range c.made {
			served = served || made.serves(b)
		}
		if served {
			continue
		}
		streams := c.streamsWith(b)
		if len(strings.Join(streams, ",")) > maxWanted {
			t.Errorf("%d streams do not fit into one line", len(streams))
		}
		groups = append(groups, streams)
		c.made = append(c.made, &connection{binding: b, streams: streams})
	}
	total := 0
	for _, g := range groups {
		total += len(g)
	}
	if len(groups) != 4 || total != len(c.bindings) || len(groups[3]) != 1 {
		t.Errorf("%d connections for %d of %d streams: %v", len(groups), total, len(c.bindings), groups)
	}
}
