package stream

import (
	"context"
	"encoding/json"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

const (
	// presenceInterval is how often an operator tells that it is there.
	presenceInterval = 30 * time.Second
	// presencePatience is how long an operator counts as there after it was last heard: it
	// may be held up, or cut off. One that ends says so, and one that was killed must hold
	// up nobody for long.
	presencePatience = 2 * time.Minute
)

// presence is told to all operators.
type presence struct {
	speaker
	Leaving bool `json:"leaving,omitempty"`
}

// operators are those that are known to be at work on a NATS system.
type operators struct {
	mu    sync.Mutex
	peers map[string]peer
}

type peer struct {
	cluster types.UID
	heard   time.Time
}

// heard notes that an operator is there, and says whether that is new.
func (o *operators) heard(who speaker, now time.Time) (isNew bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.peers == nil {
		o.peers = map[string]peer{}
	}
	_, known := o.peers[who.Operator]
	o.peers[who.Operator] = peer{cluster: who.Cluster, heard: now}
	return !known
}

func (o *operators) left(who speaker) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.peers, who.Operator)
}

// there are the operators that were heard a short time ago, and the uids of their
// clusters.
func (o *operators) there(now time.Time) map[string]types.UID {
	o.mu.Lock()
	defer o.mu.Unlock()
	there := map[string]types.UID{}
	for operator, p := range o.peers {
		if now.Sub(p.heard) > presencePatience {
			delete(o.peers, operator)
			continue
		}
		there[operator] = p.cluster
	}
	return there
}

// heardPresence notes who came or went, and makes itself known to who is new.
func (c *Conn) heardPresence(said []byte) {
	var told presence
	if json.Unmarshal(said, &told) != nil || told.Operator == "" {
		return
	}
	if told.Leaving {
		c.operators.left(told.speaker)
		return
	}
	if c.operators.heard(told.speaker, time.Now()) && told.Operator != c.operator {
		c.tellPresence()
	}
}

// announce tells that this operator is there, until the connection is closed.
func (c *Conn) announce() {
	again := time.NewTicker(presenceInterval)
	defer again.Stop()
	for {
		c.tellPresence()
		select {
		case <-again.C:
		case <-c.closed:
			return
		}
	}
}

func (c *Conn) tellPresence() {
	ctx, cancel := context.WithTimeout(context.Background(), answerPatience)
	defer cancel()
	c.publishPresence(presence{speaker: c.speaker(ctx)})
}

func (c *Conn) publishPresence(told presence) {
	if body, err := json.Marshal(told); err == nil {
		// It is told again, and who must know now asks.
		_ = c.nc.Publish(hereSubject, body)
	}
}

// close says goodbye, so that nobody waits for an operator that has ended.
func (c *Conn) close() {
	c.publishPresence(presence{speaker: speaker{Operator: c.operator}, Leaving: true})
	c.nc.Close()
}
