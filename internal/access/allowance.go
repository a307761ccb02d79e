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
	now := time.Now()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.sweep(now)
	full := a.full[key]
	if full.Before(now) {
		full = now
	}
	if next := full.Add(a.every); next.Sub(now) <= time.Duration(a.burst)*a.every {
		a.full[key] = next
		return true
	}
	return false
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
