package controller

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	ctrlmetrics "sigs.k8s.io/controller-runtime/pkg/metrics"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/access"
	"git.flowmade.one/flowmade-one/aether-operator/internal/stream"
)

// FieldManager is under which name the operator writes.
const FieldManager = "aether-operator"

// DefaultStoreMetricsLimit is how many EventStores have metrics of their own: 11,000
// series, which any Prometheus takes.
const DefaultStoreMetricsLimit = 1000

// DefaultResyncInterval is how often a settled object is looked at again: changes
// are told at once, this is for what was told while nobody listened.
const DefaultResyncInterval = 30 * time.Second

// Options are the settings of both controllers.
type Options struct {
	// ResyncInterval is how often a settled object is looked at again, with jitter;
	// 0 is DefaultResyncInterval.
	ResyncInterval time.Duration
	// StoreMetricsLimit is how many EventStores have metrics of their own, 0 for
	// none: each has eleven.
	StoreMetricsLimit int
	// Registerer takes the metrics; nil is that of the manager.
	Registerer prometheus.Registerer
}

const (
	// workers reconcile different objects at the same time. A pass waits for the
	// network nearly all of its time, and for new replicas most of that.
	workers = 16
	// passTimeout bounds one pass, so that no hung call holds a worker.
	passTimeout = time.Minute
	// noticeBuffer holds what the NATS connections and the sweeps tell of stores until
	// it is queued, which takes microseconds; classBuffer is for those of classes,
	// which are few.
	noticeBuffer, classBuffer = 1 << 13, 1 << 6
	// maxBackoff bounds the pause after unexpected errors: what mends itself is
	// seen half a minute later at worst.
	maxBackoff = 30 * time.Second
)

func init() { ctrlmetrics.Registry.MustRegister(access.Metrics()...) }

// Scheme knows the kinds that the operator and its webhook use. All those of
// Kubernetes would take megabytes.
func Scheme() *runtime.Scheme {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{
		corev1.AddToScheme, admissionregistrationv1.AddToScheme, authenticationv1.AddToScheme, v1alpha1.AddToScheme,
	} {
		if err := add(scheme); err != nil {
			// Only kinds of one name and two types can fail here: a mistake in the code.
			panic(err)
		}
	}
	return scheme
}

// SetupWithManager adds both controllers to a manager that was made with
// CacheOptions.
func SetupWithManager(ctx context.Context, mgr ctrl.Manager, options Options) error {
	if options.ResyncInterval == 0 {
		options.ResyncInterval = DefaultResyncInterval
	}
	if options.Registerer == nil {
		options.Registerer = ctrlmetrics.Registry
	}
	// Not the name of the binary, which says nothing to who reads managedFields.
	writer := client.WithFieldOwner(mgr.GetClient(), FieldManager)
	index, err := newStoreIndex(ctx, mgr.GetCache())
	if err != nil {
		return err
	}
	forStores, forClasses := make(notices, noticeBuffer), make(notices, classBuffer)
	counts := newMetrics()
	homes := homes{cached: writer, uncached: mgr.GetAPIReader()}
	memory := stream.NewMemory()
	var sweeps *sweeper
	connections := stream.NewConnections(func(n stream.Notice) {
		if n.Stream == "" {
			sweeps.expire(n.Class)
			forClasses.send(n)
		}
		if n.FirstEvent.Sequence > 0 {
			memory.NoteFirst(n.Class, n.Stream, n.FirstEvent)
		}
		forStores.send(n)
	}, counts.measureRequest, stream.Self{
		Cluster: homes.cluster,
		Standing: func(ctx context.Context, owner stream.Owner) stream.Standing {
			// The one who asks hears that it could not be found out.
			standing, _ := homes.standing(ctx, index, owner)
			return standing
		},
	})
	connect := connector{cached: mgr.GetClient(), uncached: mgr.GetAPIReader(), connections: connections}
	sweeps = newSweeper(connect, index, homes, memory, options.ResyncInterval/2, forStores.send)
	callouts := &callouts{
		connector: connect, client: writer, stores: index, recorder: mgr.GetEventRecorder("aether-operator"),
		changed: func(class string) { forClasses.send(stream.Notice{Class: class}) }, classes: map[string]*callout{},
	}
	versions := newVersionReconciler(mgr.GetClient(), connections, index, forStores.send)
	stores := &EventStoreReconciler{
		Client: writer, connector: connect,
		recorder: mgr.GetEventRecorder("aether-operator"), resync: options.ResyncInterval,
		stores: index, sweeper: sweeps, memory: memory, records: newRecords(), metrics: counts, contests: newContests(), homes: homes, quotas: newQuotas(), versions: versions,
	}
	classes := &EventStoreClassReconciler{
		Client: writer, connector: connect,
		recorder: mgr.GetEventRecorder("aether-operator"), resync: options.ResyncInterval,
		stores: index, sweeper: sweeps, callouts: callouts,
	}
	collector := &storesCollector{stores: index, memory: memory, versions: versions, leads: mgr.Elected(), limit: options.StoreMetricsLimit}
	if err := errors.Join(counts.register(options.Registerer), options.Registerer.Register(collector)); err != nil {
		return fmt.Errorf("register the metrics: %w", err)
	}
	if err := stores.setup(mgr, forStores); err != nil {
		return fmt.Errorf("set up the controller of EventStores: %w", err)
	}
	if err := versions.setup(mgr); err != nil {
		return fmt.Errorf("set up the controller of the versions of actors: %w", err)
	}
	if err := classes.setup(mgr, forClasses); err != nil {
		return fmt.Errorf("set up the controller of EventStoreClasses: %w", err)
	}
	if err := (&CalloutReconciler{Client: writer, callouts: callouts}).setup(mgr); err != nil {
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
