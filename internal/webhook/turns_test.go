package webhook

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// One namespace sends many calls before another sends one: the one is second.
func TestNamespacesTakeTurns(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		line := newTurns(1)
		if err := line.take(t.Context(), "", "noisy"); err != nil {
			t.Fatal(err)
		}
		var served []string
		for _, namespace := range []string{"noisy", "noisy", "noisy", "quiet", "other"} {
			go func() {
				if err := line.take(t.Context(), "", namespace); err != nil {
					t.Error(err)
				}
				served = append(served, namespace)
				line.give("")
			}()
			synctest.Wait()
		}
		line.give("")
		synctest.Wait()
		if want := []string{"noisy", "quiet", "other", "noisy", "noisy"}; !slices.Equal(served, want) {
			t.Errorf("served %v, want %v", served, want)
		}
		if line.free != 1 || len(line.order) != 0 || len(line.waiting) != 0 {
			t.Errorf("the line is not empty: %+v", line)
		}
	})
}

// Who does not wait any longer takes no turn.
func TestTurnOfWhoHasLeft(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		line := newTurns(1)
		if err := line.take(t.Context(), "", "a"); err != nil {
			t.Fatal(err)
		}
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := line.take(short, "", "b"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a wait that has ended: %v", err)
		}
		line.give("")
		if line.free != 1 || len(line.order) != 0 || len(line.waiting) != 0 {
			t.Errorf("the line is not empty: %+v", line)
		}
	})
}

// One address sends calls of many namespaces before another sends one: the one is second.
// One that was late has the turn that nobody else wants, and no second one beside it.
func TestAddressesTakeTurns(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		line := newTurns(2)
		var mu sync.Mutex
		var served []string
		call := func(address, namespace string) {
			go func() {
				if err := line.take(t.Context(), address, namespace); err != nil {
					t.Error(err)
				}
				mu.Lock()
				defer mu.Unlock()
				served = append(served, address+"/"+namespace)
			}()
			synctest.Wait()
		}
		for _, namespace := range []string{"a", "b", "c", "d"} {
			call("many", namespace)
		}
		call("one", "a")
		line.give("many")
		line.give("many")
		synctest.Wait()
		if want := []string{"many/a", "many/b", "many/c", "one/a"}; !slices.Equal(slices.Sorted(slices.Values(served)), want) {
			t.Errorf("served %v, want %v", served, want)
		}
		line.wasLate("many")
		for range 2 {
			call("many", "e")
		}
		line.give("many")
		line.give("one")
		synctest.Wait()
		if len(served) != 5 || line.free != 1 {
			t.Errorf("served %v, and %d turns are free: want one turn of who was late", served, line.free)
		}
		call("one", "b")
		if len(served) != 6 {
			t.Errorf("served %v, and not who is not late", served)
		}
		line.give("many")
		synctest.Wait()
		time.Sleep(lateFor)
		line.give("many")
		line.give("one")
		synctest.Wait()
		if len(served) != 8 || len(line.order) != 0 || len(line.waiting) != 0 {
			t.Errorf("served %v, the line is not empty: %+v", served, line)
		}
	})
}
