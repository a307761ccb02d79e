package main

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"testing"

	natsjs "github.com/nats-io/nats.go/jetstream"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/jetstream"
)

func (b *bench) subscriptions(ctx context.Context) error {
	return b.replicated(ctx, "subscriptions", b.subscriptionsOn)
}

func (b *bench) subscriptionsOn(ctx context.Context, s *system, store *jetstream.Store, config jetstream.Config, replicas int) error {
	const messages = 100_000
	if err := fill(ctx, store, messages, 1000); err != nil {
		return err
	}
	took, ratios, err := turns(5,
		func() error { return consumeAll(ctx, s, config, messages) },
		func() error { return followAll(ctx, store, messages) })
	if err != nil {
		return err
	}
	b.add(fmt.Sprintf("a subscription's catch-up against an ordered consumer, %d events, %d replica(s): rate", messages, replicas), "at least 0.8",
		fmt.Sprintf("%.2f", 1/ratios[1]), "%s against %s", perSecond(messages, took[1]), perSecond(messages, took[0]))
	return nil
}

func consumeAll(ctx context.Context, s *system, config jetstream.Config, messages int) error {
	consumer, err := s.js.OrderedConsumer(ctx, config.EventsStream, natsjs.OrderedConsumerConfig{})
	if err != nil {
		return err
	}
	incoming, err := consumer.Messages()
	if err != nil {
		return err
	}
	defer incoming.Stop()
	for range messages {
		m, err := incoming.Next()
		if err != nil {
			return err
		}
		// The sequence, without which nobody could resume.
		if _, err := m.Metadata(); err != nil {
			return err
		}
	}
	return nil
}

func followAll(ctx context.Context, store eventstore.Store, messages int) error {
	subscription, err := store.Subscribe(ctx, eventstore.SubscribeOptions{})
	if err != nil {
		return err
	}
	for range messages {
		if _, err := subscription.Next(ctx); err != nil {
			return errors.Join(err, subscription.Close())
		}
	}
	return subscription.Close()
}

// sizes measures what an event costs beside its payload.
func (b *bench) sizes(ctx context.Context) (err error) {
	s, err := startHere(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	for _, of := range []int{1, 10, 100, 1000} {
		store, config, err := s.store(ctx, fmt.Sprintf("sizes-%d", of), 1)
		if err != nil {
			return err
		}
		const messages = 10_000
		if err := fill(ctx, store, messages, messages/of); err != nil {
			return err
		}
		info, err := s.js.Stream(ctx, config.EventsStream)
		if err != nil {
			return err
		}
		stored := float64(info.CachedInfo().State.Bytes) / messages
		b.add(fmt.Sprintf("bytes stored an event beside the payload, before compression, %d event(s) an actor", of), "",
			fmt.Sprintf("%.0f", stored-float64(len(payload))), "%.0f with the payload of %d; subject, headers, and what JetStream adds", stored, len(payload))
	}
	return b.allocations(ctx, s)
}

func (b *bench) allocations(ctx context.Context, s *system) error {
	store, config, err := s.store(ctx, "allocations", 1)
	if err != nil {
		return err
	}
	var failed error
	note := func(err error) { failed = errors.Join(failed, err) }
	one := &saver{store: store, actorID: "order-1"}
	plain := &bare{js: s.js, subject: jetstream.EventsSubject(config.EventsStream, "bare-1")}
	// The server runs in this process and allocates too, in the same way for both.
	engine := testing.AllocsPerRun(2000, func() { note(one.save(ctx)) })
	bare := testing.AllocsPerRun(2000, func() { note(plain.save(ctx)) })
	b.add("allocations of a save, with those of the server, against a bare publish", "", fmt.Sprintf("%.2f", engine/bare), "%.0f against %.0f", engine, bare)
	for version := int64(1); version <= eventsOfActor; version++ {
		_, err := store.SaveEvent(ctx, newEvent(actor(0), version))
		note(err)
	}
	r := &reader{system: s, store: store, config: config, actors: 1}
	read := testing.AllocsPerRun(500, func() { note(r.engine(ctx, actor(0))) })
	batched := testing.AllocsPerRun(500, func() { note(r.batchedGet(ctx, actor(0))) })
	b.add(fmt.Sprintf("allocations of a read of %d, with those of the server, against a batched direct get that decodes nothing", eventsOfActor), "",
		fmt.Sprintf("%.2f", read/batched), "%.0f against %.0f", read, batched)
	if failed != nil {
		return failed
	}
	return b.cache(ctx, s)
}

// cache measures the memory of remembering where 100,000 actors stand.
func (b *bench) cache(ctx context.Context, s *system) error {
	const actors, events = 100_000, 3
	_, config, err := s.store(ctx, "cache", 1)
	if err != nil {
		return err
	}
	small := config
	small.Heads = 1
	forgetful, err := jetstream.New(s.nc, small)
	if err != nil {
		return err
	}
	if err := fill(ctx, forgetful, actors*events, actors); err != nil {
		return err
	}
	store, err := jetstream.New(s.nc, config)
	if err != nil {
		return err
	}
	for n := range actors {
		if _, err := store.GetLatestVersion(ctx, actor(n)); err != nil {
			return err
		}
	}
	// What goes with the store is the store's: the server in this process has a
	// heap of its own, which comes and goes.
	with := heap()
	runtime.KeepAlive(store)
	store = nil
	freed := with - heap()
	b.add(fmt.Sprintf("memory of the cache at %d actors", actors), "", fmt.Sprintf("%.1f MiB", float64(freed)/(1<<20)), "%d bytes an actor", freed/actors)
	return nil
}

func heap() int64 {
	runtime.GC()
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return int64(stats.HeapAlloc)
}
