package main

import (
	"math"
	"os"
	"runtime"
	"runtime/debug"

	"github.com/KimMachineGun/automemlimit/memlimit"

	"git.flowmade.one/flowmade-one/aether-operator/internal/garbage"
	"git.flowmade.one/flowmade-one/aether-operator/internal/sidecar"
)

const (
	// lazyGC is how much garbage there may be in percent of what is in use, where a
	// limit holds all the same: little is in use, and collecting at twice of that is
	// often. See docs/benchmarks.md.
	lazyGC = 200
	// processorMemory is how many bytes of GOMEMLIMIT there are for each processor that
	// runs Go at once: each has memory set aside, and collects less of what others leave.
	// With 64 of them, as on a node of that size, the default limit of 64Mi was overrun;
	// what was measured with two holds for it. See docs/benchmarks.md.
	processorMemory = 25 << 20
	// aheadShare is the part of the memory for calls that durable subscriptions may have
	// for events which they have read ahead: a backlog of large ones refuses no calls.
	aheadShare = 4
)

// limitMemory makes the garbage collector work harder near the container's
// memory limit, and uses no more processors than go with it: without that, garbage
// alone could have the sidecar killed. What the environment says of GOMEMLIMIT, GOGC
// and GOMAXPROCS goes first.
func limitMemory(container memlimit.Provider) error {
	limit, err := garbage.Limit(container)
	if err != nil || limit == 0 {
		return err
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(lazyGC)
	}
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(min(runtime.GOMAXPROCS(0), max(1, int(limit/processorMemory))))
	}
	return nil
}

// memoryForCalls is how much of the memory limit what is under way may take, and the
// sidecar's default where there is none. The other half is for the program itself, connections and
// garbage.
func memoryForCalls() int64 {
	limit := debug.SetMemoryLimit(-1)
	if limit == math.MaxInt64 {
		return sidecar.DefaultMemory
	}
	return limit / 2
}
