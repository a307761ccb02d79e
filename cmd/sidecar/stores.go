package main

import (
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"

	"github.com/nats-io/nats.go"
	"golang.org/x/sync/semaphore"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/jetstream"
	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/memory"
	"git.flowmade.one/flowmade-one/aether-operator/internal/sidecar"
	"git.flowmade.one/flowmade-one/aether-operator/internal/sidecar/binding"
)

// openStores opens the stores that the options name, which take the memory for their
// reads from a budget, and returns what closes them.
func openStores(o options, logger *slog.Logger, budget *semaphore.Weighted) ([]sidecar.Store, func(), error) {
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
	c := &connections{logger: logger, tokenFile: o.tokenFile, bindings: bindings, budget: budget}
	var stores []sidecar.Store
	for i, name := range o.stores {
		store, err := c.open(name, bindings[i])
		if err != nil {
			c.close()
			return nil, nil, fmt.Errorf("open store %s: %w", name, err)
		}
		stores = append(stores, store)
	}
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
	made     []connection
	// budget is the memory that stores share with the calls.
	budget *semaphore.Weighted
}

type connection struct {
	binding binding.Binding
	// streams are what a connection with a token asks for.
	streams []string
	conn    *nats.Conn
}

// serves says whether the connection does for a binding.
func (c connection) serves(b binding.Binding) bool {
	return c.binding.SameConnection(b) && (!b.ServiceAccount || slices.Contains(c.streams, b.Stream))
}

// open opens the store of a binding.
func (c *connections) open(name string, b binding.Binding) (sidecar.Store, error) {
	conn, err := c.connect(b)
	if err != nil {
		return sidecar.Store{}, err
	}
	metrics := &eventstore.Metrics{}
	store, err := jetstream.New(conn, jetstream.Config{
		Namespace: b.Namespace, Store: name, EventsStream: b.Stream, SnapshotsStream: b.SnapshotStream, Domain: b.Domain,
		OperatorMakesConsumers: b.ServiceAccount, ReadAheadBytes: jetstream.MinReadAheadBytes, Memory: c.budget,
	}, eventstore.WithMetrics(metrics))
	if err != nil {
		return sidecar.Store{}, err
	}
	return sidecar.Store{Name: name, Namespace: b.Namespace, Store: store, Metrics: metrics, Check: store.Check, Connection: natsConnection{conn}}, nil
}

// natsConnection tells the state of a connection.
type natsConnection struct{ *nats.Conn }

func (c natsConnection) Reconnected() uint64 { return c.Stats().Reconnects }

// connect returns the connection that a binding leads to.
func (c *connections) connect(b binding.Binding) (*nats.Conn, error) {
	for _, made := range c.made {
		if made.serves(b) {
			return made.conn, nil
		}
	}
	var who *identity
	var streams []string
	if b.ServiceAccount {
		streams = c.streamsWith(b)
		who = &identity{tokenFile: c.tokenFile, streams: streams}
	}
	conn, err := connect(b, who, c.logger)
	if err != nil {
		return nil, err
	}
	c.made = append(c.made, connection{binding: b, streams: streams, conn: conn})
	return conn, nil
}

// streamsWith are the streams that the connection of a binding asks for: those of
// all bindings that lead to the same servers, as many as there is room for.
func (c *connections) streamsWith(b binding.Binding) []string {
	streams, size := []string{b.Stream}, len(b.Stream)
	for _, other := range c.bindings {
		met := slices.Contains(streams, other.Stream) || slices.ContainsFunc(c.made, func(made connection) bool { return made.serves(other) })
		if !met && other.SameConnection(b) && size+1+len(other.Stream) <= maxWanted {
			streams, size = append(streams, other.Stream), size+1+len(other.Stream)
		}
	}
	return streams
}

// close ends the connections. Every save has had its answer by now: there is
// nothing to flush.
func (c *connections) close() {
	for _, made := range c.made {
		made.conn.Close()
	}
}
