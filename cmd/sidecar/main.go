// Command sidecar, in an image aether-sidecar, serves the event stores that a
// pod is bound to on localhost, or stores in memory on a laptop.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/KimMachineGun/automemlimit/memlimit"
	"github.com/spf13/pflag"
	"golang.org/x/sync/semaphore"

	"git.flowmade.one/flowmade-one/aether-operator/internal/sidecar"
)

func main() {
	if err := limitMemory(memlimit.FromCgroup); err != nil {
		slog.New(slog.NewJSONHandler(os.Stderr, nil)).Warn("the garbage collector knows no limit", "error", err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	// A second signal ends the program at once.
	context.AfterFunc(ctx, stop)
	if err := run(ctx, os.Args[1:], os.Getenv, os.Stdout, os.Stderr); err != nil {
		fmt.Fprintf(os.Stderr, "aether-sidecar: %v\n", err)
		os.Exit(1)
	}
}

// run is the program: it returns when ctx has ended and the calls under way are
// answered, or with what keeps it from serving.
func run(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) error {
	o, err := parseOptions(args, getenv, stderr)
	if errors.Is(err, pflag.ErrHelp) {
		return nil
	}
	if err != nil {
		return err
	}
	if o.version {
		_, err := fmt.Fprintln(stdout, "aether-sidecar", version())
		return err
	}
	if o.probe != "" {
		return probe(ctx, o.probe, o.healthListen)
	}
	logger := slog.New(slog.NewJSONHandler(stderr, &slog.HandlerOptions{Level: o.logLevel}))
	memory := memoryForCalls()
	budget := semaphore.NewWeighted(memory)
	stores, closeStores, err := openStores(o, logger, budget, semaphore.NewWeighted(memory/aheadShare))
	if err != nil {
		return err
	}
	defer closeStores()
	tracer, stopTracing, err := startTracing(ctx, getenv, logger)
	if err != nil {
		return err
	}
	defer stopTracing()
	server, err := sidecar.New(sidecar.Config{
		Stores: stores, MaxBodyBytes: o.maxBodyBytes, RequestTimeout: o.requestTimeout, Logger: logger,
		MaxCalls: o.maxCalls, MaxStreams: o.maxStreams, Tracer: tracer, WaitForStores: o.waitForStores, Memory: memory, Budget: budget, AllowedHosts: o.allowedHosts, AllowedOrigins: o.allowedOrigins,
	})
	if err != nil {
		return err
	}
	return serve(ctx, o, server, logger)
}

// serve listens and serves until ctx ends.
func serve(ctx context.Context, o options, server *sidecar.Server, logger *slog.Logger) error {
	l, err := listen(o)
	if err != nil {
		return err
	}
	defer l.close()
	logger.Info("serving", "version", version(), "api", l.addresses(), "health", l.health.Addr().String())
	if err := server.Serve(ctx, l.api, l.health); err != nil {
		return err
	}
	logger.Info("stopped: every call under way was answered")
	return nil
}

// version is that of the module, or the commit where it was built from a
// checkout.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" {
		return "unknown"
	}
	return info.Main.Version
}
