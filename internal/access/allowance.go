package access

import (
	"sync"
	"time"
)

// allowance bounds how often something may be done for each key: so often at once,
// and then once in every interval.
type allowance struct {
	burst int
	every time.Duration

	mu sync.Mutex
	// full is when a key has all of its burst again; what is past is forgotten.
	full  map[string]time.Time
	swept time.Time
}

func newAllowance(burst int, every time.Duration) *allowance {
	return &allowance{burst: burst, every: every, full: map[string]time.Time{}}
}

// take says whether a key may once more, and counts it.
func (a *allowance) take(key string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	full := a.fullAt(key)
	if !a.room(full) {
		return false
	}
	a.full[key] = full.Add(a.every)
	return true
}

// may says whether a key may once more, and does not count it.
func (a *allowance) may(key string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.room(a.fullAt(key))
}

// spend counts what a key has done, whether it might or not.
func (a *allowance) spend(key string, times int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.full[key] = a.fullAt(key).Add(time.Duration(times) * a.every)
}

// fullAt is when a key has all of its burst again. The caller has the lock.
func (a *allowance) fullAt(key string) time.Time {
	now := time.Now()
	a.sweep(now)
	if full := a.full[key]; full.After(now) {
		return full
	}
	return now
}

func (a *allowance) room(full time.Time) bool {
	return time.Until(full.Add(a.every)) <= time.Duration(a.burst)*a.every
}

// sweep forgets keys that have all of their burst. The caller has the lock.
func (a *allowance) sweep(now time.Time) {
	if now.Sub(a.swept) < time.Duration(a.burst)*a.every {
		return
	}
	a.swept = now
	for key, full := range a.full {
		if full.Before(now) {
			delete(a.full, key)
		}
	}
}
