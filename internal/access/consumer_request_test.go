package access_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/jetstream"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv/link"
)

// While the operator is slow, a pod does not ask for its consumer again, nor does the operator
// ask JetStream twice.
func TestConsumerIsAskedForOnce(t *testing.T) {
	t.Parallel()
	b, store, opened := newMember(t)
	way := link.To(t, b.servers.URL())
	consumers, err := b.serveConsumersAt([]string{way.URL()}, *store)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(consumers.Close)
	administrator := b.administrator(t)
	asked, err := administrator.SubscribeSync("$JS.API.CONSUMER.CREATE.>")
	if err == nil {
		err = administrator.Flush()
	}
	if err != nil {
		t.Fatal(err)
	}
	// The first of a store tells that the operator listens.
	if _, err := opened.Subscribe(t.Context(), eventstore.SubscribeOptions{}); err != nil {
		t.Fatal(err)
	}
	way.Silence()
	subscribed := make(chan error, 1)
	go func() {
		_, err := opened.Subscribe(t.Context(), eventstore.SubscribeOptions{})
		subscribed <- err
	}()
	select {
	case err := <-subscribed:
		t.Fatalf("subscribed while the operator was silent: %v", err)
	case <-time.After(4 * time.Second):
	}
	way.Resume()
	if err := <-subscribed; err != nil {
		t.Fatal(err)
	}
	if err := administrator.Flush(); err != nil {
		t.Fatal(err)
	}
	for count := 0; ; count++ {
		msg, err := asked.NextMsg(time.Millisecond)
		if errors.Is(err, nats.ErrTimeout) && count == 2 {
			return
		}
		if err != nil {
			t.Fatalf("JetStream was asked for %d of two consumers: %v", count, err)
		}
		if count == 2 {
			t.Fatalf("JetStream was asked for two consumers, and then on %s", msg.Subject)
		}
	}
}

// A consumer without a filter has all of the store that it was asked for on, and nothing of
// another, whatever the request says of the stream.
func TestConsumerWithoutFilter(t *testing.T) {
	t.Parallel()
	system := systems[1]
	theirs, ours := newNamespace(t), newNamespace(t)
	other, own := system.newStore(t, theirs), system.newStore(t, ours)
	victim := system.open(t, other, newPod(t, theirs, "application"))
	a := &attacker{T: t, nc: system.connect(t, newPod(t, ours, "application"), own.EventsStreamName()), own: own.EventsStreamName(), other: other.EventsStreamName()}
	opened := system.openOn(t, own, a.nc)
	for i := range 3 {
		event := eventstore.Event{ID: fmt.Sprint(i), EventType: "Ordered", ActorID: fmt.Sprintf("order-%d", i)}
		for _, store := range []eventstore.Store{victim, opened} {
			if _, err := store.SaveEvent(t.Context(), event); err != nil {
				t.Fatal(err)
			}
		}
	}
	unfiltered := func(_, config map[string]any) { delete(config, "filter_subject") }
	subject, name := jetstream.MakeConsumerSubject(a.own), newName()
	a.wantRefused("all of the other stream", a.request(subject, nil, consumerFor(a.other, name, unfiltered)), "it is for stream")
	a.wantRefused("all of every stream", a.request(subject, nil, consumerFor("*", name, unfiltered)), "it is for stream")
	a.wantRefused("several filters", a.request(subject, nil, consumerFor(a.own, name, func(_, config map[string]any) {
		delete(config, "filter_subject")
		config["filter_subjects"] = []string{a.other + ".events.>"}
	})), "cannot be read")
	a.make(consumerFor(a.own, name, unfiltered))
	answers, err := a.nc.SubscribeSync(a.nc.NewInbox())
	if err != nil {
		t.Fatal(err)
	}
	if err := a.nc.PublishRequest(api+"CONSUMER.MSG.NEXT."+a.own+"."+name, answers.Subject, []byte(`{"batch":100,"no_wait":true}`)); err != nil {
		t.Fatal(err)
	}
	for count := 0; ; count++ {
		msg, err := answers.NextMsg(limit)
		if err != nil {
			t.Fatal(err)
		}
		if msg.Header.Get("Status") != "" {
			if count != 3 {
				t.Errorf("%d events came, and then %v", count, msg.Header)
			}
			return
		}
		if !strings.HasPrefix(msg.Subject, a.own+".events.") {
			t.Errorf("an event of %s came", msg.Subject)
		}
	}
}
