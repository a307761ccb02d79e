package openport

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// Whoever reaches a port has others asked once a second, however many come, and what was
// found is for all.
func TestShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked, outcome := 0, error(nil)
		check := Shared(func() error { asked++; return outcome })
		want := func(when string, want error, times int) {
			t.Helper()
			if got, err := check(t.Context()); got != want || err != nil || asked != times {
				t.Errorf("%s: %v, %v, asked %d times, want %v and %d", when, got, err, asked, want, times)
			}
		}
		var all sync.WaitGroup
		for range 100 {
			all.Go(func() { want("at once", nil, 1) })
		}
		all.Wait()
		outcome = errors.New("away")
		time.Sleep(sharedFor - time.Millisecond)
		want("a moment before the second is over", nil, 1)
		time.Sleep(time.Millisecond)
		want("a second later", outcome, 2)
		before := outcome
		outcome = nil
		want("a moment after an error", before, 2)
		time.Sleep(sharedFor)
		want("two seconds later", nil, 3)
	})
}

// What takes longer than it counts is asked for by one all the same, and who goes ends
// nothing for those who wait.
func TestSharedTakesLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		check := Shared(func() int { asked++; time.Sleep(3 * sharedFor); return asked })
		goes, cancel := context.WithCancel(t.Context())
		gone := make(chan error)
		go func() {
			_, err := check(goes)
			gone <- err
		}()
		synctest.Wait()
		var all sync.WaitGroup
		for range 3 {
			all.Go(func() {
				if got, err := check(t.Context()); got != 1 || err != nil {
					t.Errorf("found %d, %v, want what was asked first", got, err)
				}
			})
			time.Sleep(sharedFor / 2)
		}
		cancel()
		if err := <-gone; !errors.Is(err, context.Canceled) {
			t.Errorf("who goes has %v", err)
		}
		all.Wait()
		if got, err := check(t.Context()); got != 2 || err != nil {
			t.Errorf("found %d, %v, want it asked again", got, err)
		}
	})
}
