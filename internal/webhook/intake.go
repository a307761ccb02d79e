package webhook

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"golang.org/x/sync/semaphore"
)

const (
	// callTimeout is how long the API server waits, as config/webhook has it.
	callTimeout = 5 * time.Second
	// maxBodyBytes is the largest review. The API server takes no larger object.
	maxBodyBytes = 3 << 20
	// largeBodyBytes is more than almost every pod has. Larger ones are read a few at
	// a time, so that what they hold fits into the memory of the operator, and the
	// others do not wait behind them.
	largeBodyBytes = 128 << 10
	largeAtOnce    = 4
	smallAtOnce    = 64
)

// intake bounds what is read and worked on at once, and for how long.
type intake struct {
	small, large *semaphore.Weighted
}

func newIntake() *intake {
	return &intake{small: semaphore.NewWeighted(smallAtOnce), large: semaphore.NewWeighted(largeAtOnce)}
}

// bound reads no more than maxBodyBytes, and ends the context of a call when the
// API server has given up on it.
func (i *intake) bound(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength > maxBodyBytes {
			http.Error(w, fmt.Sprintf("the review has %d bytes: at most %d are read", r.ContentLength, maxBodyBytes), http.StatusRequestEntityTooLarge)
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), callTimeout)
		defer cancel()
		// A body whose length is not told may be of any.
		places := i.small
		if r.ContentLength < 0 || r.ContentLength > largeBodyBytes {
			places = i.large
		}
		if err := places.Acquire(ctx, 1); err != nil {
			http.Error(w, fmt.Sprintf("too many pods are created at this moment: waited %s for a place: try again", callTimeout), http.StatusServiceUnavailable)
			return
		}
		defer places.Release(1)
		r.Body = http.MaxBytesReader(w, r.Body, maxBodyBytes)
		next.ServeHTTP(w, r.WithContext(ctx))
	})
}
