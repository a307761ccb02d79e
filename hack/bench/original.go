package main

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"time"

	natsjs "github.com/nats-io/nats.go/jetstream"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/jetstream"
)

// original is how the first design saved and read: a consumer is made for each
// question and asked with a wait of one second, versions are kept in the process
// under a lock, and nothing is checked by the server.
type original struct {
	js     natsjs.JetStream
	stream string

	mu       sync.Mutex
	versions map[string]int64
}

const originalWait = time.Second

var errVersion = errors.New("version conflict")

func (o *original) save(ctx context.Context, event eventstore.Event) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	latest, known := o.versions[event.ActorID]
	if !known {
		messages, err := o.fetch(ctx, event.ActorID, natsjs.DeliverLastPolicy, 1)
		if err != nil {
			return err
		}
		for _, m := range messages {
			latest = m.Version
		}
	}
	if event.Version <= latest {
		return errVersion
	}
	data, err := json.Marshal(event)
	if err != nil {
		return err
	}
	if _, err := o.js.Publish(ctx, jetstream.EventsSubject(o.stream, event.ActorID), data); err != nil {
		return err
	}
	o.versions[event.ActorID] = event.Version
	return nil
}

func (o *original) read(ctx context.Context, actorID string) (int, error) {
	events, err := o.fetch(ctx, actorID, natsjs.DeliverAllPolicy, 1000)
	return len(events), err
}

func (o *original) fetch(ctx context.Context, actorID string, policy natsjs.DeliverPolicy, batch int) ([]eventstore.Event, error) {
	consumer, err := o.js.CreateConsumer(ctx, o.stream, natsjs.ConsumerConfig{
		FilterSubject: jetstream.EventsSubject(o.stream, actorID), DeliverPolicy: policy, AckPolicy: natsjs.AckNonePolicy,
	})
	if err != nil {
		return nil, err
	}
	defer func() { _ = o.js.DeleteConsumer(ctx, o.stream, consumer.CachedInfo().Name) }()
	messages, err := consumer.Fetch(batch, natsjs.FetchMaxWait(originalWait))
	if err != nil {
		return nil, err
	}
	var events []eventstore.Event
	for m := range messages.Messages() {
		var event eventstore.Event
		// What this program has saved otherwise is not in the format of then.
		_ = json.Unmarshal(m.Data(), &event)
		events = append(events, event)
	}
	return events, messages.Error()
}
