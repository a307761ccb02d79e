package main

import (
	"errors"
	"fmt"
	"os"
	"runtime/debug"

	"github.com/KimMachineGun/automemlimit/memlimit"
)

const (
	// limitRatio is the part of the container's memory limit near which garbage is collected
	// more often. The rest is for what the collector does not count, the pages of the
	// program above all.
	limitRatio = 0.8
	// keenGC lets the heap grow by half of what is live, and not by all of it, until it is
	// collected: with thousands of stores that is tens of MiB, for a few thousandths of a
	// core.
	keenGC = 50
)

// boundGarbage keeps garbage from filling the memory of the container: lists of large
// objects are mostly garbage. What the environment says of GOMEMLIMIT and GOGC goes first.
func boundGarbage(container memlimit.Provider) error {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(keenGC)
	}
	_, err := memlimit.Set(memlimit.WithProvider(container), memlimit.WithRatio(limitRatio))
	switch {
	case errors.Is(err, memlimit.ErrNoCgroup), errors.Is(err, memlimit.ErrCgroupsNotSupported):
		// No container: a laptop.
		return nil
	case err != nil:
		return fmt.Errorf("find out the memory limit of the container: %w: set GOMEMLIMIT to eight tenths of it", err)
	}
	return nil
}
