package main

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/sync/semaphore"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/jetstream"
	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/memory"
	"git.flowmade.one/flowmade-one/aether-operator/internal/natsconn"
	"git.flowmade.one/flowmade-one/aether-operator/internal/sidecar"
	"git.flowmade.one/flowmade-one/aether-operator/internal/sidecar/binding"
)

// openStores opens the stores that the options name, which take the memory for their
// reads from a budget, and for what durable subscriptions read ahead from another besides, and
// returns what closes them.
func openStores(o options, logger *slog.Logger, budget, ahead *semaphore.Weighted) ([]sidecar.Store, func(), error) {
	if o.memory {
		return memoryStores(o), func() {}, nil
	}
	bindings := make([]binding.Binding, len(o.stores))
	for i, name := range o.stores {
		var err error
		if bindings[i], err = binding.Read(filepath.Join(o.bindingRoot, name)); err != nil {
			return nil, nil, err
		}
	}
	c := &connections{logger: logger, tokenFile: o.tokenFile, bindings: bindings, budget: budget, ahead: ahead, closed: make(chan struct{})}
	var stores []sidecar.Store
	for i, name := range o.stores {
		store, err := c.open(name, bindings[i])
		if err != nil {
			c.close()
			return nil, nil, fmt.Errorf("open store %s: %w", name, err)
		}
		stores = append(stores, store)
	}
	go c.follow()
	return stores, c.close, nil
}

func memoryStores(o options) []sidecar.Store {
	var stores []sidecar.Store
	for _, name := range o.stores {
		metrics := &eventstore.Metrics{}
		store := memory.New(eventstore.WithMetrics(metrics), memory.WithDuplicateWindow(o.duplicateWindow))
		stores = append(stores, sidecar.Store{Name: name, Store: store, Metrics: metrics})
	}
	return stores
}

// connections are to the NATS systems of all stores, one to each.
type connections struct {
	logger *slog.Logger
	// tokenFile holds the token of the pod's service account.
	tokenFile string
	// bindings are those of all stores.
	bindings []binding.Binding
	made     []*connection
	// budget is the memory that stores share with the calls, and ahead the part of it that
	// durable subscriptions may have.
	budget, ahead *semaphore.Weighted
	// closed ends follow.
	closed chan struct{}
}

// connection is one to a NATS system, and the stores that are on it.
type connection struct {
	binding binding.Binding
	// streams are what a connection with a token asks for.
	streams []string
	logger  *slog.Logger
	keeper  *natsconn.Keeper
	// replaced counts how often those before it were made again, and another was dialled.
	replaced atomic.Uint64

	mu     sync.Mutex
	stores []*onConnection
	// servers are those that were dialled last.
	servers []string
}

// lead is the binding of the connection, with the servers to which it leads now. The stores
// that are opened on it ask in the domain that their bindings name with these.
func (c *connection) lead() binding.Binding {
	c.mu.Lock()
	defer c.mu.Unlock()
	var domains []string
	c.servers, domains = c.leadsTo()
	for i, store := range c.stores {
		store.config.Domain = domains[i]
	}
	b := c.binding
	b.Servers = c.servers
	return b
}

// follow connects anew where the bindings lead to other servers, or to another domain.
func (c *connection) follow() {
	c.mu.Lock()
	servers, domains := c.leadsTo()
	same := slices.Equal(servers, c.servers) && slices.Equal(domains, c.domains())
	c.mu.Unlock()
	if !same {
		c.logger.Info("the binding leads to other servers of NATS or another domain, and the connection of before is ended", "binding", c.binding.Dir)
		c.keeper.Conn().Close()
	}
}

// domains are those in which the stores of the connection ask. The caller has the lock.
func (c *connection) domains() []string {
	domains := make([]string, len(c.stores))
	for i, store := range c.stores {
		domains[i] = store.config.Domain
	}
	return domains
}

// leadsTo are the servers to which the bindings of all stores on the connection lead now,
// and the domain of each store there. While they do not agree, or one is being written or
// is gone, what there is goes on: one of the stores would be led to where its streams are
// not. The caller has the lock.
func (c *connection) leadsTo() (servers, domains []string) {
	before := c.servers
	if before == nil {
		before = c.binding.Servers
	}
	for _, store := range c.stores {
		now, err := binding.Read(store.dir)
		if err != nil || servers != nil && !slices.Equal(now.Servers, servers) {
			return before, c.domains()
		}
		servers, domains = now.Servers, append(domains, now.Domain)
	}
	if servers == nil {
		return before, nil
	}
	return servers, domains
}

// serves says whether the connection does for a binding.
func (c *connection) serves(b binding.Binding) bool {
	return c.binding.SameConnection(b) && (!b.ServiceAccount || slices.Contains(c.streams, b.Stream))
}

// IsConnected says whether there is a connection now.
func (c *connection) IsConnected() bool { return c.keeper.Conn().IsConnected() }

// Reconnected counts how often it was made again.
func (c *connection) Reconnected() uint64 {
	return c.keeper.Conn().Stats().Reconnects + c.replaced.Load()
}

// replace opens the stores on a connection that was made in the place of another.
func (c *connection) replace(before, now *nats.Conn) {
	c.replaced.Add(before.Stats().Reconnects + 1)
	c.logger.Warn("the connection to NATS was given up, and another is used", "error", before.LastError())
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, store := range c.stores {
		if err := store.open(now); err != nil {
			// What was opened once can be opened: a mistake in the code.
			c.logger.Error("could not open a store on another connection", "store", store.config.Store, "error", err)
		}
	}
}

// onConnection is a store on the connection that there is.
type onConnection struct {
	// dir is that of its binding.
	dir     string
	config  jetstream.Config
	logger  *slog.Logger
	metrics *eventstore.Metrics
	store   atomic.Pointer[jetstream.Store]
}

// open uses another connection. Subscriptions on the one before it end.
func (o *onConnection) open(conn *nats.Conn) error {
	config := o.config
	config.Silent = func() {
		o.logger.Warn("the server of NATS answers no request: trying another", "store", config.Store, "server", conn.ConnectedUrlRedacted())
		// It fails when the connection is closed, and then another is dialled.
		_ = conn.ForceReconnect()
	}
	store, err := jetstream.New(conn, config, eventstore.WithMetrics(o.metrics), eventstore.WithLogger(o.logger))
	if err != nil {
		return err
	}
	if before := o.store.Swap(store); before != nil {
		// Its subscriptions are on a connection that is closed: nothing can fail.
		_ = before.Close()
	}
	return nil
}

func (o *onConnection) current() eventstore.Store { return o.store.Load() }

func (o *onConnection) check(ctx context.Context) error { return o.store.Load().Check(ctx) }

// open opens the store of a binding.
func (c *connections) open(name string, b binding.Binding) (sidecar.Store, error) {
	conn, err := c.connect(b)
	if err != nil {
		return sidecar.Store{}, err
	}
	store := &onConnection{dir: b.Dir, logger: c.logger, metrics: &eventstore.Metrics{}, config: jetstream.Config{
		Namespace: b.Namespace, Store: name, EventsStream: b.Stream, SnapshotsStream: b.SnapshotStream, Domain: b.Domain,
		OperatorMakesConsumers: b.ServiceAccount, ReadAheadBytes: jetstream.MinReadAheadBytes, Memory: c.budget, AheadMemory: c.ahead,
	}}
	conn.mu.Lock()
	defer conn.mu.Unlock()
	if err := store.open(conn.keeper.Conn()); err != nil {
		return sidecar.Store{}, err
	}
	conn.stores = append(conn.stores, store)
	return sidecar.Store{
		Name: name, Namespace: b.Namespace, Current: store.current, Metrics: store.metrics, Check: store.check,
		Connection: conn, Alive: conn.keeper.Check,
	}, nil
}

// connect returns the connection that a binding leads to.
func (c *connections) connect(b binding.Binding) (*connection, error) {
	for _, made := range c.made {
		if made.serves(b) {
			return made, nil
		}
	}
	conn := &connection{binding: b, logger: c.logger}
	if b.ServiceAccount {
		conn.streams = c.streamsWith(b)
	}
	var err error
	conn.keeper, err = natsconn.Keep(func(closed nats.Option) (*nats.Conn, error) {
		var who *identity
		if b.ServiceAccount {
			who = &identity{tokenFile: c.tokenFile, streams: conn.streams}
		}
		return connect(conn.lead(), who, c.logger, closed)
	}, conn.replace)
	if err != nil {
		return nil, err
	}
	c.made = append(c.made, conn)
	return conn, nil
}

// streamsWith are the streams that the connection of a binding asks for: those of
// all bindings that lead to the same servers, as many as there is room for.
func (c *connections) streamsWith(b binding.Binding) []string {
	streams, size := []string{b.Stream}, len(b.Stream)
	for _, other := range c.bindings {
		met := slices.Contains(streams, other.Stream) || slices.ContainsFunc(c.made, func(made *connection) bool { return made.serves(other) })
		if !met && other.SameConnection(b) && size+1+len(other.Stream) <= maxWanted {
			streams, size = append(streams, other.Stream), size+1+len(other.Stream)
		}
	}
	return streams
}

// bindingEvery is how often bindings are read again: a kubelet takes a minute or two to
// bring what has changed of a Secret into a pod.
const bindingEvery = 5 * time.Second

// follow looks where the bindings lead, until close.
func (c *connections) follow() {
	tick := time.NewTicker(bindingEvery)
	defer tick.Stop()
	for {
		select {
		case <-c.closed:
			return
		case <-tick.C:
		}
		for _, made := range c.made {
			made.follow()
		}
	}
}

// close ends the connections. Every save has had its answer by now: there is
// nothing to flush.
func (c *connections) close() {
	close(c.closed)
	for _, made := range c.made {
		made.keeper.Close()
	}
}
