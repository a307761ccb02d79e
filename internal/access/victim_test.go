package access_test

import (
	"context"
	"encoding/json"
	"errors"
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
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv"
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
	record, err := v.record(ctx)
	fmt.Fprintf(&all, "durable subscription: %+v, %v\n", record, err)
	return all.String()
}

// groupRecord is what tests look at in the record of a durable subscription.
type groupRecord struct {
	Coordinator string `json:"coordinator"`
	Key         string `json:"key"`
	Top         uint64 `json:"top"`
	Epoch       uint64 `json:"epoch"`
}

func (v *victim) record(ctx context.Context) (record groupRecord, err error) {
	stream, err := v.js.Stream(ctx, v.streams[1])
	if err != nil {
		return record, err
	}
	msg, err := stream.GetLastMsgForSubject(ctx, v.streams[0]+".snapshots.%durable."+durable)
	if err != nil {
		return record, err
	}
	return record, json.Unmarshal(msg.Data, &record)
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
	var record groupRecord
	testenv.Eventually(t, limit, "the durable subscription has a coordinator, which reads", func() error {
		var err error
		if record, err = v.record(ctx); err == nil && record.Coordinator == "" {
			err = errors.New("it has none")
		}
		if err != nil {
			return err
		}
		stream, err := js.Stream(ctx, store.EventsStreamName())
		if err == nil && stream.CachedInfo().State.Consumers == 0 {
			err = errors.New("it does not read")
		}
		if err != nil {
			return err
		}
		// What it reads arrives at the pod too, and is to have arrived before others send.
		status, err := opened.GetDurableStatus(ctx, durable)
		if err == nil && status.Position == 0 {
			err = errors.New("it has read nothing yet")
		}
		return err
	})
	for _, subject := range []string{inboxes + ".>", jetstream.GroupSubject(store.EventsStreamName(), record.Key)} {
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
