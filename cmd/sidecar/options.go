package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/memory"
	"git.flowmade.one/flowmade-one/aether-operator/internal/sidecar"
	"git.flowmade.one/flowmade-one/aether-operator/internal/sidecar/binding"
)

// Environment variables.
const (
	envStores      = "AETHER_STORES"
	envSocket      = "AETHER_SOCKET"
	envBindingRoot = "SERVICE_BINDING_ROOT"
	envTokenFile   = "AETHER_TOKEN_FILE"
)

// options is what the program is told.
type options struct {
	listen, healthListen string
	// socket is the path of a Unix socket; empty for none.
	socket string
	memory bool
	// duplicateWindow is that of stores in memory.
	duplicateWindow time.Duration
	// stores are their names; the first is the default.
	stores      []string
	bindingRoot string
	// tokenFile holds the token of the pod's service account; empty for none.
	tokenFile      string
	maxBodyBytes   int64
	requestTimeout time.Duration
	// maxCalls and maxStreams may be under way at once.
	maxCalls, maxStreams int
	// allowedHosts and allowedOrigins may call beside this machine.
	allowedHosts, allowedOrigins []string
	logLevel                     slog.Level
	version                      bool
	// waitForStores is how long the start of the pod waits for them; 0 is for ever.
	waitForStores time.Duration
	// probe is what to ask of the sidecar that runs here; empty to be it.
	probe string
}

func parseOptions(args []string, getenv func(string) string, output io.Writer) (options, error) {
	o := options{socket: getenv(envSocket), bindingRoot: getenv(envBindingRoot), tokenFile: getenv(envTokenFile)}
	var level string
	flags := pflag.NewFlagSet("aether-sidecar", pflag.ContinueOnError)
	flags.SetOutput(output)
	flags.Usage = func() {
		_, _ = fmt.Fprintf(output, usage, flags.FlagUsages())
	}
	flags.StringVar(&o.listen, "listen", "127.0.0.1:4280", "address of the API: HTTP with JSON, Connect and gRPC")
	flags.StringVar(&o.healthListen, "health-listen", ":4281", "address of /healthz, /startupz, /readyz and /metrics")
	flags.BoolVar(&o.memory, "memory", false, "keep events in memory, for a laptop or a test: no NATS, and all is lost at the end")
	flags.DurationVar(&o.duplicateWindow, "duplicate-window", memory.DefaultDuplicateWindow, "with --memory, how long the ids of events are known whatever a save says; that of an EventStore is its own")
	flags.StringArrayVar(&o.stores, "store", nil, "a store to serve, may be repeated; the first is the one of calls that name none")
	flags.Int64Var(&o.maxBodyBytes, "max-body-bytes", 0, "largest body of a request; 0 is 8 MiB, or less where memory is limited to less than 60 MiB")
	flags.DurationVar(&o.requestTimeout, "request-timeout", sidecar.DefaultRequestTimeout, "longest that a call may take which is no stream")
	flags.IntVar(&o.maxCalls, "max-calls", sidecar.DefaultMaxCalls, "most calls under way at once that are no streams")
	flags.IntVar(&o.maxStreams, "max-streams", sidecar.DefaultMaxStreams, "most streams open at once")
	flags.StringArrayVar(&o.allowedHosts, "allow-host", nil, "a name by which programs call the sidecar beside localhost and addresses, may be repeated")
	flags.StringArrayVar(&o.allowedOrigins, "allow-origin", nil, "the origin of web pages that may call the sidecar, as http://localhost:3000, may be repeated")
	flags.DurationVar(&o.waitForStores, "wait-for-stores", 0, "longest that /startupz, and so the start of the pod, waits for the stores; 0 is for ever")
	flags.StringVar(&o.probe, "probe", "", "ask the sidecar that runs here, and end: startup or liveness")
	flags.StringVar(&level, "log-level", "info", "debug, info, warn or error")
	flags.BoolVar(&o.version, "version", false, "print the version and end")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if flags.NArg() > 0 {
		return o, fmt.Errorf("argument %q is not understood: aether-sidecar takes flags alone", flags.Arg(0))
	}
	if o.version || o.probe != "" {
		return o, nil
	}
	if err := parseLevel(&o.logLevel, level); err != nil {
		return o, err
	}
	if o.maxBodyBytes < 0 || o.requestTimeout <= 0 || o.maxCalls < 1 || o.maxStreams < 1 || o.waitForStores < 0 {
		return o, errors.New("--request-timeout, --max-calls and --max-streams must be above 0, and --max-body-bytes not below, nor --wait-for-stores")
	}
	if o.duplicateWindow <= 0 {
		return o, errors.New("--duplicate-window must be above 0")
	}
	if flags.Changed("duplicate-window") && !o.memory {
		return o, errors.New("--duplicate-window is for --memory: the window of an EventStore is its spec.duplicateWindow")
	}
	if err := validateOrigins(o.allowedOrigins); err != nil {
		return o, err
	}
	return o, o.chooseStores(getenv(envStores))
}

// validateOrigins refuses what no browser would send.
func validateOrigins(origins []string) error {
	for _, origin := range origins {
		u, err := url.Parse(origin)
		if err != nil || u.Host == "" || origin != u.Scheme+"://"+u.Host {
			return fmt.Errorf("--allow-origin is %q: give a scheme and a host with its port, as http://localhost:3000", origin)
		}
	}
	return nil
}

const usage = `aether-sidecar serves event stores on localhost.

It reads the binding of each store from $SERVICE_BINDING_ROOT/<store>/, serves the
stores named by --store, else by AETHER_STORES, else every one that has a binding,
and listens on the Unix socket $AETHER_SOCKET too where that is set. Where a
binding says so it proves who it is with the service account token in the file
$AETHER_TOKEN_FILE.
With --memory it needs neither bindings nor NATS.

%s`

func parseLevel(level *slog.Level, text string) error {
	levels := map[string]slog.Level{"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError}
	found, ok := levels[text]
	if !ok {
		return fmt.Errorf("--log-level is %q: give debug, info, warn or error", text)
	}
	*level = found
	return nil
}

// storeName is a DNS label, which every name of an EventStore is.
var storeName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)

// chooseStores settles which stores are served: those of --store, else those of
// the environment, else every one that has a binding.
func (o *options) chooseStores(fromEnvironment string) error {
	if len(o.stores) == 0 {
		for _, name := range strings.Split(fromEnvironment, ",") {
			if name = strings.TrimSpace(name); name != "" {
				o.stores = append(o.stores, name)
			}
		}
	}
	if len(o.stores) == 0 && o.memory {
		return errors.New("--memory has no bindings to find stores in: name at least one, as --store orders")
	}
	if !o.memory && o.bindingRoot == "" {
		return errors.New("SERVICE_BINDING_ROOT is not set: it names the directory with a binding for each store; or use --memory --store orders")
	}
	if len(o.stores) == 0 {
		var err error
		if o.stores, err = binding.List(o.bindingRoot); err != nil {
			return err
		}
		if len(o.stores) == 0 {
			return fmt.Errorf("there is no binding below %s, the SERVICE_BINDING_ROOT: bind at least one store", o.bindingRoot)
		}
	}
	for i, name := range o.stores {
		if !storeName.MatchString(name) {
			return fmt.Errorf("store name %q is no DNS label: at most 63 of a-z, 0-9 and '-', with neither end a '-'", name)
		}
		if slices.Contains(o.stores[:i], name) {
			return fmt.Errorf("store %s is named twice", name)
		}
	}
	return nil
}
