package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/jetstream"
)

const rounds = 9

// bare is the plainest save: a message id and the expected sequence.
type bare struct {
	js      natsjs.JetStream
	subject string
	last    uint64
}

func (b *bare) save(ctx context.Context) error {
	id := natsjs.WithMsgID(fmt.Sprintf("6f1c4e0a-3d52-4b8e-9a77-%012d", ids.Add(1)))
	for {
		ack, err := b.js.PublishMsg(ctx, &nats.Msg{Subject: b.subject, Data: payload}, id, natsjs.WithExpectLastSequencePerSubject(b.last))
		if refused := (*natsjs.APIError)(nil); errors.As(err, &refused) && refused.ErrorCode == codeStillApplied {
			continue
		}
		if err == nil {
			b.last = ack.Sequence
		}
		return err
	}
}

// codeStillApplied is what a replicated stream answers where the publish before has been
// acknowledged and is not yet applied everywhere; there is nobody else to conflict with.
const codeStillApplied natsjs.ErrorCode = 10164

// saver saves to one actor through the engine.
type saver struct {
	store   eventstore.Store
	actorID string
	version int64
}

func (s *saver) save(ctx context.Context) error {
	s.version++
	_, err := s.store.SaveEvent(ctx, newEvent(s.actorID, s.version))
	return err
}

// together lets each of the writers save so many times, all at once.
func together(ctx context.Context, times int, writers []func(context.Context) error) func() error {
	return func() error {
		saving, ctx := errgroup.WithContext(ctx)
		for _, save := range writers {
			saving.Go(func() error {
				for range times {
					if err := save(ctx); err != nil {
						return err
					}
				}
				return nil
			})
		}
		return saving.Wait()
	}
}

func (b *bench) saves(ctx context.Context) error {
	return b.replicated(ctx, "saves", b.savesOn)
}

func (b *bench) savesOn(ctx context.Context, s *system, store *jetstream.Store, config jetstream.Config, replicas int) error {
	for _, c := range []struct {
		writers, times int
		aim            string
	}{{1, 1500, "at least 0.85"}, {64, 120, "at least 0.80"}} {
		var plain, engine []func(context.Context) error
		for w := range c.writers {
			actorID := fmt.Sprintf("order-%d-%d", c.writers, w)
			plain = append(plain, (&bare{js: s.js, subject: jetstream.EventsSubject(config.EventsStream, "bare-"+actorID)}).save)
			engine = append(engine, (&saver{store: store, actorID: actorID}).save)
		}
		took, ratios, err := turns(rounds, together(ctx, c.times, plain), together(ctx, c.times, engine))
		if err != nil {
			return err
		}
		n := c.writers * c.times
		b.add(fmt.Sprintf("SaveEvent to a known actor against a bare publish, %d writer(s), %d replica(s): rate", c.writers, replicas), c.aim,
			fmt.Sprintf("%.2f", 1/ratios[1]), "%s against %s; medians of %d turns of %d", perSecond(n, took[1]), perSecond(n, took[0]), rounds, n)
	}
	if err := b.hotActor(ctx, s, config, replicas); err != nil {
		return err
	}
	return b.firstSave(ctx, s, store, config, replicas)
}

// hotActor is one to which many write at once, each event at whatever version is
// next: from one process, whose writers take turns, and from as many processes.
func (b *bench) hotActor(ctx context.Context, s *system, config jetstream.Config, replicas int) error {
	const saves = 960
	var runs []func() error
	for _, c := range []struct{ stores, writers int }{{1, 1}, {1, 64}, {4, 4}, {16, 16}, {64, 64}} {
		actorID := fmt.Sprintf("hot-%d-%d", c.stores, c.writers)
		stores := make([]*jetstream.Store, c.stores)
		for i := range stores {
			var err error
			if stores[i], err = jetstream.New(s.nc, config); err != nil {
				return err
			}
		}
		var writers []func(context.Context) error
		for w := range c.writers {
			store := stores[w%c.stores]
			writers = append(writers, func(ctx context.Context) error {
				_, err := store.SaveEvent(ctx, newEvent(actorID, 0))
				return err
			})
		}
		runs = append(runs, together(ctx, saves/c.writers, writers))
	}
	took, ratios, err := turns(rounds, runs...)
	if err != nil {
		return err
	}
	for i, what := range []string{"64 writers of one Store", "4 Stores with a writer each", "16 Stores with a writer each", "64 Stores with a writer each"} {
		b.add(fmt.Sprintf("SaveEvent to one actor, %s against one writer, %d replica(s): rate", what, replicas), "",
			fmt.Sprintf("%.2f", 1/ratios[i+1]), "%s against %s; medians of %d turns of %d", perSecond(saves, took[i+1]), perSecond(saves, took[0]), rounds, saves)
	}
	return nil
}

// firstSave is to actors that nobody has heard of.
func (b *bench) firstSave(ctx context.Context, s *system, store eventstore.Store, config jetstream.Config, replicas int) error {
	const times = 500
	old := &original{js: s.js, stream: config.EventsStream, versions: map[string]int64{}}
	plain := (&bare{js: s.js, subject: jetstream.EventsSubject(config.EventsStream, "bare-first")}).save
	fresh := func(ctx context.Context) error {
		_, err := store.SaveEvent(ctx, newEvent(fmt.Sprintf("fresh-%d", ids.Add(1)), 1))
		return err
	}
	took, ratios, err := turns(rounds, together(ctx, times, []func(context.Context) error{plain}), together(ctx, times, []func(context.Context) error{fresh}))
	if err != nil {
		return err
	}
	b.add(fmt.Sprintf("first SaveEvent to a new actor against a bare publish, %d replica(s): time", replicas), "at most 2.5",
		fmt.Sprintf("%.2f", ratios[1]), "%s against %s; medians of %d turns of %d", took[1]/times, took[0]/times, rounds, times)
	first, _, err := turns(2, func() error { return old.save(ctx, newEvent(fmt.Sprintf("fresh-%d", ids.Add(1)), 1)) })
	if err != nil {
		return err
	}
	b.add(fmt.Sprintf("first SaveEvent to a new actor against the original design, %d replica(s): time", replicas), "",
		fmt.Sprintf("%.5f", float64(took[1]/times)/float64(first[0])), "%s against %s; 2 turns of the original", took[1]/times, first[0].Round(time.Millisecond))
	version, known := int64(0), &saver{store: store, actorID: "order-against-original"}
	oldKnown := func(ctx context.Context) error {
		version++
		return old.save(ctx, newEvent("original-1", version))
	}
	took, ratios, err = turns(rounds, together(ctx, times, []func(context.Context) error{oldKnown}), together(ctx, times, []func(context.Context) error{known.save}))
	if err != nil {
		return err
	}
	b.add(fmt.Sprintf("SaveEvent to a known actor against the original design, which checks nothing on the server, 1 writer, %d replica(s): rate", replicas), "",
		fmt.Sprintf("%.2f", 1/ratios[1]), "%s against %s", perSecond(times, took[1]), perSecond(times, took[0]))
	return nil
}

func (b *bench) batches(ctx context.Context) error {
	return b.replicated(ctx, "batches", b.batchesOn)
}

func (b *bench) batchesOn(ctx context.Context, s *system, store *jetstream.Store, config jetstream.Config, replicas int) error {
	for _, size := range []int{10, 100, 1000} {
		version := int64(0)
		batch := func() error {
			events := make([]eventstore.Event, size)
			for i := range events {
				version++
				events[i] = newEvent(fmt.Sprintf("batch-%d", size), version)
			}
			_, err := store.SaveEvents(ctx, events)
			return err
		}
		plain := &bare{js: s.js, subject: jetstream.EventsSubject(config.EventsStream, fmt.Sprintf("bare-%d", size))}
		took, ratios, err := turns(rounds, together(ctx, size, []func(context.Context) error{plain.save}), batch)
		if err != nil {
			return err
		}
		b.add(fmt.Sprintf("SaveEvents of %d against as many bare publishes one by one, %d replica(s): rate", size, replicas), "",
			fmt.Sprintf("%.2f", 1/ratios[1]), "%s against %s", perSecond(size, took[1]), perSecond(size, took[0]))
	}
	return nil
}
