package testenv

import (
	"testing"
	"time"
)

// Eventually polls until try returns nil, and fails the test with its last error
// after limit.
func Eventually(t testing.TB, limit time.Duration, what string, try func() error) {
	t.Helper()
	timeout := time.After(limit)
	for {
		err := try()
		if err == nil {
			return
		}
		select {
		case <-timeout:
			t.Fatalf("waited %s for %s: %v", limit, what, err)
		case <-t.Context().Done():
			t.Fatalf("wait for %s: %v", what, t.Context().Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}
