// Command operator runs the controllers of EventStores and EventStoreClasses.
package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"time"

	"github.com/KimMachineGun/automemlimit/memlimit"
	"github.com/go-logr/logr"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/healthz"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"
	"sigs.k8s.io/controller-runtime/pkg/webhook"

	"git.flowmade.one/flowmade-one/aether-operator/internal/controller"
	"git.flowmade.one/flowmade-one/aether-operator/internal/metricsaccess"
	injection "git.flowmade.one/flowmade-one/aether-operator/internal/webhook"
)

func main() {
	err := boundGarbage(memlimit.FromCgroup)
	if err == nil {
		err = run(ctrl.SetupSignalHandler(), os.Args[1:])
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "operator: %v\n", err)
		os.Exit(1)
	}
}

// settings are the flags. --kubeconfig is that of controller-runtime.
type settings struct {
	leaderElection          bool
	leaderElectionNamespace string
	metricsAddress          string
	metricsSecure           bool
	probeAddress            string
	webhookPort             int
	sidecarImage            string
	resync                  time.Duration
	storeMetricsLimit       int
	profileAddress          string
	logLevel                slog.Level
}

// envSidecarImage names the image of the sidecar: in a Deployment, a variable can be
// changed by its name.
const envSidecarImage = "AETHER_SIDECAR_IMAGE"

// defaultNamespace is where config/default puts the operator.
const defaultNamespace = "aether-system"

// namespace is where the operator runs; a pod learns it from the downward API.
func namespace() string {
	if ns := os.Getenv("POD_NAMESPACE"); ns != "" {
		return ns
	}
	return defaultNamespace
}

func parse(args []string) (settings, error) {
	var s settings
	flags := flag.NewFlagSet("operator", flag.ContinueOnError)
	ctrl.RegisterFlags(flags)
	flags.BoolVar(&s.leaderElection, "leader-elect", false, "Let one replica reconcile and the others stand by.")
	flags.StringVar(&s.leaderElectionNamespace, "leader-election-namespace", namespace(), "The namespace of the lease of the leader.")
	flags.StringVar(&s.metricsAddress, "metrics-bind-address", ":8443", `Where /metrics is served; "0" turns it off.`)
	flags.BoolVar(&s.metricsSecure, "metrics-secure", true, "Serve /metrics over HTTPS, to those whom the API server authenticates and authorizes.")
	flags.StringVar(&s.probeAddress, "health-probe-bind-address", ":8081", "Where /healthz and /readyz are served.")
	flags.IntVar(&s.webhookPort, "webhook-port", 9443, "The port of the webhook that injects the sidecar; 0 turns it off.")
	flags.StringVar(&s.sidecarImage, "sidecar-image", cmp.Or(os.Getenv(envSidecarImage), "git.flowmade.one/flowmade-one/aether-sidecar:latest"), "The image of the sidecar that is injected; "+envSidecarImage+" where it is left out.")
	flags.DurationVar(&s.resync, "resync-interval", controller.DefaultResyncInterval, "How often a settled object is looked at again.")
	flags.IntVar(&s.storeMetricsLimit, "store-metrics-limit", controller.DefaultStoreMetricsLimit, "How many EventStores, the first by namespace and name, have metrics of their own, ten each; 0 turns them off.")
	flags.StringVar(&s.profileAddress, "pprof-bind-address", "", "Where /debug/pprof is served, to anybody who can connect; empty turns it off.")
	flags.TextVar(&s.logLevel, "log-level", slog.LevelInfo, "What is logged, as JSON on standard error: debug, info, warn or error.")
	if err := flags.Parse(args); err != nil {
		return s, err
	}
	switch {
	case flags.NArg() > 0:
		return s, fmt.Errorf("unexpected argument %q: the operator takes flags only", flags.Arg(0))
	case s.resync <= 0:
		return s, fmt.Errorf("--resync-interval is %s: it must be more than 0", s.resync)
	case s.storeMetricsLimit < 0:
		return s, fmt.Errorf("--store-metrics-limit is %d: it must be 0 or more", s.storeMetricsLimit)
	case s.webhookPort < 0 || s.webhookPort > 65535:
		return s, fmt.Errorf("--webhook-port is %d: it must be a port, or 0 for none", s.webhookPort)
	}
	return s, nil
}

func run(ctx context.Context, args []string) error {
	s, err := parse(args)
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	if err != nil {
		return err
	}
	logs := slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: s.logLevel})
	ctrl.SetLogger(logr.FromSlogHandler(logs))
	mgr, err := newManager(s)
	if err != nil {
		return err
	}
	if err := controller.SetupWithManager(ctx, mgr, controller.Options{ResyncInterval: s.resync, StoreMetricsLimit: s.storeMetricsLimit}); err != nil {
		return err
	}
	if s.webhookPort != 0 {
		if err := injection.SetupWithManager(mgr, injection.Options{SidecarImage: s.sidecarImage}); err != nil {
			return err
		}
	}
	if err := addProbes(mgr); err != nil {
		return err
	}
	if err := mgr.Start(ctx); err != nil {
		return fmt.Errorf("run the controllers: %w", err)
	}
	return nil
}

// gracePeriod is how long passes that are under way may take to end: each call
// out is bounded by seconds.
var gracePeriod = 20 * time.Second

func newManager(s settings) (manager.Manager, error) {
	restConfig, err := ctrl.GetConfig()
	if err != nil {
		return nil, fmt.Errorf("find the API server: %w: run in a cluster, or give --kubeconfig", err)
	}
	// What is written without a name of its own is written under that of the client.
	restConfig.UserAgent = controller.FieldManager
	mgr, err := ctrl.NewManager(restConfig, ctrl.Options{
		Scheme: controller.Scheme(),
		Cache:  controller.CacheOptions(),
		// A replica that stands by fills its caches too, and takes over at once.
		Controller:                    config.Controller{EnableWarmup: new(true)},
		Metrics:                       metricsOptions(s),
		WebhookServer:                 webhook.NewServer(webhook.Options{Port: s.webhookPort}),
		HealthProbeBindAddress:        s.probeAddress,
		PprofBindAddress:              s.profileAddress,
		LeaderElection:                s.leaderElection,
		LeaderElectionID:              "aether-operator.aether.flowmade.one",
		LeaderElectionNamespace:       s.leaderElectionNamespace,
		LeaderElectionReleaseOnCancel: true,
		GracefulShutdownTimeout:       &gracePeriod,
	})
	if err != nil {
		return nil, fmt.Errorf("set up the manager: %w", err)
	}
	return mgr, nil
}

func metricsOptions(s settings) metricsserver.Options {
	options := metricsserver.Options{BindAddress: s.metricsAddress, SecureServing: s.metricsSecure}
	if s.metricsSecure {
		options.FilterProvider = metricsaccess.Filter
		// HTTP/2 lets a client make a server work for requests it has cancelled.
		options.TLSOpts = []func(*tls.Config){func(c *tls.Config) { c.NextProtos = []string{"http/1.1"} }}
	}
	return options
}

// addProbes: alive is to answer at all; ready is to know the cluster and to reach
// it. The webhook adds a check of its own.
func addProbes(mgr manager.Manager) error {
	if err := mgr.AddHealthzCheck("ping", healthz.Ping); err != nil {
		return fmt.Errorf("add /healthz: %w", err)
	}
	api, err := discovery.NewDiscoveryClientForConfigAndClient(mgr.GetConfig(), mgr.GetHTTPClient())
	if err != nil {
		return fmt.Errorf("make a client for /readyz: %w", err)
	}
	for name, check := range map[string]healthz.Checker{
		"apiserver": func(request *http.Request) error { return checkAPIServer(request.Context(), api.RESTClient()) },
		"caches":    func(request *http.Request) error { return checkCaches(request.Context(), mgr.GetCache()) },
	} {
		if err := mgr.AddReadyzCheck(name, check); err != nil {
			return fmt.Errorf("add %s to /readyz: %w", name, err)
		}
	}
	return nil
}

// The checks are made one after the other, and answered before the kubelet loses
// patience, which config/manager sets to 2 s.
const (
	apiServerPatience = time.Second
	cachesPatience    = 500 * time.Millisecond
)

// checkAPIServer asks for the version: everybody may who is authenticated, and it
// costs the API server next to nothing.
func checkAPIServer(ctx context.Context, api rest.Interface) error {
	ctx, cancel := context.WithTimeout(ctx, apiServerPatience)
	defer cancel()
	if err := api.Get().AbsPath("/version").Do(ctx).Error(); err != nil {
		return fmt.Errorf("the API server does not answer: %w", err)
	}
	return nil
}

// checkCaches: until they are filled, a store that exists would look deleted.
func checkCaches(ctx context.Context, informers cache.Cache) error {
	ctx, cancel := context.WithTimeout(ctx, cachesPatience)
	defer cancel()
	if !informers.WaitForCacheSync(ctx) {
		return errors.New("the caches are not filled yet: the API server has not told all that was asked")
	}
	return nil
}
