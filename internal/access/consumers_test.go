package access_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/jetstream"
	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/access"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv/callout"
)

// newMember gives a bench a store, and opens it as a pod with all permissions of a
// writer does.
func newMember(t *testing.T) (*bench, *v1alpha1.EventStore, *jetstream.Store) {
	t.Helper()
	store := numbered(0)
	permissions := access.PermissionsFor("member", callout.Domain, []access.Grant{{
		Stream: store.EventsStreamName(), SnapshotStream: store.SnapshotsStreamName(), Role: v1alpha1.RoleWriter}})
	b := newBench(t, "shop", withAdministrator, func(o *server.Options) {
		o.Users = append(o.Users, &server.User{
			Username: "member", Password: "p", Account: accountOf(o, callout.Account),
			Permissions: &server.Permissions{
				Publish: &server.SubjectPermission{Allow: permissions.Publish}, Subscribe: &server.SubjectPermission{Allow: permissions.Subscribe},
			},
		})
		o.AuthCallout.AuthUsers = append(o.AuthCallout.AuthUsers, "member")
	})
	js, err := natsjs.New(b.administrator(t))
	if err != nil {
		t.Fatal(err)
	}
	createStreams(t, js, store)
	nc := b.servers.Connect(t, nats.UserInfo("member", "p"), nats.CustomInboxPrefix(access.InboxPrefix("member")))
	opened, err := jetstream.New(nc, jetstream.Config{
		Namespace: store.Namespace, Store: store.Name, EventsStream: store.EventsStreamName(), SnapshotsStream: store.SnapshotsStreamName(),
		Domain: callout.Domain, OperatorMakesConsumers: true, Timeout: limit,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = opened.Close() })
	return b, store, opened
}

// What is subscribed goes on while no operator runs; nothing new begins.
func TestSubscriptionsWithoutOperator(t *testing.T) {
	t.Parallel()
	b, store, opened := newMember(t)
	ctx := t.Context()
	options := eventstore.DurableOptions{Name: durable}
	_, err := opened.Subscribe(ctx, eventstore.SubscribeOptions{})
	if !errors.Is(err, eventstore.ErrUnavailable) || !strings.Contains(err.Error(), "no operator of Aether answers") {
		t.Fatalf("without an operator: %v", err)
	}
	consumers := b.makeConsumers(t, *store)
	member, err := opened.SubscribeDurable(ctx, options)
	if err != nil {
		t.Fatal(err)
	}
	sub, err := opened.Subscribe(ctx, eventstore.SubscribeOptions{})
	if err != nil {
		t.Fatal(err)
	}
	// The coordinator makes its own when it has begun.
	testenv.Eventually(t, limit, "a consumer of each", func() error {
		names, err := b.consumersOf(t, store.EventsStreamName())
		if err == nil && len(names) != 2 {
			err = fmt.Errorf("there are %q", names)
		}
		return err
	})
	consumers.Close()
	if _, err := opened.SaveEvent(ctx, eventstore.Event{ID: "1", EventType: "Ordered", ActorID: "order-1"}); err != nil {
		t.Fatal(err)
	}
	if event, err := sub.Next(ctx); err != nil || event.ID != "1" {
		t.Errorf("the subscription was handed %+v, %v", event, err)
	}
	delivery, err := member.Next(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := member.Ack(ctx, delivery.Event.Sequence); err != nil {
		t.Error(err)
	}
	// Another member needs no operator either.
	if _, err := opened.SubscribeDurable(ctx, options); err != nil {
		t.Errorf("join a durable subscription that is there: %v", err)
	}
}

// What is not made is said in a way that tells final from passing.
func TestConsumersThatAreNotMade(t *testing.T) {
	t.Parallel()
	b, store, opened := newMember(t)
	consumers := b.makeConsumers(t)
	_, err := opened.Subscribe(t.Context(), eventstore.SubscribeOptions{})
	if !errors.Is(err, eventstore.ErrUnavailable) || !strings.Contains(err.Error(), "no operator of Aether answers") {
		t.Errorf("a store that the operator does not have: %v", err)
	}
	consumers.Close()
	deleted := store.DeepCopy()
	deleted.DeletionTimestamp = &metav1.Time{Time: time.Now()}
	consumers = b.makeConsumers(t, *deleted)
	_, err = opened.Subscribe(t.Context(), eventstore.SubscribeOptions{})
	if !errors.Is(err, eventstore.ErrUnavailable) || !strings.Contains(err.Error(), "no EventStore with this stream") {
		t.Errorf("a store that is being deleted: %v", err)
	}
	consumers.Close()
	a := &attacker{T: t, nc: b.servers.Connect(t, nats.UserInfo("member", "p"), nats.CustomInboxPrefix(access.InboxPrefix("member"))), own: store.EventsStreamName()}
	subject := jetstream.MakeConsumerSubject(a.own)
	for why, edit := range map[string]func(*v1alpha1.EventStore){
		"has not looked yet":             func(s *v1alpha1.EventStore) { s.Status.System = "elsewhere" },
		"no EventStore with this stream": disowned(v1alpha1.ReasonNotGivenBack),
	} {
		edited := store.DeepCopy()
		edit(edited)
		consumers = b.makeConsumers(t, *edited)
		a.wantRefused(why, a.request(subject, nil, consumerFor(a.own, mine, unchanged)), why)
		consumers.Close()
	}
	b.makeConsumers(t, *store)
	for body, why := range map[string]string{
		"": "cannot be read", "{": "cannot be read", "[]": "cannot be read", "{} {}": "after its end", "{}": "it is for stream", consumerFor(a.own, mine, unchanged) + "{}": "after its end",
		strings.Repeat(" ", 9<<10): "larger than", strings.Repeat(" ", 8<<10+1): "8193 bytes", consumerFor("shop_other", mine, unchanged): "it is for stream", consumerFor(a.own, durable, unchanged): "name",
		consumerFor(a.own, newName()+"X", unchanged): "name", consumerFor(a.own, "*", unchanged): "name",
	} {
		a.wantRefused(fmt.Sprintf("%.100q", body), a.request(subject, nil, body), why)
	}
	for _, filter := range []string{
		" ", ">", "*", "shop_other.events.>", a.own + ".events", a.own + ".events.", a.own + ".events.>.>", a.own + ".events.*.*", a.own + ".events.a.>", a.own + ".events.a.b.c",
		a.own + ".events.*.b", a.own + ".events.a%zz.b", a.own + ".events.a.b ", a.own + ".snapshots.>", a.own + ".stored.>", "$JS.API.>",
		// No event has such a subject, and no server takes that of a request with it.
		a.own + ".events.a." + strings.Repeat("b", 256), a.own + ".events." + strings.Repeat("a", 256) + ".*", a.own + ".events.a." + strings.Repeat("b", 5000),
	} {
		body := consumerFor(a.own, mine, func(_, config map[string]any) { config["filter_subject"] = filter })
		a.wantRefused(filter, a.request(subject, nil, body), "filter_subject")
	}
	longest := strings.Repeat("%20", 255)
	for _, filter := range []string{"", a.own + ".events.>", a.own + ".events.order.*", a.own + ".events.order.order-1", a.own + ".events.order.a%20b", a.own + ".events." + longest + "." + longest} {
		a.make(consumerFor(a.own, newName(), func(_, config map[string]any) { config["filter_subject"] = filter }))
	}
	// Nobody would hear of it.
	a.send(&nats.Msg{Subject: subject, Data: []byte(consumerFor(a.own, mine, unchanged))})
	for range 14 {
		a.make(consumerFor(a.own, newName(), unchanged))
	}
	if names, err := b.consumersOf(t, a.own); err != nil || slices.Contains(names, mine) {
		t.Errorf("a consumer was made for who does not hear the answer: %v", err)
	}
	a.wantRefused("one consumer more", a.request(subject, nil, consumerFor(a.own, newName(), unchanged)), "as many consumers as it may")
}

// consumersOf are the names of the consumers of a stream.
func (b *bench) consumersOf(t *testing.T, name string) ([]string, error) {
	t.Helper()
	js, err := natsjs.New(b.administrator(t))
	if err != nil {
		return nil, err
	}
	stream, err := js.Stream(t.Context(), name)
	if err != nil {
		return nil, err
	}
	list := stream.ConsumerNames(t.Context())
	var names []string
	for consumer := range list.Name() {
		names = append(names, consumer)
	}
	return names, list.Err()
}

// A reader that asks for a consumer after the other holds up no other store, and what
// is asked for in vain is told so.
func TestManyConsumers(t *testing.T) {
	t.Parallel()
	system := systems[3]
	theirs, ours := newNamespace(t), newNamespace(t)
	other := system.newStore(t, theirs)
	own := system.newStore(t, ours, v1alpha1.AccessEntry{ServiceAccount: "reader", Role: v1alpha1.RoleReader})
	opened := system.open(t, other, newPod(t, theirs, "application"))
	nc := system.connect(t, newPod(t, ours, "reader"), own.EventsStreamName())
	const count = 500
	unanswered := map[string]int{}
	inbox := nc.NewInbox()
	answers, err := nc.SubscribeSync(inbox + ".*")
	if err != nil {
		t.Fatal(err)
	}
	names := make([]string, count)
	for i := range count {
		names[i] = newName()
		unanswered[fmt.Sprint(inbox, ".", i)] = i
	}
	ask := func() {
		for reply, i := range unanswered {
			body := consumerFor(own.EventsStreamName(), names[i], unchanged)
			if err := nc.PublishRequest(jetstream.MakeConsumerSubject(own.EventsStreamName()), reply, []byte(body)); err != nil {
				t.Fatal(err)
			}
		}
		if err := nc.FlushTimeout(limit); err != nil {
			t.Fatal(err)
		}
	}
	ask()
	if _, err := opened.Subscribe(t.Context(), eventstore.SubscribeOptions{}); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	const busy = 10167
	codes := map[int]int{}
	for len(unanswered) > 0 {
		msg, err := answers.NextMsg(2 * time.Second)
		if errors.Is(err, nats.ErrNoResponders) {
			// More were asked for at once than the servers pass on.
			continue
		}
		if errors.Is(err, nats.ErrTimeout) && ctx.Err() == nil {
			ask()
			continue
		}
		if err != nil {
			t.Fatalf("%d of %d requests were not answered: %v", len(unanswered), count, err)
		}
		if _, first := unanswered[msg.Subject]; !first {
			continue
		}
		delete(unanswered, msg.Subject)
		var answer struct {
			Error struct {
				Code int `json:"err_code"`
			} `json:"error"`
		}
		if err := json.Unmarshal(msg.Data, &answer); err != nil {
			t.Fatal(err)
		}
		codes[answer.Error.Code]++
	}
	if codes[0] == 0 || codes[0]+codes[busy] != count {
		t.Errorf("by code, the answers were %v", codes)
	}
}

// Readers that ask as fast as they can, and never for what can be made, hold up no other
// store.
func TestFloodOfRequests(t *testing.T) {
	t.Parallel()
	system := systems[1]
	theirs, ours := newNamespace(t), newNamespace(t)
	other := system.newStore(t, theirs)
	own := system.newStore(t, ours, v1alpha1.AccessEntry{ServiceAccount: "reader", Role: v1alpha1.RoleReader})
	opened := system.open(t, other, newPod(t, theirs, "application"))
	ctx, cancel := context.WithCancel(t.Context())
	var flood sync.WaitGroup
	defer flood.Wait()
	defer cancel()
	p := newPod(t, ours, "reader")
	for range 4 {
		nc := system.connect(t, p, own.EventsStreamName())
		flood.Go(func() {
			for ctx.Err() == nil {
				if nc.PublishRequest(jetstream.MakeConsumerSubject(own.EventsStreamName()), nc.NewInbox(), make([]byte, 100)) != nil {
					return
				}
			}
		})
	}
	bounded, end := context.WithTimeout(ctx, limit)
	defer end()
	for i := range 20 {
		if _, err := opened.Subscribe(bounded, eventstore.SubscribeOptions{}); err != nil {
			t.Fatalf("after %d subscriptions: %v", i, err)
		}
	}
}

// An operator whose user may not make consumers says so.
func TestOperatorThatMayNotMakeConsumers(t *testing.T) {
	t.Parallel()
	for missing, restrict := range map[string]func(*server.Permissions){
		"aether.consumer.create":   func(p *server.Permissions) { p.Subscribe.Allow = []string{"_INBOX.>"} },
		"$JS.API.CONSUMER.CREATE.": func(p *server.Permissions) { p.Publish.Allow = []string{"$JS.API.INFO"} },
	} {
		b := newBench(t, newNamespace(t), func(o *server.Options) {
			for _, u := range o.Users {
				if u.Username == "aether-operator" {
					restrict(u.Permissions)
				}
			}
		})
		c, err := b.serveConsumers()
		if err == nil {
			c.Close()
		}
		wantFault(t, "serve consumers", err, v1alpha1.ReasonPermissionDenied, missing)
	}
}

// What a pod has sent to where members of another store would be was it guessable
// does not reach them: no byte of it.
func TestFloodOfAnotherStore(t *testing.T) {
	t.Parallel()
	system := systems[1]
	theirs, ours := newNamespace(t), newNamespace(t)
	other := system.newStore(t, theirs)
	own := system.newStore(t, ours, v1alpha1.AccessEntry{ServiceAccount: "writer"}, v1alpha1.AccessEntry{ServiceAccount: "reader", Role: v1alpha1.RoleReader})
	victim := system.connect(t, newPod(t, theirs, "application"), other.EventsStreamName())
	opened := system.openOn(t, other, victim)
	if _, err := opened.SubscribeDurable(t.Context(), eventstore.DurableOptions{Name: durable}); err != nil {
		t.Fatal(err)
	}
	writer := &attacker{T: t, nc: system.connect(t, newPod(t, ours, "writer"), own.EventsStreamName())}
	const size, stored = 512 << 10, 8
	for range stored {
		writer.request(own.EventsStreamName()+".events.order.order-1", nil, strings.Repeat("x", size))
	}
	before := victim.Stats().InBytes
	a := &attacker{T: t, nc: system.connect(t, newPod(t, ours, "reader"), own.EventsStreamName()), own: own.EventsStreamName(), other: other.EventsStreamName()}
	for _, to := range []string{jetstream.GroupSubject(a.other, durable), a.other + ".stored.order.order-1", a.other + ".events.order.order-1"} {
		for range 4 {
			a.send(&nats.Msg{Subject: api + "DIRECT.GET." + a.own, Reply: to, Data: fmt.Appendf(nil, `{"seq":1,"batch":%d,"next_by_subj":">"}`, stored)})
		}
	}
	// The answer comes after all others.
	a.request(api+"DIRECT.GET."+a.own, nil, `{"seq":1}`)
	if err := victim.FlushTimeout(limit); err != nil {
		t.Fatal(err)
	}
	if more := victim.Stats().InBytes - before; more > size/2 || victim.Reconnects != 0 {
		t.Errorf("the pod of the other store got %d bytes, and connected again %d times", more, victim.Reconnects)
	}
}
