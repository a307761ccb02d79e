package main

import (
	"fmt"
	"log/slog"
	"path/filepath"

	"github.com/nats-io/nats.go"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/jetstream"
	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/memory"
	"git.flowmade.one/flowmade-one/aether-operator/internal/sidecar"
	"git.flowmade.one/flowmade-one/aether-operator/internal/sidecar/binding"
)

// openStores opens the stores that the options name, and returns what closes
// them.
func openStores(o options, logger *slog.Logger) ([]sidecar.Store, func(), error) {
	if o.memory {
		return memoryStores(o.stores), func() {}, nil
	}
	bindings := make([]binding.Binding, len(o.stores))
	for i, name := range o.stores {
		var err error
		if bindings[i], err = binding.Read(filepath.Join(o.bindingRoot, name)); err != nil {
			return nil, nil, err
		}
	}
	c := &connections{logger: logger}
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

func memoryStores(names []string) []sidecar.Store {
	var stores []sidecar.Store
	for _, name := range names {
		metrics := &eventstore.Metrics{}
		stores = append(stores, sidecar.Store{Name: name, Store: memory.New(eventstore.WithMetrics(metrics)), Metrics: metrics})
	}
	return stores
}

// connections are to the NATS systems of all stores, one to each.
type connections struct {
	logger *slog.Logger
	made   []connection
}

type connection struct {
	binding binding.Binding
	conn    *nats.Conn
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
		ReadAheadBytes: jetstream.MinReadAheadBytes,
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
		if made.binding.SameConnection(b) {
			return made.conn, nil
		}
	}
	conn, err := connect(b, c.logger)
	if err != nil {
		return nil, err
	}
	c.made = append(c.made, connection{binding: b, conn: conn})
	return conn, nil
}

// close ends the connections. Every save has had its answer by now: there is
// nothing to flush.
func (c *connections) close() {
	for _, made := range c.made {
		made.conn.Close()
	}
}
