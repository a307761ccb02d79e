package natsconn

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

const (
	// firstPause is before a connection that was given up is dialled again. It doubles
	// up to maxPause while those that are made do not last for steady.
	firstPause = 250 * time.Millisecond
	maxPause   = 10 * time.Second
	steady     = 30 * time.Second
	// hopeless is how long that may go on before Check says so.
	hopeless = 2 * time.Minute
)

// Keeper has a connection, and dials another when the client library has given it up: it
// ends one for good when its server says something that the library does not expect, such
// as that a line or a message was too long.
type Keeper struct {
	dial    func(closed nats.Option) (*nats.Conn, error)
	changed func(before, now *nats.Conn)

	mu     sync.Mutex
	closed bool
	conn   *nats.Conn
	// dialling: another connection is being made, or will be when timer ends, pause after
	// the last end.
	dialling bool
	timer    *time.Timer
	pause    time.Duration
	// dialled is when conn was made or tried for, and unsteady since when none has lasted;
	// zero while there was no trouble. failure is the last.
	dialled, unsteady time.Time
	failure           error
}

// Keep dials, and dials again whenever the connection was closed by another than Close.
// dial must pass the option on. changed is told of each further connection, one after the
// other.
func Keep(dial func(closed nats.Option) (*nats.Conn, error), changed func(before, now *nats.Conn)) (*Keeper, error) {
	k := &Keeper{dial: dial, changed: changed, dialling: true}
	conn, err := k.dial(nats.ClosedHandler(k.ended))
	if err != nil {
		return nil, err
	}
	k.use(conn)
	k.settle()
	return k, nil
}

// Conn is the newest connection.
func (k *Keeper) Conn() *nats.Conn {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.conn
}

// Check says that dialling again has not helped for two minutes; nil says that there is a
// connection, or that one is tried for: the client library does that as long as it has to.
func (k *Keeper) Check() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.unsteady.IsZero() || time.Since(k.unsteady) < hopeless || !k.conn.IsClosed() && time.Since(k.dialled) >= steady {
		return nil
	}
	return fmt.Errorf("the connection to NATS ends again and again since %s: %w", k.unsteady.UTC().Format(time.RFC3339), k.failure)
}

// Close ends the connection for good.
func (k *Keeper) Close() {
	k.mu.Lock()
	k.closed = true
	if k.timer != nil {
		k.timer.Stop()
	}
	conn := k.conn
	k.mu.Unlock()
	conn.Close()
}

// ended is told that a connection was closed.
func (k *Keeper) ended(conn *nats.Conn) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if conn == k.conn && !k.dialling {
		k.again(conn.LastError())
	}
}

// again dials after a pause. The caller has the lock.
func (k *Keeper) again(failure error) {
	if k.closed {
		return
	}
	now := time.Now()
	if k.unsteady.IsZero() || now.Sub(k.dialled) >= steady {
		k.unsteady, k.pause = now, firstPause
	} else {
		k.pause = min(2*k.pause, maxPause)
	}
	if k.failure = failure; failure == nil {
		k.failure = nats.ErrConnectionClosed
	}
	k.dialling = true
	k.timer = time.AfterFunc(k.pause/2+rand.N(k.pause/2), k.redial)
}

func (k *Keeper) redial() {
	conn, err := k.dial(nats.ClosedHandler(k.ended))
	if err != nil {
		k.mu.Lock()
		defer k.mu.Unlock()
		k.dialled = time.Now()
		k.again(err)
		return
	}
	if before, closed := k.use(conn); closed {
		conn.Close()
	} else {
		k.changed(before, conn)
		k.settle()
	}
}

// use takes a connection, and answers with the one before it and whether none is wanted
// any more.
func (k *Keeper) use(conn *nats.Conn) (before *nats.Conn, closed bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	before, k.conn, k.dialled = k.conn, conn, time.Now()
	return before, k.closed
}

// settle waits for the end of the connection that was made last, which may have come
// already.
func (k *Keeper) settle() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.dialling = false
	if k.conn.IsClosed() {
		k.again(k.conn.LastError())
	}
}
