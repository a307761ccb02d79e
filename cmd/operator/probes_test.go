package main

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// Whoever reaches the port of the probes has the API server asked once a second, however
// many ask, and the outcome is for all.
func TestSharedCheck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		made, outcome := 0, error(nil)
		check := shared(func(r *http.Request) error {
			made++
			return errors.Join(r.Context().Err(), outcome)
		})
		gone := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/readyz", nil)
		var all sync.WaitGroup
		for range 100 {
			all.Go(func() {
				if err := check(gone); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		if made != 1 {
			t.Errorf("the check was made %d times for 100 who asked at once", made)
		}
		outcome = errors.New("away")
		if err := check(gone); err != nil {
			t.Errorf("a moment later: %v", err)
		}
		time.Sleep(sharedFor + time.Millisecond)
		if err := check(gone); !errors.Is(err, outcome) || made != 2 {
			t.Errorf("a second later: %v, made %d times", err, made)
		}
	})
}
