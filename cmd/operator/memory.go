package main

import (
	"os"
	"runtime/debug"

	"github.com/KimMachineGun/automemlimit/memlimit"

	"git.flowmade.one/flowmade-one/aether-operator/internal/garbage"
)

// keenGC lets the heap grow by half of what is live, and not by all of it, until it is
// collected: with thousands of stores that is tens of MiB, for a few thousandths of a
// core.
const keenGC = 50

// boundGarbage keeps garbage from filling the memory of the container: lists of large
// objects are mostly garbage. What the environment says of GOMEMLIMIT and GOGC goes first.
func boundGarbage(container memlimit.Provider) error {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(keenGC)
	}
	_, err := garbage.Limit(container)
	return err
}
