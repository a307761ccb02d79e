package access_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
	"github.com/prometheus/client_golang/prometheus"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/access"
	"git.flowmade.one/flowmade-one/aether-operator/internal/controller"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv/callout"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv/natsserver"
)

// limit bounds every wait: long enough for a busy machine.
const limit = time.Minute

// Shared by all tests: a real API server, and two NATS systems that ask two
// replicas of the operator.
var (
	kube *testenv.Kubernetes
	// systems are by the number of their servers.
	systems = map[int]*system{}
)

// system is a NATS system and the class that leads to it.
type system struct {
	servers *natsserver.Cluster
	setup   *callout.Setup
	class   string
}

func TestMain(m *testing.M) {
	ctrl.SetLogger(logr.FromSlogHandler(logs()))
	code, err := runTests(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// administrator is the user and password of somebody beside the operator, whom
// the documented configuration does not have.
const administrator = "administrator"

// logs keeps the operator quiet unless it is wanted: being refused is what most
// tests are about.
func logs() slog.Handler {
	if os.Getenv("AETHER_TEST_LOG") == "" {
		return slog.DiscardHandler
	}
	return slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})
}

func runTests(m *testing.M) (code int, err error) {
	if kube, err = testenv.Start(); err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, kube.Stop()) }()
	ctx, cancel := context.WithCancel(context.Background())
	for _, size := range []int{1, 3} {
		stop, err := startSystem(ctx, size)
		if err != nil {
			cancel()
			return 1, err
		}
		defer stop()
	}
	stopped := make(chan error, 2)
	for range cap(stopped) {
		if err := startReplica(ctx, stopped); err != nil {
			cancel()
			return 1, err
		}
	}
	code = m.Run()
	cancel()
	return code, errors.Join(<-stopped, <-stopped)
}

// startSystem runs servers, and makes the class for them.
func startSystem(ctx context.Context, size int) (stop func(), err error) {
	setup, err := callout.New()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "nats-")
	if err != nil {
		return nil, err
	}
	// Both forms of acknowledgements are in use, by one server and by three.
	servers, err := setup.Start(dir, size, withAdministrator)
	if err != nil {
		return nil, err
	}
	name := fmt.Sprintf("system-%d", size)
	systems[size] = &system{servers: servers, setup: setup, class: name}
	stop = func() {
		servers.Stop()
		_ = os.RemoveAll(dir)
	}
	for _, object := range setup.Class(name, servers) {
		if class, ok := object.(*v1alpha1.EventStoreClass); ok {
			// A store may try to get what another namespace has.
			class.Spec.Tenancy.EventNamespaces = v1alpha1.EventNamespacesAny
		}
		if err := kube.Client.Create(ctx, object); err != nil {
			stop()
			return nil, err
		}
	}
	return stop, nil
}

func withAdministrator(o *server.Options) {
	for _, account := range o.Accounts {
		if account.Name == "AETHER" {
			o.Users = append(o.Users, &server.User{Username: administrator, Password: administrator, Account: account})
		}
	}
	o.AuthCallout.AuthUsers = append(o.AuthCallout.AuthUsers, administrator)
}

// startReplica runs an operator. One of them leads; the other only answers.
func startReplica(ctx context.Context, stopped chan<- error) error {
	mgr, err := ctrl.NewManager(kube.Config, ctrl.Options{
		Scheme: controller.Scheme(), Cache: controller.CacheOptions(), Metrics: metricsserver.Options{BindAddress: "0"},
		// Two replicas share this process.
		Controller:     config.Controller{SkipNameValidation: new(true)},
		LeaderElection: true, LeaderElectionID: "test", LeaderElectionNamespace: "default", LeaderElectionReleaseOnCancel: true,
	})
	if err != nil {
		return err
	}
	if err := controller.SetupWithManager(ctx, mgr, controller.Options{ResyncInterval: time.Hour, Registerer: prometheus.NewRegistry()}); err != nil {
		return err
	}
	go func() { stopped <- mgr.Start(ctx) }()
	return nil
}

var counter atomic.Int64

func unique(prefix string) string { return fmt.Sprintf("%s-%d", prefix, counter.Add(1)) }

func newNamespace(t *testing.T) string {
	t.Helper()
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: unique("ns")}}
	create(t, ns)
	return ns.Name
}

func create(t *testing.T, object client.Object) {
	t.Helper()
	if err := kube.Client.Create(t.Context(), object); err != nil {
		t.Fatal(err)
	}
}

// newStore makes an EventStore and waits until it can be used.
func (s *system) newStore(t *testing.T, namespace string, entries ...v1alpha1.AccessEntry) *v1alpha1.EventStore {
	t.Helper()
	store := &v1alpha1.EventStore{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: unique("store")}}
	store.Spec.ClassName, store.Spec.Replicas, store.Spec.Access = s.class, int32(s.servers.Size()), entries
	create(t, store)
	waitReady(t, store)
	return store
}

func waitReady(t *testing.T, store *v1alpha1.EventStore) {
	t.Helper()
	testenv.Eventually(t, limit, "EventStore "+store.Name, func() error {
		if err := kube.Client.Get(t.Context(), client.ObjectKeyFromObject(store), store); err != nil {
			return err
		}
		ready := meta.FindStatusCondition(store.Status.Conditions, v1alpha1.ConditionReady)
		if ready == nil || ready.Status != metav1.ConditionTrue {
			return fmt.Errorf("it is not ready: %+v", ready)
		}
		return nil
	})
}

// change edits a store.
func change(t *testing.T, store *v1alpha1.EventStore, edit func(*v1alpha1.EventStore)) {
	t.Helper()
	before := store.DeepCopy()
	edit(store)
	if err := kube.Client.Patch(t.Context(), store, client.MergeFrom(before)); err != nil {
		t.Fatal(err)
	}
}

// pod is a pod, and what its kubelet would get for it.
type pod struct{ *corev1.Pod }

func newPod(t *testing.T, namespace, serviceAccount string) pod {
	t.Helper()
	p, err := kube.NewPod(t.Context(), namespace, unique("pod"), serviceAccount)
	if err != nil {
		t.Fatal(err)
	}
	return pod{p}
}

// token asks for a token as a kubelet does.
func (p pod) token(t *testing.T, edit ...func(*authenticationv1.TokenRequestSpec)) string {
	t.Helper()
	token, err := kube.Token(t.Context(), p.Pod, edit...)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// options are those of the pod's sidecar.
func (p pod) options(token string, streams ...string) []nats.Option {
	return []nats.Option{
		nats.UserInfo(strings.Join(streams, ","), ""),
		nats.TokenHandler(func() string { return token }),
		nats.CustomInboxPrefix(access.InboxPrefix(string(p.UID))),
		nats.MaxReconnects(-1), nats.ReconnectWait(50 * time.Millisecond), nats.IgnoreAuthErrorAbort(),
		// What is denied is what most tests are about.
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { ctrl.Log.Info("NATS refused", "error", err) }),
	}
}

// connect connects as the pod's sidecar, and waits until the operator serves.
func (s *system) connect(t *testing.T, p pod, streams ...string) *nats.Conn {
	t.Helper()
	token := p.token(t)
	var nc *nats.Conn
	testenv.Eventually(t, limit, "a connection as "+p.Name, func() (err error) {
		nc, err = nats.Connect(s.servers.URL(), p.options(token, streams...)...)
		return err
	})
	t.Cleanup(nc.Close)
	return nc
}

// administrator is a connection in the account of the streams that may do all
// there.
func (s *system) administrator(t *testing.T) *nats.Conn {
	t.Helper()
	return s.servers.Connect(t, nats.UserInfo(administrator, administrator))
}

// newSeed is that of a user nobody knows.
func newSeed(t *testing.T) string {
	t.Helper()
	pair, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	seed, err := pair.Seed()
	if err != nil {
		t.Fatal(err)
	}
	return string(seed)
}
