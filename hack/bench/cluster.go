package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/jetstream"
	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/stream"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv/natsserver"
)

var payload = []byte(`{"p":"` + string(bytes.Repeat([]byte("x"), 248)) + `"}`)

// system is a running NATS with streams as the operator makes them.
type system struct {
	dir       string
	processes *natsserver.Processes
	// cluster is the server where it is in this process.
	cluster *natsserver.Cluster
	url     string
	nc      *nats.Conn
	js      natsjs.JetStream
}

// store makes the streams of an EventStore and opens it.
func (s *system) store(ctx context.Context, name string, replicas int32) (*jetstream.Store, jetstream.Config, error) {
	resource := &v1alpha1.EventStore{ObjectMeta: metav1.ObjectMeta{Namespace: "bench", Name: name}}
	resource.Spec.Replicas, resource.Spec.Retention.MaxAge, resource.Spec.Storage = replicas, "0", v1alpha1.StorageFile
	wanted, err := stream.Desired(resource, stream.Home{}, v1alpha1.Defaults{})
	if err != nil {
		return nil, jetstream.Config{}, err
	}
	for _, w := range wanted {
		if err := natsserver.CreateStream(ctx, s.js, w.Config); err != nil {
			return nil, jetstream.Config{}, fmt.Errorf("create stream %s: %w", w.Config.Name, err)
		}
	}
	config := jetstream.Config{
		Namespace: "bench", Store: name, EventsStream: resource.EventsStreamName(), SnapshotsStream: resource.SnapshotsStreamName(),
		Timeout: time.Minute, Heads: 1 << 17,
	}
	store, err := jetstream.New(s.nc, config)
	return store, config, err
}

// replicated measures with one server, and with three and as many replicas, each time with
// servers and a store of its own.
func (b *bench) replicated(ctx context.Context, name string, measure func(context.Context, *system, *jetstream.Store, jetstream.Config, int) error) error {
	for _, replicas := range []int{1, 3} {
		if err := b.onServers(ctx, name, replicas, measure); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) onServers(ctx context.Context, name string, replicas int, measure func(context.Context, *system, *jetstream.Store, jetstream.Config, int) error) (err error) {
	s, err := b.start(ctx, replicas)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	store, config, err := s.store(ctx, name, int32(replicas))
	if err != nil {
		return err
	}
	return measure(ctx, s, store, config, replicas)
}

var ids atomic.Int64

func newEvent(actorID string, version int64) eventstore.Event {
	return eventstore.Event{
		ID: fmt.Sprintf("6f1c4e0a-3d52-4b8e-9a77-%012d", ids.Add(1)), EventType: "OrderPlaced", ActorID: actorID, Version: version, Data: payload,
	}
}

// fill saves events of so many actors in turn, 1,000 in a batch.
func fill(ctx context.Context, store eventstore.Store, messages, actors int) error {
	var filling errgroup.Group
	// Each writer has actors of its own, so that none conflicts.
	const writers = 4
	for writer := range writers {
		filling.Go(func() error {
			for version := range messages / actors {
				for from := writer * actors / writers; from < (writer+1)*actors/writers; {
					var batch []eventstore.Event
					for ; from < (writer+1)*actors/writers && len(batch) < eventstore.MaxBatchEvents; from++ {
						batch = append(batch, newEvent(actor(from), int64(version+1)))
					}
					if _, err := store.SaveEvents(ctx, batch); err != nil {
						return err
					}
				}
			}
			return nil
		})
	}
	return filling.Wait()
}

func actor(n int) string { return fmt.Sprintf("order-%06d", n) }
