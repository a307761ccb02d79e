package stream

import (
	"context"
	"encoding/json"
	"maps"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

const (
	// presenceInterval is how often an operator tells that it is there.
	presenceInterval = 30 * time.Second
	// presencePatience is how long an operator counts as there after it was last heard, at
	// most: it may be held up, or cut off. One that ends says so, and one that was killed
	// must hold up nobody for long.
	presencePatience = 2 * time.Minute
	// newcomerPatience is that of one that was heard once: one that ends over and over, and
	// is killed each time, would be there all the time else.
	newcomerPatience = 45 * time.Second
	// maxOperators bounds those that are known. Those beyond it count as one that says
	// nothing.
	maxOperators = 1000
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
	swept time.Time
}

type peer struct {
	cluster types.UID
	// came and heard are when it was heard first and last.
	came, heard time.Time
}

// isThere says whether it counts as there.
func (p peer) isThere(now time.Time) bool {
	return now.Sub(p.heard) <= min(newcomerPatience+p.heard.Sub(p.came), presencePatience)
}

// heard notes that an operator is there, and says whether that is new.
func (o *operators) heard(who speaker, now time.Time) (isNew bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.peers == nil {
		o.peers = map[string]peer{}
	}
	if now.Sub(o.swept) > presenceInterval {
		o.sweep(now)
	}
	known, isKnown := o.peers[who.Operator]
	isKnown = isKnown && known.isThere(now)
	if !isKnown && len(o.peers) >= maxOperators {
		// No operator has that name. This one stands for those that are too many.
		who = speaker{}
		known, isKnown = o.peers[who.Operator]
	}
	if !isKnown {
		known.came = now
	}
	known.cluster, known.heard = who.Cluster, now
	o.peers[who.Operator] = known
	return !isKnown
}

// sweep forgets those that do not count as there any more.
func (o *operators) sweep(now time.Time) {
	o.swept = now
	maps.DeleteFunc(o.peers, func(_ string, p peer) bool { return !p.isThere(now) })
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
	o.sweep(now)
	there := map[string]types.UID{}
	for operator, p := range o.peers {
		there[operator] = p.cluster
	}
	return there
}

// echoes are what an operator says to itself, the way that questions and answers go. Only
// one that hears itself tells others that it is there and asks them: one that cannot hear
// or answer them would have them wait for it for ever.
type echoes struct {
	mu sync.Mutex
	// sent is when the first one was that has not come back, zero for none; back is when
	// the last one came.
	sent, back time.Time
	// connection is that of the first one, counted: what was sent on another is lost.
	connection uint64
}

func (e *echoes) send(now time.Time, connection uint64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.sent.IsZero() || e.connection != connection {
		e.sent, e.connection = now, connection
	}
}

func (e *echoes) cameBack(now time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.sent, e.back = time.Time{}, now
}

// state says whether an operator hears itself, and for how long it has waited to.
func (e *echoes) state(now time.Time) (hears bool, waited time.Duration) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.sent.IsZero() {
		waited = now.Sub(e.sent)
	}
	return !e.back.IsZero() && waited < ownPatience, waited
}

// sendEcho is followed by heardItself, where the account lets operators ask each other.
func (c *Conn) sendEcho() {
	c.echoes.send(time.Now(), c.nc.Stats().Reconnects)
	// It is sent again, and who waits for it looks whether the connection is lost.
	_ = c.nc.PublishRequest(ownerSubject+c.operator, c.answers+"."+c.operator, nil)
}

// heardItself tells all that this operator is there.
func (c *Conn) heardItself() {
	c.echoes.cameBack(time.Now())
	c.tellPresence()
}

// heardPresence notes who came or went, and makes itself known to who is new.
func (c *Conn) heardPresence(said []byte) {
	var told presence
	if json.Unmarshal(said, &told) != nil || !told.isNamed() {
		return
	}
	if told.Leaving {
		c.operators.left(told.speaker)
		return
	}
	now := time.Now()
	hears, _ := c.echoes.state(now)
	if c.operators.heard(told.speaker, now) && told.Operator != c.operator && hears {
		c.tellPresence()
	}
}

// announce tells that this operator is there, as long as it hears itself, until the
// connection is closed.
func (c *Conn) announce() {
	again := time.NewTicker(presenceInterval)
	defer again.Stop()
	for {
		c.sendEcho()
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
