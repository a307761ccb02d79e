// Package openport is for ports that strangers reach: it bounds what they take of them.
package openport

import (
	"context"
	"time"

	"golang.org/x/sync/singleflight"
)

// sharedFor is how long it counts what was found, from the moment that it was asked.
const sharedFor = time.Second

// Shared asks once a second at most, for all who want to know: what was found then is for
// them too. ask has a deadline of its own, and no context: whoever has it asked may be gone
// before the others are. The error is that of the context of one who waits no longer.
func Shared[T any](ask func() T) func(context.Context) (T, error) {
	// One at a time has what follows.
	var asking singleflight.Group
	var found T
	var until time.Time
	return func(ctx context.Context) (T, error) {
		asked := asking.DoChan("", func() (any, error) {
			if now := time.Now(); !now.Before(until) {
				found = ask()
				until = now.Add(sharedFor)
			}
			return found, nil
		})
		select {
		case result := <-asked:
			// An error that is nil is of no type.
			known, _ := result.Val.(T)
			return known, nil
		case <-ctx.Done():
			var nothing T
			return nothing, ctx.Err()
		}
	}
}
