// Command benchoperator measures the operator binary against a real API server
// and real nats-servers, all on this machine, and prints one table. Every
// EventStore is two streams and a binding.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

func main() {
	stores := flag.Int("stores", 1000, "how many EventStores")
	servers := flag.Int("servers", 1, "how many nats-servers, and replicas of each stream")
	samples := flag.Int("samples", 100, "how many streams are harmed, one after the other, to see them healed")
	rest := flag.Duration("rest", time.Minute, "how long the operator is watched at rest")
	profile := flag.Bool("profile", false, "let the operator serve /debug/pprof on "+profileAddress)
	simulate := flag.Bool("simulate", false, "let memory stand in for JetStream, for tens of thousands of streams; nothing is harmed then")
	flag.Parse()
	if *simulate {
		*servers, *samples = 1, 0
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, &bench{stores: *stores, profile: *profile, simulate: *simulate}, *servers, *samples, *rest); err != nil {
		fmt.Fprintf(os.Stderr, "bench-operator: %v\n", err)
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context, b *bench, servers, samples int, rest time.Duration) (err error) {
	defer func() { err = errors.Join(err, b.stop()) }()
	if err := b.start(ctx, servers); err != nil {
		return err
	}
	fmt.Printf("%s, %s, nats-server %s, %d CPUs, %s; %d EventStores, %d server(s) in one process; etcd without fsync.\n\n",
		time.Now().UTC().Format(time.DateOnly), runtime.Version(), server.VERSION, runtime.NumCPU(), runtime.GOARCH, b.stores, servers)
	fmt.Println("| work | time | API server writes | API server reads | NATS requests | passes | resident | CPU of the operator, kube-apiserver, etcd, load and servers |\n|---|---|---|---|---|---|---|---|")
	for _, part := range []struct {
		name string
		work func(context.Context) error
		// check is not measured.
		check func(context.Context) error
	}{
		{"created, all Ready", b.create, nil},
		{"one field changed on all, servers follow", b.update, b.checkUpdated},
		{fmt.Sprintf("at rest for %s", rest), func(ctx context.Context) error { return pause(ctx, rest) }, nil},
		{"restart, all looked at", b.restart, nil},
	} {
		err := b.measure(ctx, part.name, part.work)
		if err == nil && part.check != nil {
			err = part.check(ctx)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", part.name, err)
		}
	}
	for _, harm := range []struct {
		name string
		harm func(context.Context, int) (time.Duration, error)
	}{
		{"a field was changed on the server", b.healField},
		{"a stream was deleted on the server, the loss accepted", b.healStream},
	} {
		if samples == 0 {
			break
		}
		took, err := b.heal(ctx, min(samples, b.stores), harm.harm)
		if err != nil {
			return fmt.Errorf("%s: %w", harm.name, err)
		}
		slices.Sort(took)
		fmt.Printf("| healed after %s | median %s, worst %s of %d | | | | | | |\n", harm.name,
			took[len(took)/2].Round(time.Millisecond), took[len(took)-1].Round(time.Millisecond), len(took))
	}
	return nil
}

// heal harms one stream after the other.
func (b *bench) heal(ctx context.Context, samples int, harm func(context.Context, int) (time.Duration, error)) ([]time.Duration, error) {
	var all []time.Duration
	for i := range samples {
		took, err := harm(ctx, i)
		if err != nil {
			return nil, err
		}
		all = append(all, took)
	}
	return all, nil
}

// measure prints what a piece of work took, and what the operator did meanwhile.
func (b *bench) measure(ctx context.Context, name string, work func(context.Context) error) error {
	before, err := b.usage(ctx)
	if err != nil {
		return err
	}
	started := time.Now()
	if err := work(ctx); err != nil {
		return err
	}
	took := time.Since(started)
	after, err := b.usage(ctx)
	if err != nil {
		return err
	}
	if after.pid != before.pid {
		// Another process counts from the start.
		before = usage{requests: before.requests, others: before.others}
	}
	cpu := []string{fmt.Sprintf("%.1f", (after.cpu - before.cpu).Seconds())}
	for i := range after.others {
		cpu = append(cpu, fmt.Sprintf("%.1f", (after.others[i]-before.others[i]).Seconds()))
	}
	fmt.Printf("| %s | %.1f s | %.0f | %.0f | %d | %.0f | %d MiB | %s s |\n", name, took.Seconds(), after.writes-before.writes, after.reads-before.reads,
		after.requests-before.requests, after.passes-before.passes, after.resident>>20, strings.Join(cpu, ", "))
	return nil
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
