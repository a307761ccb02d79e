package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/jetstream"
)

// eventsOfActor is how many events each actor has in the streams that are read.
const eventsOfActor = 100

var errShort = errors.New("a read has not found all events")

// reader reads one actor after the other, each way the same ones.
type reader struct {
	*system
	store    eventstore.Store
	config   jetstream.Config
	actors   int
	messages int
}

func (r *reader) engine(ctx context.Context, actorID string) error {
	events, err := r.store.GetEvents(ctx, actorID, 0)
	if err == nil && len(events) != eventsOfActor {
		err = fmt.Errorf("%w: %d", errShort, len(events))
	}
	return err
}

func (r *reader) orderedConsumer(ctx context.Context, actorID string) error {
	consumer, err := r.js.OrderedConsumer(ctx, r.config.EventsStream, natsjs.OrderedConsumerConfig{
		FilterSubjects: []string{jetstream.EventsSubject(r.config.EventsStream, actorID)},
	})
	if err != nil {
		return err
	}
	defer func() { _ = r.js.DeleteConsumer(ctx, r.config.EventsStream, consumer.CachedInfo().Name) }()
	messages, err := consumer.Messages()
	if err != nil {
		return err
	}
	defer messages.Stop()
	for range eventsOfActor {
		if _, err := messages.Next(); err != nil {
			return err
		}
	}
	return nil
}

func (r *reader) batchedGet(ctx context.Context, actorID string) error {
	body, err := json.Marshal(map[string]any{"seq": 1, "next_by_subj": jetstream.EventsSubject(r.config.EventsStream, actorID), "batch": eventsOfActor})
	if err != nil {
		return err
	}
	inbox := r.nc.NewInbox()
	answers, err := r.nc.SubscribeSync(inbox)
	if err != nil {
		return err
	}
	defer func() { _ = answers.Unsubscribe() }()
	if err := r.nc.PublishMsg(&nats.Msg{Subject: "$JS.API.DIRECT.GET." + r.config.EventsStream, Reply: inbox, Data: body}); err != nil {
		return err
	}
	for n := 0; ; n++ {
		answer, err := answers.NextMsgWithContext(ctx)
		if err != nil {
			return err
		}
		if answer.Header.Get("Status") == "204" {
			if n != eventsOfActor {
				return fmt.Errorf("%w: %d", errShort, n)
			}
			return nil
		}
	}
}

// each reads several actors, chosen anew each time.
func (r *reader) each(ctx context.Context, times int, read func(context.Context, string) error) func() error {
	return func() error {
		for range times {
			if err := read(ctx, actor(rand.IntN(r.actors))); err != nil {
				return err
			}
		}
		return nil
	}
}

func (b *bench) reads(ctx context.Context) (err error) {
	s, err := b.start(ctx, 1)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	var readers []*reader
	for _, messages := range []int{10_000, 100_000, 1_000_000, 3_000_000} {
		if messages > b.largest {
			continue
		}
		r := &reader{system: s, actors: messages / eventsOfActor, messages: messages}
		if r.store, r.config, err = s.store(ctx, fmt.Sprintf("reads-%d", messages), 1); err != nil {
			return err
		}
		if err := fill(ctx, r.store, messages, r.actors); err != nil {
			return err
		}
		readers = append(readers, r)
	}
	// With a cold cache each read may take half a second.
	const times = 5
	var all []func() error
	for _, r := range readers {
		all = append(all, r.each(ctx, times, r.engine))
	}
	took, ratios, err := turns(rounds, all...)
	if err != nil {
		return err
	}
	for i, r := range readers[1:] {
		b.add(fmt.Sprintf("GetEvents of %d of any actor in a stream of %d messages against one of %d: time", eventsOfActor, r.messages, readers[0].messages), "at most 2",
			fmt.Sprintf("%.2f", ratios[i+1]), "%s against %s", took[i+1]/times, took[0]/times)
	}
	// One actor again and again: its blocks are in the server's cache.
	all = all[:0]
	for _, r := range readers {
		all = append(all, func() error {
			for range times {
				if err := r.engine(ctx, actor(r.actors/2)); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if took, ratios, err = turns(rounds, all...); err != nil {
		return err
	}
	for i, r := range readers[1:] {
		b.add(fmt.Sprintf("GetEvents of %d of one actor, again and again, in a stream of %d messages against one of %d: time", eventsOfActor, r.messages, readers[0].messages), "at most 2",
			fmt.Sprintf("%.2f", ratios[i+1]), "%s against %s", took[i+1]/times, took[0]/times)
	}
	return b.readsAgainst(ctx, readers)
}

func (b *bench) readsAgainst(ctx context.Context, readers []*reader) error {
	for _, r := range readers {
		const times = 3
		took, ratios, err := turns(5, r.each(ctx, times, r.engine), r.each(ctx, times, r.orderedConsumer), r.each(ctx, times, r.batchedGet))
		if err != nil {
			return err
		}
		aim := ""
		if r.messages == 1_000_000 {
			aim = "at least 10"
		}
		for i, name := range []string{"an ordered consumer", "a batched direct get by subject"} {
			b.add(fmt.Sprintf("GetEvents of %d in a stream of %d messages against %s: times as fast", eventsOfActor, r.messages, name), aim,
				fmt.Sprintf("%.1f", ratios[i+1]), "%s against %s", took[0]/times, took[i+1]/times)
		}
	}
	r := readers[0]
	old := &original{js: r.js, stream: r.config.EventsStream, versions: map[string]int64{}}
	took, ratios, err := turns(2, r.each(ctx, 1, r.engine), func() error {
		n, err := old.read(ctx, actor(1))
		if err == nil && n != eventsOfActor {
			err = fmt.Errorf("%w: %d", errShort, n)
		}
		return err
	})
	if err != nil {
		return err
	}
	b.add(fmt.Sprintf("GetEvents of %d in a stream of %d messages against the original design: times as fast", eventsOfActor, r.messages), "",
		fmt.Sprintf("%.0f", ratios[1]), "%s against %s", took[0], took[1].Round(time.Millisecond))
	return nil
}

// tail is the slowest of many reads on three servers.
func (b *bench) tail(ctx context.Context) (err error) {
	s, err := b.start(ctx, 3)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	store, config, err := s.store(ctx, "tail", 3)
	if err != nil {
		return err
	}
	r := &reader{system: s, store: store, config: config, actors: 100, messages: 10_000}
	if err := fill(ctx, store, r.messages, r.actors); err != nil {
		return err
	}
	const times = 10_000
	took := make([]time.Duration, times)
	for i := range took {
		started := time.Now()
		if err := r.engine(ctx, actor(i%r.actors)); err != nil {
			return err
		}
		took[i] = time.Since(started)
	}
	slices.Sort(took)
	b.add(fmt.Sprintf("GetEvents of %d on three servers, the slowest of %d reads: time", eventsOfActor, times), "at most 100 ms",
		took[times-1].Round(time.Microsecond).String(), "median %s, 99th percentile %s", took[times/2], took[times*99/100])
	return nil
}
