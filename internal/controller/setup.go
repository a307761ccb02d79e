package controller

import (
	"context"
	"crypto/sha256"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/metrics"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/access"
	"git.flowmade.one/flowmade-one/aether-operator/internal/stream"
)

// DefaultResyncInterval is how often a settled object is looked at again: changes
// are told at once, this is for what was told while nobody listened.
const DefaultResyncInterval = 30 * time.Second

// Options are the settings of both controllers.
type Options struct {
	// ResyncInterval is how often a settled object is looked at again, with jitter;
	// 0 is DefaultResyncInterval.
	ResyncInterval time.Duration
}

const (
	// workers reconcile different objects at the same time. A pass waits for the
	// network nearly all of its time.
	workers = 8
	// passTimeout bounds one pass, so that no hung call holds a worker.
	passTimeout = time.Minute
	// noticeBuffer holds what the NATS connections tell until it is queued, which
	// takes microseconds.
	noticeBuffer = 1 << 14
	// maxBackoff bounds the pause after unexpected errors: what mends itself is
	// seen half a minute later at worst.
	maxBackoff = 30 * time.Second
)

func init() { metrics.Registry.MustRegister(access.Metrics()...) }

// CacheOptions keeps only what the controllers watch in memory: of the Secrets,
// only bindings. Secrets with credentials are read live.
func CacheOptions() cache.Options {
	return cache.Options{
		ReaderFailOnMissingInformer: true,
		// Nothing here reads who wrote which field, and it is half of an object.
		DefaultTransform: cache.TransformStripManagedFields(),
		ByObject: map[client.Object]cache.ByObject{
			&corev1.Secret{}: {Field: fields.OneTermEqualSelector("type", v1alpha1.BindingSecretType)},
		},
	}
}

// SetupWithManager adds both controllers to a manager that was made with
// CacheOptions.
func SetupWithManager(ctx context.Context, mgr ctrl.Manager, options Options) error {
	if options.ResyncInterval == 0 {
		options.ResyncInterval = DefaultResyncInterval
	}
	for field, value := range indexes {
		if err := mgr.GetFieldIndexer().IndexField(ctx, &v1alpha1.EventStore{}, field, value); err != nil {
			return fmt.Errorf("index EventStores by %s: %w", field, err)
		}
	}
	forStores, forClasses := make(notices, noticeBuffer), make(notices, noticeBuffer)
	connections := stream.NewConnections(func(n stream.Notice) {
		forStores.send(n)
		if n.Stream == "" {
			forClasses.send(n)
		}
	})
	connect := connector{uncached: mgr.GetAPIReader(), connections: connections}
	callouts := &callouts{
		connector: connect, client: mgr.GetClient(), recorder: mgr.GetEventRecorder("aether-operator"),
		changed: func(class string) { forClasses.send(stream.Notice{Class: class}) }, classes: map[string]*callout{},
	}
	stores := &EventStoreReconciler{
		Client: mgr.GetClient(), connector: connect,
		recorder: mgr.GetEventRecorder("aether-operator"), resync: options.ResyncInterval,
	}
	classes := &EventStoreClassReconciler{
		Client: mgr.GetClient(), connector: connect,
		recorder: mgr.GetEventRecorder("aether-operator"), resync: options.ResyncInterval, callouts: callouts,
		sweeper: &sweeper{
			connector: connect, client: mgr.GetClient(), wake: func(n stream.Notice) { forStores.send(n) },
			sweeps: map[string]int{}, workloads: map[string][sha256.Size]byte{},
		},
	}
	if err := stores.setup(mgr, forStores); err != nil {
		return fmt.Errorf("set up the controller of EventStores: %w", err)
	}
	if err := classes.setup(mgr, forClasses); err != nil {
		return fmt.Errorf("set up the controller of EventStoreClasses: %w", err)
	}
	if err := (&CalloutReconciler{Client: mgr.GetClient(), callouts: callouts}).setup(mgr); err != nil {
		return fmt.Errorf("set up the controller of callouts: %w", err)
	}
	return mgr.Add(onEveryReplica(func(ctx context.Context) error {
		<-ctx.Done()
		callouts.close()
		connections.Close()
		return nil
	}))
}

// onEveryReplica runs also where another replica leads.
type onEveryReplica func(context.Context) error

func (run onEveryReplica) Start(ctx context.Context) error { return run(ctx) }

// NeedLeaderElection is false.
func (onEveryReplica) NeedLeaderElection() bool { return false }

// notices carry what NATS tells to a controller.
type notices chan event.TypedGenericEvent[stream.Notice]

// send does not block, since the callers are NATS connections: the resync sees
// what is dropped when the controller cannot keep up.
func (n notices) send(notice stream.Notice) {
	select {
	case n <- event.TypedGenericEvent[stream.Notice]{Object: notice}:
	default:
	}
}

func controllerOptions() controller.Options {
	return controller.Options{
		MaxConcurrentReconciles: workers,
		ReconciliationTimeout:   passTimeout,
		RateLimiter:             workqueue.NewTypedItemExponentialFailureRateLimiter[reconcile.Request](50*time.Millisecond, maxBackoff),
	}
}

// jittered spreads the resync of many objects.
func jittered(interval time.Duration) time.Duration { return wait.Jitter(interval, 0.2) }
