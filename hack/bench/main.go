// Command bench measures the engine against the plainest use of nats.go on the
// same connection, the same streams and the same payload, and prints one table.
// Each row is a ratio of things that were measured in turn, in one run: the
// machine may be shared, and what is measured a minute later is something else.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv/natsserver"
)

func main() {
	only := flag.String("run", "", "measure only the parts whose name matches this `regular expression`")
	at := flag.String("servers", "", "only with servers at the settings whose name matches this `regular expression`")
	largest := flag.Int("messages", 3_000_000, "messages in the largest stream that is read")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, *only, *at, *largest); err != nil {
		fmt.Fprintf(os.Stderr, "bench: %v\n", err)
		stop()
		os.Exit(1)
	}
}

// row is one line of the table.
type row struct {
	what, servers, measured, ratio, aim string
}

// bench is what the parts share.
type bench struct {
	largest int
	// binary is nats-server, and setting that of the servers which are measured now.
	binary   string
	settings []setting
	setting  setting
	rows     []row
}

// part is what -run chooses among.
type part struct {
	name    string
	measure func(context.Context) error
	// once: the servers' garbage collector makes no difference.
	once bool
}

func run(ctx context.Context, only, at string, largest int) (err error) {
	wanted, err := regexp.Compile(only)
	if err != nil {
		return fmt.Errorf("read -run: %w", err)
	}
	settingsWanted, err := regexp.Compile(at)
	if err != nil {
		return fmt.Errorf("read -servers: %w", err)
	}
	dir, err := os.MkdirTemp("", "aether-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	b := &bench{largest: largest}
	if b.binary, err = natsserver.Build(ctx, dir); err != nil {
		return err
	}
	for _, s := range settings {
		if settingsWanted.MatchString(s.name) {
			b.settings = append(b.settings, s)
		}
	}
	for _, part := range []part{
		{"save", b.saves, false},
		{"batch", b.batches, false},
		{"read", b.reads, false},
		{"tail", b.tail, false},
		{"subscribe", b.subscriptions, false},
		{"durable", b.durable, false},
		{"size", b.sizes, true},
		{"sidecar", b.sidecars, false},
	} {
		if !wanted.MatchString(part.name) {
			continue
		}
		if err := b.measure(ctx, part); err != nil {
			return fmt.Errorf("measure %s: %w", part.name, err)
		}
	}
	b.print()
	return nil
}

// measure measures a part with the servers at each setting.
func (b *bench) measure(ctx context.Context, part part) error {
	if part.once {
		b.setting = setting{name: "in the same process"}
		return part.measure(ctx)
	}
	for _, b.setting = range b.settings {
		started := time.Now()
		if err := part.measure(ctx); err != nil {
			return fmt.Errorf("servers at %s: %w", b.setting.name, err)
		}
		fmt.Fprintf(os.Stderr, "%s, servers at %s: %.0f s\n", part.name, b.setting.name, time.Since(started).Seconds())
	}
	return nil
}

func (b *bench) add(what, aim, ratio, measured string, args ...any) {
	b.rows = append(b.rows, row{what, b.setting.name, fmt.Sprintf(measured, args...), ratio, aim})
	fmt.Fprintf(os.Stderr, "  %s: %s (%s)\n", what, ratio, fmt.Sprintf(measured, args...))
}

func (b *bench) print() {
	fmt.Printf("%s, %s, nats-server %s, nats.go %s, %d CPUs, %s; each server in a process of its own, file storage, S2, no fsync at each write; payload 256 B.\n\n",
		time.Now().UTC().Format(time.DateOnly), runtime.Version(), server.VERSION, nats.Version, runtime.NumCPU(), runtime.GOARCH)
	fmt.Println("| what | servers | ratio | aim | measured |\n|---|---|---|---|---|")
	for _, r := range b.rows {
		fmt.Printf("| %s | %s | %s | %s | %s |\n", r.what, r.servers, r.ratio, cmp.Or(r.aim, "-"), r.measured)
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		var parts []string
		for _, m := range info.Deps {
			if strings.HasPrefix(m.Path, "github.com/nats-io/") || strings.HasPrefix(m.Path, "github.com/hashicorp/") {
				parts = append(parts, m.Path+" "+m.Version)
			}
		}
		fmt.Printf("\nModules: %s.\n", strings.Join(parts, ", "))
	}
}

// turns runs every function once to warm up, and then in turn, rounds times. It
// answers the median duration of each, and of the ratios of each to the first.
func turns(rounds int, runs ...func() error) (durations []time.Duration, ratios []float64, err error) {
	all, relative := make([][]time.Duration, len(runs)), make([][]float64, len(runs))
	for round := range rounds + 1 {
		var first time.Duration
		for i, run := range runs {
			started := time.Now()
			if err := run(); err != nil {
				return nil, nil, err
			}
			took := time.Since(started)
			if i == 0 {
				first = took
			}
			if round > 0 {
				all[i] = append(all[i], took)
				relative[i] = append(relative[i], float64(took)/float64(first))
			}
		}
	}
	for i := range runs {
		durations = append(durations, median(all[i]))
		ratios = append(ratios, median(relative[i]))
	}
	return durations, ratios, nil
}

func median[T cmp.Ordered](values []T) T {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}

func perSecond(n int, took time.Duration) string {
	return fmt.Sprintf("%.0f/s", float64(n)/took.Seconds())
}
