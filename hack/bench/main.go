// Command bench measures the engine against the plainest use of nats.go on the
// same connection, the same streams and the same payload, and prints one table.
// Each row is a ratio of things that were measured in turn, in one run: the
// machine may be shared, and what is measured a minute later is something else.
package main

import (
	"cmp"
	"context"
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
)

func main() {
	only := flag.String("run", "", "measure only the parts whose name matches this `regular expression`")
	largest := flag.Int("messages", 3_000_000, "messages in the largest stream that is read")
	serve := flag.String("serve-nats", "", "serve NATS below this `directory` until standard input ends: the part sidecar starts itself so")
	flag.Parse()
	if *serve != "" {
		if err := serveNATS(*serve); err != nil {
			fmt.Fprintf(os.Stderr, "bench: %v\n", err)
			os.Exit(1)
		}
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, *only, *largest); err != nil {
		fmt.Fprintf(os.Stderr, "bench: %v\n", err)
		stop()
		os.Exit(1)
	}
}

// row is one line of the table.
type row struct {
	what, measured, ratio, aim string
}

// bench is what the parts share.
type bench struct {
	largest int
	rows    []row
}

func run(ctx context.Context, only string, largest int) error {
	wanted, err := regexp.Compile(only)
	if err != nil {
		return fmt.Errorf("read -run: %w", err)
	}
	b := &bench{largest: largest}
	for _, part := range []struct {
		name    string
		measure func(context.Context) error
	}{
		{"save", b.saves},
		{"batch", b.batches},
		{"read", b.reads},
		{"tail", b.tail},
		{"subscribe", b.subscriptions},
		{"size", b.sizes},
		{"sidecar", b.sidecars},
	} {
		if !wanted.MatchString(part.name) {
			continue
		}
		started := time.Now()
		if err := part.measure(ctx); err != nil {
			return fmt.Errorf("measure %s: %w", part.name, err)
		}
		fmt.Fprintf(os.Stderr, "%s: %.0f s\n", part.name, time.Since(started).Seconds())
	}
	b.print()
	return nil
}

func (b *bench) add(what, aim, ratio, measured string, args ...any) {
	b.rows = append(b.rows, row{what, fmt.Sprintf(measured, args...), ratio, aim})
	fmt.Fprintf(os.Stderr, "  %s: %s (%s)\n", what, ratio, fmt.Sprintf(measured, args...))
}

func (b *bench) print() {
	fmt.Printf("%s, %s, nats-server %s, nats.go %s, %d CPUs, %s; servers in the same process (for the part sidecar in one of its own), file storage, S2, no fsync at each write; payload 256 B.\n\n",
		time.Now().UTC().Format(time.DateOnly), runtime.Version(), server.VERSION, nats.Version, runtime.NumCPU(), runtime.GOARCH)
	fmt.Println("| what | ratio | aim | measured |\n|---|---|---|---|")
	for _, r := range b.rows {
		fmt.Printf("| %s | %s | %s | %s |\n", r.what, r.ratio, cmp.Or(r.aim, "-"), r.measured)
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
