package stream

import (
	"context"
	"crypto/sha256"
	"strings"
	"sync"
	"time"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
)

const (
	// dialAgain is how long after a dial that failed the next one is made.
	dialAgain = 500 * time.Millisecond
	// dialPatience is how long passes wait for a dial, counted from its beginning: as
	// long as one server may take. All servers of a class may take half a minute, during
	// which the workers are there for the stores of other classes.
	dialPatience = dialTimeout
)

// classConnection is the connection of one class, and what makes it.
type classConnection struct {
	// changed is called, without a lock, when a dial ended otherwise than those who asked
	// during it were told.
	changed func()

	mu sync.Mutex
	// closed: whoever found it before it was closed must not dial again, since nobody
	// would close that connection.
	closed      bool
	fingerprint [sha256.Size]byte
	conn        *Conn
	// failure is why the last dial failed, or why nobody waits for the first one any
	// longer. All are told it until a dial has ended: thousands of stores must neither
	// dial one after the other nor wait for the next dial.
	failure error
	failed  time.Time
	// dial is under way, nil for none.
	dial *dial
}

// dial is one attempt to connect, which nobody can hold up or end.
type dial struct {
	started time.Time
	// ended is closed behind conn or err.
	ended chan struct{}
	conn  *Conn
	err   error
}

// get keeps the connection while it is the one that is asked for. It waits for the
// first dial, no longer than until dialPatience after that has begun.
func (c *classConnection) get(ctx context.Context, target Target, open func(Target) (*Conn, error)) (*Conn, error) {
	conn, dial, err := c.find(target, open)
	if dial == nil {
		return conn, err
	}
	patience := time.NewTimer(time.Until(dial.started.Add(dialPatience)))
	defer patience.Stop()
	select {
	case <-dial.ended:
		return dial.conn, dial.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-patience.C:
		return nil, c.waitNoLonger(dial, target)
	}
}

// find gives the connection, the dial to wait for, or why there is neither. It dials
// where there is need.
func (c *classConnection) find(target Target, open func(Target) (*Conn, error)) (*Conn, *dial, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, nil, ClassGone(target.Class)
	}
	fingerprint := target.fingerprint()
	isOther := c.fingerprint != fingerprint
	if isOther {
		// A dial to what was asked for before ends for nobody.
		c.fingerprint, c.failure, c.dial = fingerprint, nil, nil
	}
	if c.conn != nil && (isOther || c.conn.nc.IsClosed()) {
		c.conn.close()
		c.conn = nil
	}
	if c.conn != nil {
		return c.conn, nil, nil
	}
	if c.dial == nil && (c.failure == nil || time.Since(c.failed) >= dialAgain) {
		c.dial = &dial{started: time.Now(), ended: make(chan struct{})}
		go c.run(c.dial, target, open)
	}
	if c.failure != nil {
		return nil, nil, c.failure
	}
	return nil, c.dial, nil
}

// run dials, and keeps what comes of it.
func (c *classConnection) run(d *dial, target Target, open func(Target) (*Conn, error)) {
	conn, err := open(target)
	if c.end(d, target, conn, err) {
		c.changed()
	}
}

// end says whether others were told something else than what came of the dial.
func (c *classConnection) end(d *dial, target Target, conn *Conn, err error) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	defer close(d.ended)
	if c.closed || c.dial != d {
		if conn != nil {
			conn.close()
		}
		d.err = ClassGone(target.Class)
		return false
	}
	told := c.failure
	d.conn, d.err = conn, err
	c.dial, c.conn, c.failure, c.failed = nil, conn, err, time.Now()
	return told != nil && (err == nil || reasonOf(err) != reasonOf(told))
}

// waitNoLonger is what all are told from now on until the dial has ended.
func (c *classConnection) waitNoLonger(d *dial, target Target) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	late := Retrying(v1alpha1.ReasonUnreachable,
		"no NATS server of %s has answered yet: check spec.servers of the class and that the servers run; the operator goes on trying by itself", strings.Join(target.Servers, ", "))
	if c.dial == d && c.failure == nil {
		c.failure = late
	}
	return late
}

func (c *classConnection) current() *Conn {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.conn
}

func reasonOf(err error) string {
	fault, ok := AsFault(err)
	if !ok {
		return ""
	}
	return fault.Reason
}

func (c *classConnection) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	if c.conn != nil {
		c.conn.close()
		c.conn = nil
	}
}
