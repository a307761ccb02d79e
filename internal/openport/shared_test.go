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
		looks, outcome := 0, error(nil)
		check := Share(func() error { looks++; return outcome })
		want := func(when string, want error, times int) {
			t.Helper()
			if got, err := check.Found(t.Context()); got != want || err != nil || looks != times {
				t.Errorf("%s: %v, %v, looked %d times, want %v and %d", when, got, err, looks, want, times)
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

// A look that takes longer than it counts is one all the same. Who goes ends nothing for those
// who wait, and who does not want to wait is told what was found before.
func TestSharedTakesLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		looks := 0
		last := Share(func() int { looks++; time.Sleep(3 * sharedFor); return looks })
		want := func(who string, ask func(context.Context) (int, error), want int) {
			t.Helper()
			if got, err := ask(t.Context()); got != want || err != nil {
				t.Errorf("%s is told %d, %v, want %d", who, got, err, want)
			}
		}
		goes, cancel := context.WithCancel(t.Context())
		gone := make(chan error)
		go func() {
			_, err := last.Found(goes)
			gone <- err
		}()
		synctest.Wait()
		var all sync.WaitGroup
		all.Go(func() { want("who waits", last.Found, 1) })
		all.Go(func() { want("who does not wait, with none before", last.FoundOrBefore, 1) })
		cancel()
		if err := <-gone; !errors.Is(err, context.Canceled) {
			t.Errorf("who goes is told %v", err)
		}
		all.Wait()
		all.Go(func() { want("who has it look again", last.FoundOrBefore, 2) })
		synctest.Wait()
		all.Go(func() { want("who waits for that", last.Found, 2) })
		want("who does not wait", last.FoundOrBefore, 1)
		all.Wait()
		if looks != 2 {
			t.Errorf("looked %d times, want 2", looks)
		}
	})
}
