package controller

import (
	"maps"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

const (
	// contestTold is how often the streams of a store are set right until that is
	// told as a contest: by hand nobody changes a stream so often.
	contestTold = 10
	// contestPatience is how often they are set right at once. After that there is a
	// pause each time, at first contestPause and then twice the one before, up to
	// contestMaxPause: whoever else writes is not to be outrun for ever.
	contestPatience = 100
	contestPause    = time.Second
	contestMaxPause = 15 * time.Minute
	// contestOver is how long nobody has interfered when a contest is over. Longer
	// than the longest pause, which would end each contest otherwise.
	contestOver = 2 * contestMaxPause
)

// contests count how often the streams of stores were set right after others had
// changed them.
type contests struct {
	mu     sync.Mutex
	stores map[types.UID]contest
}

type contest struct {
	healed      int
	first, last time.Time
	// until is the end of the pause.
	until time.Time
}

func newContests() *contests { return &contests{stores: map[types.UID]contest{}} }

// of gives the contest about a store; the zero one where there is none.
func (c *contests) of(store types.UID, now time.Time) contest {
	c.mu.Lock()
	defer c.mu.Unlock()
	if found := c.stores[store]; now.Sub(found.last) < contestOver {
		return found
	}
	return contest{}
}

// healed counts that the streams of a store were set right.
func (c *contests) healed(store types.UID, now time.Time) contest {
	c.mu.Lock()
	defer c.mu.Unlock()
	maps.DeleteFunc(c.stores, func(_ types.UID, k contest) bool { return now.Sub(k.last) >= contestOver })
	next := c.stores[store].next(now)
	c.stores[store] = next
	return next
}

// next is a contest after one more time.
func (c contest) next(now time.Time) contest {
	if c.healed == 0 {
		c.first = now
	}
	c.healed++
	c.last, c.until = now, now
	if over := c.healed - contestPatience; over >= 0 {
		// 2^10 s is more than the longest pause.
		c.until = now.Add(min(contestPause<<min(over, 10), contestMaxPause))
	}
	return c
}
