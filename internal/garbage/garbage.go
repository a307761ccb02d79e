// Package garbage keeps what Go's garbage collector has not collected yet from filling the
// memory of a container.
package garbage

import (
	"errors"
	"fmt"
	"math"

	"github.com/KimMachineGun/automemlimit/memlimit"
)

// limitRatio is the part of the container's memory limit near which garbage is collected
// more often. The rest is for what the collector does not count, the pages of the program
// and buffers of sockets above all.
const limitRatio = 0.8

// Limit sets GOMEMLIMIT to eight tenths of the container's memory limit, unless the
// environment does, and gives what it is then, in bytes; 0 where there is no limit.
func Limit(container memlimit.Provider) (int64, error) {
	limit, err := memlimit.Set(memlimit.WithProvider(container), memlimit.WithRatio(limitRatio))
	switch {
	case errors.Is(err, memlimit.ErrNoCgroup), errors.Is(err, memlimit.ErrCgroupsNotSupported):
		// No container: a laptop.
		return 0, nil
	case err != nil:
		return 0, fmt.Errorf("find out the memory limit of the container: %w: set GOMEMLIMIT to eight tenths of it", err)
	case limit == math.MaxInt64:
		return 0, nil
	}
	return limit, nil
}
