// Command operator runs the controllers of EventStores and EventStoreClasses.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/KimMachineGun/automemlimit/memlimit"
	"github.com/go-logr/logr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/healthz"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"git.flowmade.one/flowmade-one/aether-operator/internal/controller"
	"git.flowmade.one/flowmade-one/aether-operator/internal/ports"
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
	flags.StringVar(&s.probeAddress, "health-probe-bind-address", ":8081", `Where /healthz and /readyz are served; "0" turns it off.`)
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
	if err := mgr.serveProbes(ctx, s.probeAddress); err != nil {
		return err
	}
	if err := serveMetrics(ctx, mgr, s); err != nil {
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

func newManager(s settings) (probed, error) {
	restConfig, err := ctrl.GetConfig()
	if err != nil {
		return probed{}, fmt.Errorf("find the API server: %w: run in a cluster, or give --kubeconfig", err)
	}
	// What is written without a name of its own is written under that of the client.
	restConfig.UserAgent = controller.FieldManager
	mgr, err := ctrl.NewManager(restConfig, ctrl.Options{
		Scheme: controller.Scheme(),
		Cache:  controller.CacheOptions(),
		// A replica that stands by fills its caches too, and takes over at once.
		Controller: config.Controller{EnableWarmup: new(true)},
		// The ports are served here, with bounds.
		Metrics:                       metricsserver.Options{BindAddress: "0"},
		HealthProbeBindAddress:        "0",
		WebhookServer:                 ports.NewWebhook("", s.webhookPort),
		PprofBindAddress:              s.profileAddress,
		LeaderElection:                s.leaderElection,
		LeaderElectionID:              "aether-operator.aether.flowmade.one",
		LeaderElectionNamespace:       s.leaderElectionNamespace,
		LeaderElectionReleaseOnCancel: true,
		GracefulShutdownTimeout:       &gracePeriod,
	})
	if err != nil {
		return probed{}, fmt.Errorf("set up the manager: %w", err)
	}
	return probed{Manager: mgr, ready: map[string]healthz.Checker{}}, nil
}
