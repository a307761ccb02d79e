package main

import (
	"math"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
)

// lazyGC is how much garbage there may be in percent of what is in use, where a
// limit holds all the same: little is in use, and collecting at twice of that is
// often. See docs/benchmarks.md.
const lazyGC = 200

// limitMemory makes the garbage collector work harder near the container's
// memory limit, which the file of the control group holds: without that, garbage
// alone could have the sidecar killed. GOMEMLIMIT goes first, where it is set.
func limitMemory(file string) {
	if os.Getenv("GOMEMLIMIT") != "" {
		return
	}
	content, err := os.ReadFile(file)
	if err != nil {
		// No control group: a laptop.
		return
	}
	if limit, err := strconv.ParseInt(strings.TrimSpace(string(content)), 10, 64); err == nil {
		// The rest is for what the collector does not count, buffers of sockets above all.
		debug.SetMemoryLimit(limit / 10 * 8)
		if os.Getenv("GOGC") == "" {
			debug.SetGCPercent(lazyGC)
		}
	}
}

// memoryForCalls is how much of the memory limit what is under way may take, and
// 0 where there is none. The other half is for the program itself, connections and
// garbage.
func memoryForCalls() int64 {
	limit := debug.SetMemoryLimit(-1)
	if limit == math.MaxInt64 {
		return 0
	}
	return limit / 2
}
