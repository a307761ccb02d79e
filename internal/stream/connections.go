package stream

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
)

// Target is a NATS system and the operator's credentials for it.
type Target struct {
	// Class is the name of the EventStoreClass.
	Class   string
	Servers []string
	// Domain is the JetStream domain, empty for that of the servers.
	Domain string
	// System stands for what the class says of all that.
	System string
	// Credentials is the data of the Secret, nil for none.
	Credentials map[string][]byte
}

// fingerprint changes with anything that a connection depends on.
func (t Target) fingerprint() [sha256.Size]byte {
	encoded, err := json.Marshal(t)
	if err != nil {
		// Strings and bytes: only a mistake in the code can fail here.
		panic(err)
	}
	return sha256.Sum256(encoded)
}

// Notice says that something happened to a stream, or, without a stream, to the
// connection of a class.
type Notice struct {
	Class, Stream string
	// FirstEvent is an event of the stream, the first that was heard of, where that is what
	// is told.
	FirstEvent Stored
}

// Connections keeps one connection for each class.
type Connections struct {
	notify  func(Notice)
	measure Measure
	self    Self

	mu      sync.Mutex
	classes map[string]*classConnection
	closed  bool
}

// NewConnections makes an empty set. notify is told about streams that changed
// and connections that were lost or found again; it must not block. self answers
// the operators of other clusters.
func NewConnections(notify func(Notice), measure Measure, self Self) *Connections {
	return &Connections{notify: notify, measure: measure, self: self, classes: map[string]*classConnection{}}
}

// Get gives the connection of a class, and dials when there is none, or when the
// servers or credentials have changed since. It waits for servers that do not answer for
// a few seconds in all, whoever asks how often, and what comes of it later is told as a
// Notice. An error is a Fault, except that of a context that ended.
func (c *Connections) Get(ctx context.Context, target Target) (*Conn, error) {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return nil, ClassGone(target.Class)
	}
	class := c.classes[target.Class]
	if class == nil {
		class = &classConnection{changed: func() { c.notify(Notice{Class: target.Class}) }}
		c.classes[target.Class] = class
	}
	c.mu.Unlock()

	conn, err := class.get(ctx, target, c.open)
	if err != nil {
		return nil, err
	}
	return conn, conn.awaitConnected(ctx)
}

// Current gives the connection of a class if there is one to that system, which answers,
// and never dials; else nil.
func (c *Connections) Current(className, system string) *Conn {
	c.mu.Lock()
	class := c.classes[className]
	c.mu.Unlock()
	if class == nil {
		return nil
	}
	conn := class.current()
	if conn == nil || conn.system != system || !conn.nc.IsConnected() {
		return nil
	}
	return conn
}

// errWasClosed is in the fault of a connection that was closed on purpose.
var errWasClosed = errors.New("the class is gone or the operator ends")

// ClassGone is the fault of who still asks for the connection of a class.
func ClassGone(class string) error {
	return Retrying(v1alpha1.ReasonUnreachable, "the connection of EventStoreClass %q was closed: %w", class, errWasClosed)
}

// WasClosed says whether an error comes only of a connection that was closed meanwhile,
// as when the operator ends: it says nothing about the NATS system.
func WasClosed(err error) bool {
	return errors.Is(err, errWasClosed) || errors.Is(err, nats.ErrConnectionClosed)
}

// open dials and subscribes to what JetStream tells about streams.
func (c *Connections) open(target Target) (*Conn, error) {
	lost := func(*nats.Conn, error) { c.notify(Notice{Class: target.Class}) }
	found := func(*nats.Conn) { c.notify(Notice{Class: target.Class}) }
	conn, err := connect(target.Servers, target.Credentials,
		nats.DisconnectErrHandler(lost), nats.ReconnectHandler(found))
	if err != nil {
		return nil, err
	}
	conn.api, conn.domain, conn.system = apiPrefix(target.Domain), target.Domain, target.System
	conn.measure, conn.self = c.measure, c.self
	conn.notify = func(stream string) { c.notify(Notice{Class: target.Class, Stream: stream}) }
	conn.notifyFirst = func(stream string, first Stored) {
		c.notify(Notice{Class: target.Class, Stream: stream, FirstEvent: first})
	}
	go conn.awaitFirstEvents()
	_, err = conn.nc.Subscribe(advisories, conn.advised)
	if err = errors.Join(err, conn.listenToOperators()); err != nil {
		conn.nc.Close()
		return nil, Retrying(v1alpha1.ReasonUnreachable, "subscribe to the advisories of JetStream and the questions of other operators: %w", err)
	}
	go conn.announce()
	return conn, nil
}

// awaitConnected gives a connection that is lost a moment to find another server
// of the cluster: that takes milliseconds. The moment is the same for all who ask, so
// that a connection which stays lost holds up nobody.
func (c *Conn) awaitConnected(ctx context.Context) error {
	if c.nc.IsConnected() {
		return nil
	}
	connected := c.nc.StatusChanged(nats.CONNECTED, nats.CLOSED)
	defer c.nc.RemoveStatusListener(connected)
	patience := time.NewTimer(time.Until(c.outageSeen().Add(dialTimeout)))
	defer patience.Stop()
	if !c.nc.IsConnected() {
		select {
		case <-connected:
		case <-patience.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	if c.nc.IsConnected() {
		return nil
	}
	if err := c.nc.LastError(); err != nil && (isAuthenticationError(err) || isCertificateError(err)) {
		return dialFault(operatorLogin(c.servers, nil), err)
	}
	if c.nc.IsClosed() {
		// By us a moment ago, or by the client library: whoever asks again dials.
		return Retrying(v1alpha1.ReasonUnreachable, "the connection was closed: %w", nats.ErrConnectionClosed)
	}
	return Retrying(v1alpha1.ReasonUnreachable,
		"the connection to the NATS servers %s is lost: check that they run; the operator connects again by itself", strings.Join(c.servers, ", "))
}

// outageSeen is when somebody first asked for the connection while it was lost as it is
// now.
func (c *Conn) outageSeen() time.Time {
	// Between two outages it is connected again.
	outage := c.nc.Stats().Reconnects + 1
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.outage != outage {
		c.outage, c.outageSince = outage, time.Now()
	}
	return c.outageSince
}

// Forget closes the connection of a class that is gone.
func (c *Connections) Forget(className string) {
	c.mu.Lock()
	class := c.classes[className]
	delete(c.classes, className)
	c.mu.Unlock()
	if class != nil {
		class.close()
	}
}

// Close closes all connections, for good.
func (c *Connections) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	for name, class := range c.classes {
		class.close()
		delete(c.classes, name)
	}
}
