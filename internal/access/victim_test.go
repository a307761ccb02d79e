package access_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/jetstream"
	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/access"
)

// victim is the store that is attacked, as its administrator and a pod of its own
// see it.
type victim struct {
	*testing.T
	streams []string
	js      natsjs.JetStream
	member  eventstore.DurableSubscription
	// heard is all that arrives at the pod where others may send something.
	heard []*nats.Subscription
}

// state is all that the servers know of the streams and their consumers.
func (v *victim) state() string {
	v.Helper()
	ctx, cancel := context.WithTimeout(v.Context(), limit)
	defer cancel()
	var all strings.Builder
	for _, name := range v.streams {
		stream, err := v.js.Stream(ctx, name)
		if err != nil {
			fmt.Fprintf(&all, "%s: %v\n", name, err)
			continue
		}
		info := stream.CachedInfo()
		encoded, err := json.Marshal(map[string]any{
			"config": info.Config, "created": info.Created, "messages": info.State.Msgs, "first": info.State.FirstSeq,
			"last": info.State.LastSeq, "deleted": info.State.NumDeleted, "consumers": info.State.Consumers,
		})
		if err != nil {
			v.Fatal(err)
		}
		fmt.Fprintf(&all, "%s: %s\n", name, encoded)
	}
	consumer, err := v.js.Consumer(ctx, v.streams[0], durable)
	if err != nil {
		fmt.Fprintf(&all, "consumer: %v\n", err)
		return all.String()
	}
	info := consumer.CachedInfo()
	fmt.Fprintf(&all, "consumer: %+v, delivered %d, acknowledged %d, pending %d, redelivered %d, waiting %d\n",
		info.Config, info.Delivered.Stream, info.AckFloor.Stream, info.NumAckPending, info.NumRedelivered, info.NumWaiting)
	return all.String()
}

// newVictim gives a store an event, a snapshot, a durable subscription, and a pod
// that listens to all that it may.
func (s *system) newVictim(t *testing.T, store *v1alpha1.EventStore) (*victim, string) {
	t.Helper()
	p := newPod(t, store.Namespace, "application")
	opened := s.open(t, store, p)
	ctx := t.Context()
	if _, err := opened.SaveEvent(ctx, eventstore.Event{ID: "1", EventType: "Ordered", ActorID: "order-1", Version: 1}); err != nil {
		t.Fatal(err)
	}
	if err := opened.SaveSnapshot(ctx, eventstore.Snapshot{ActorID: "order-1", Version: 1, Data: []byte("{}")}); err != nil {
		t.Fatal(err)
	}
	member, err := opened.SubscribeDurable(ctx, eventstore.DurableOptions{Name: durable})
	if err != nil {
		t.Fatal(err)
	}
	js, err := natsjs.New(s.administrator(t))
	if err != nil {
		t.Fatal(err)
	}
	v := &victim{T: t, streams: []string{store.EventsStreamName(), store.SnapshotsStreamName()}, js: js, member: member}
	inboxes := access.InboxPrefix(string(p.UID))
	nc := s.connect(t, p, store.EventsStreamName())
	// The group of the durable subscription, and what it would be were it guessable.
	consumer, err := js.Consumer(ctx, store.EventsStreamName(), durable)
	if err != nil {
		t.Fatal(err)
	}
	key := consumer.CachedInfo().Config.Metadata["aether.flowmade.one/group-key"]
	for _, subject := range []string{inboxes + ".>", jetstream.GroupSubject(store.EventsStreamName(), key)} {
		heard, err := nc.SubscribeSync(subject)
		if err != nil {
			t.Fatal(err)
		}
		v.heard = append(v.heard, heard)
	}
	if err := nc.FlushTimeout(limit); err != nil {
		t.Fatal(err)
	}
	return v, inboxes
}

func (v *victim) wantNothingHeard() {
	v.Helper()
	for _, heard := range v.heard {
		for {
			msg, err := heard.NextMsg(time.Millisecond)
			if err != nil {
				break
			}
			// The answers to the application, on its other connection, go to its inboxes too.
			if !strings.HasPrefix(msg.Subject, "_INBOX.") || strings.Contains(string(msg.Data), "forged") || msg.Header.Get("ce-id") == "forged" || strings.HasSuffix(msg.Subject, ".x") {
				v.Errorf("%s arrived at the pod: %v %q", msg.Subject, msg.Header, msg.Data)
			}
		}
	}
}

// wantServed sees that the durable subscription hands out what it has.
func (v *victim) wantServed() {
	v.Helper()
	ctx, cancel := context.WithTimeout(v.Context(), limit)
	defer cancel()
	delivery, err := v.member.Next(ctx)
	if err != nil || delivery.Event.ID != "1" || delivery.Attempt != 1 {
		v.Errorf("the application of the other store was handed %+v, %v", delivery, err)
		return
	}
	if err := v.member.Ack(ctx, delivery.Event.Sequence); err != nil {
		v.Error(err)
	}
}
