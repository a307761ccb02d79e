package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync/atomic"

	natsjs "github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/jetstream"
)

// durable measures the work of a durable subscription against that of a consumer of
// JetStream, each acknowledgement of which is answered too. The consumer keeps no
// order of actors, and its server stores how far it is when it comes to it.
func (b *bench) durable(ctx context.Context) error {
	return b.replicated(ctx, "durable", b.durableOn)
}

func (b *bench) durableOn(ctx context.Context, s *system, store *jetstream.Store, config jetstream.Config, replicas int) error {
	const messages = 10_000
	if err := fill(ctx, store, messages, 1000); err != nil {
		return err
	}
	groups := 0
	for _, workers := range []int{1, 32} {
		took, ratios, err := turns(5,
			func() error {
				groups++
				return consumeAndAcknowledge(ctx, s, config, strconv.Itoa(groups), workers, messages)
			},
			func() error {
				groups++
				return shareWork(ctx, store, strconv.Itoa(groups), workers, messages)
			})
		if err != nil {
			return err
		}
		b.add(fmt.Sprintf("a durable subscription against a durable consumer, %d worker(s), %d replica(s): rate", workers, replicas), "",
			fmt.Sprintf("%.2f", 1/ratios[1]), "%s against %s", perSecond(messages, took[1]), perSecond(messages, took[0]))
	}
	return nil
}

func consumeAndAcknowledge(ctx context.Context, s *system, config jetstream.Config, name string, workers, messages int) error {
	consumer, err := s.js.CreateConsumer(ctx, config.EventsStream, natsjs.ConsumerConfig{Durable: name, AckPolicy: natsjs.AckExplicitPolicy})
	if err != nil {
		return err
	}
	incoming, err := consumer.Messages()
	if err != nil {
		return err
	}
	defer incoming.Stop()
	return work(ctx, workers, messages, func(ctx context.Context) error {
		m, err := incoming.Next(natsjs.NextContext(ctx))
		for errors.Is(err, natsjs.ErrNoHeartbeat) {
			// The request was lost, as the first one may be where there are replicas.
			m, err = incoming.Next(natsjs.NextContext(ctx))
		}
		if err != nil {
			return err
		}
		return m.DoubleAck(ctx)
	})
}

func shareWork(ctx context.Context, store eventstore.DurableStore, name string, workers, messages int) (err error) {
	member, err := store.SubscribeDurable(ctx, eventstore.DurableOptions{Name: name})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, member.Close(), store.DeleteDurable(ctx, name)) }()
	return work(ctx, workers, messages, func(ctx context.Context) error {
		delivery, err := member.Next(ctx)
		if err != nil {
			return err
		}
		return member.Ack(ctx, delivery.Event.Sequence)
	})
}

// work has some do one of so many things after another.
func work(ctx context.Context, workers, things int, do func(context.Context) error) error {
	var left atomic.Int64
	left.Store(int64(things))
	working, ctx := errgroup.WithContext(ctx)
	for range workers {
		working.Go(func() error {
			for left.Add(-1) >= 0 {
				if err := do(ctx); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return working.Wait()
}
