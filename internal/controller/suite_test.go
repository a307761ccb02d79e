package controller_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/controller"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv/kstatus"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv/natsserver"
)

// Shared by all specs: starting them takes longer than most specs. Each spec has
// namespaces, classes and stream names of its own.
var (
	kube    *testenv.Kubernetes
	k8s     client.Client
	single  *natsserver.Cluster
	cluster *natsserver.Cluster
	watched violations
)

func TestController(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "Controllers")
}

var _ = BeforeSuite(func() {
	SetDefaultEventuallyTimeout(30 * time.Second)
	EnforceDefaultTimeoutsWhenUsingContexts()
	SetDefaultEventuallyPollingInterval(50 * time.Millisecond)
	ctrl.SetLogger(logr.FromSlogHandler(slog.NewTextHandler(GinkgoWriter, nil)))

	var err error
	kube, err = testenv.Start()
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(func() { Expect(kube.Stop()).To(Succeed()) })
	k8s = kube.Client
	single, cluster = startNATS(1), startNATS(3)
	watched.watch(kube)
	// The resync is far away: what a spec sees was told to the controllers, and not
	// found by looking again.
	DeferCleanup(startOperator(kube, controller.Options{ResyncInterval: time.Hour}))
})

// Every status that any spec caused, also in passing, keeps the contract.
var _ = AfterEach(func() { Expect(watched.found()).To(BeEmpty()) })

func startNATS(size int, options ...natsserver.Option) *natsserver.Cluster {
	GinkgoHelper()
	dir, err := os.MkdirTemp("", "nats-")
	Expect(err).NotTo(HaveOccurred())
	c, err := natsserver.Start(dir, size, options...)
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(func() {
		c.Stop()
		Expect(os.RemoveAll(dir)).To(Succeed())
	})
	return c
}

// startOperator runs the controllers in a cluster, with the rights that config/rbac
// gives them, and gives what stops them.
func startOperator(in *testenv.Kubernetes, options controller.Options) (stop func()) {
	GinkgoHelper()
	ctx, cancel := context.WithCancel(context.Background())
	operator, err := in.Operator(ctx)
	Expect(err).NotTo(HaveOccurred())
	// Controllers of one name may run once in a process, unless one says so.
	again := true
	mgr, err := ctrl.NewManager(operator.Config(), ctrl.Options{
		Scheme:     controller.Scheme(),
		Cache:      controller.CacheOptions(),
		NewClient:  newClientBehind,
		Metrics:    metricsserver.Options{BindAddress: "0"},
		Controller: config.Controller{SkipNameValidation: &again},
	})
	Expect(err).NotTo(HaveOccurred())
	if options.Registerer == nil {
		options.Registerer = prometheus.NewRegistry()
	}
	Expect(controller.SetupWithManager(ctx, mgr, options)).To(Succeed())
	stopped := make(chan error, 1)
	go func() { stopped <- mgr.Start(ctx) }()
	return sync.OnceFunc(func() {
		cancel()
		Expect(<-stopped).To(Succeed())
	})
}

// violations are the versions of objects that break the contract of kstatus.
type violations struct {
	mu  sync.Mutex
	all []string
}

func (v *violations) found() []string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.all
}

func (v *violations) watch(in *testenv.Kubernetes) {
	watching, err := client.NewWithWatch(in.Config, client.Options{Scheme: testenv.Scheme()})
	Expect(err).NotTo(HaveOccurred())
	for _, list := range []client.ObjectList{&v1alpha1.EventStoreList{}, &v1alpha1.EventStoreClassList{}} {
		w, err := watching.Watch(context.Background(), list)
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(w.Stop)
		go func() {
			for event := range w.ResultChan() {
				v.check(event.Object)
			}
		}()
	}
}

func (v *violations) check(seen runtime.Object) {
	object, ok := seen.(client.Object)
	if !ok {
		return
	}
	if err := kstatus.Violation(object); err != nil {
		v.mu.Lock()
		defer v.mu.Unlock()
		v.all = append(v.all, fmt.Sprintf("%T %s: %v", object, client.ObjectKeyFromObject(object), err))
	}
}

var counter atomic.Int64

// unique makes a name that no other spec has.
func unique(prefix string) string { return fmt.Sprintf("%s-%d", prefix, counter.Add(1)) }

func newNamespace(ctx context.Context) string {
	GinkgoHelper()
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: unique("ns")}}
	Expect(k8s.Create(ctx, ns)).To(Succeed())
	return ns.Name
}

type classOption func(*v1alpha1.EventStoreClass)

// newClass makes a class for a NATS system and removes it after the spec.
func newClass(ctx context.Context, servers []string, options ...classOption) *v1alpha1.EventStoreClass {
	GinkgoHelper()
	class := &v1alpha1.EventStoreClass{ObjectMeta: metav1.ObjectMeta{Name: unique("class")}}
	for _, url := range servers {
		class.Spec.Servers = append(class.Spec.Servers, v1alpha1.ServerURL(url))
	}
	for _, option := range options {
		option(class)
	}
	Expect(k8s.Create(ctx, class)).To(Succeed())
	DeferCleanup(func(ctx context.Context) {
		Expect(client.IgnoreNotFound(k8s.Delete(ctx, class))).To(Succeed())
	})
	return class
}

// newStore is an EventStore that is not created yet.
func newStore(namespace, class string, change ...func(*v1alpha1.EventStore)) *v1alpha1.EventStore {
	store := &v1alpha1.EventStore{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: unique("store")}}
	store.Spec.ClassName = class
	for _, c := range change {
		c(store)
	}
	return store
}

func create(ctx context.Context, store *v1alpha1.EventStore) *v1alpha1.EventStore {
	GinkgoHelper()
	Expect(k8s.Create(ctx, store)).To(Succeed())
	return store
}

// read gives the current version of a store.
func read(ctx context.Context, store *v1alpha1.EventStore) func(Gomega) *v1alpha1.EventStore {
	return func(g Gomega) *v1alpha1.EventStore {
		current := &v1alpha1.EventStore{}
		g.Expect(k8s.Get(ctx, client.ObjectKeyFromObject(store), current)).To(Succeed())
		return current
	}
}

// change edits the spec or metadata of a store.
func change(ctx context.Context, store *v1alpha1.EventStore, edit func(*v1alpha1.EventStore)) {
	GinkgoHelper()
	current := &v1alpha1.EventStore{}
	Expect(k8s.Get(ctx, client.ObjectKeyFromObject(store), current)).To(Succeed())
	before := current.DeepCopy()
	edit(current)
	Expect(k8s.Patch(ctx, current, client.MergeFrom(before))).To(Succeed())
}

func js(servers *natsserver.Cluster, options ...nats.Option) jetstream.JetStream {
	GinkgoHelper()
	nc, err := nats.Connect(servers.URL(), options...)
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(nc.Close)
	api, err := jetstream.New(nc)
	Expect(err).NotTo(HaveOccurred())
	return api
}

func streamInfo(ctx context.Context, api jetstream.JetStream, name string) *jetstream.StreamInfo {
	GinkgoHelper()
	s, err := api.Stream(ctx, name)
	Expect(err).NotTo(HaveOccurred())
	return s.CachedInfo()
}

func publish(ctx context.Context, api jetstream.JetStream, store *v1alpha1.EventStore, count int) {
	GinkgoHelper()
	for range count {
		_, err := api.Publish(ctx, store.EventsStreamName()+".events.order.order-1", []byte("{}"))
		Expect(err).NotTo(HaveOccurred())
	}
}
