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

// Who asks while a check is made does not wait for it, once there is an outcome.
func TestSharedCheckKeepsNobodyWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow, before := make(chan struct{}), errors.New("away")
		var made int
		check := shared(func(*http.Request) error {
			if made++; made == 1 {
				return before
			}
			<-slow
			return nil
		})
		asks := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/readyz", nil)
		if err := check(asks); !errors.Is(err, before) {
			t.Errorf("the first: %v", err)
		}
		time.Sleep(sharedFor + time.Millisecond)
		done := make(chan error)
		go func() { done <- check(asks) }()
		synctest.Wait()
		if err := check(asks); !errors.Is(err, before) {
			t.Errorf("another, while a check is made: %v", err)
		}
		close(slow)
		if err := <-done; err != nil {
			t.Errorf("who has it made: %v", err)
		}
		if err := check(asks); err != nil || made != 2 {
			t.Errorf("behind it: %v, made %d times", err, made)
		}
	})
}
