package jetstream_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv/natsserver"
)

// While the server is at work or away, a consumer is not asked for again: the server would
// make it twice, one after the other.
func TestConsumerIsAskedForOnce(t *testing.T) {
	t.Parallel()
	way, direct, nc := newLink(t)
	c := config()
	createStreams(t, direct, streamConfigs(c, 1)...)
	asked, err := direct.SubscribeSync("$JS.API.CONSUMER.CREATE.>")
	if err != nil {
		t.Fatal(err)
	}
	if err := direct.Flush(); err != nil {
		t.Fatal(err)
	}
	store := open(t, nc, c)
	if err := store.Check(deadline(t)); err != nil {
		t.Fatal(err)
	}
	way.Silence()
	subscribed := make(chan error, 1)
	go func() {
		_, err := store.Subscribe(deadline(t), eventstore.SubscribeOptions{})
		subscribed <- err
	}()
	select {
	case err := <-subscribed:
		t.Fatalf("subscribed through a link that is silent: %v", err)
	case <-time.After(7 * time.Second):
	}
	way.Resume()
	if err := <-subscribed; err != nil {
		t.Fatal(err)
	}
	if err := direct.Flush(); err != nil {
		t.Fatal(err)
	}
	if count, _, err := asked.Pending(); err != nil || count != 1 {
		t.Errorf("the consumer was asked for %d times (%v)", count, err)
	}
}

// forward passes on what is asked of JetStream in a domain that no server has, and loses the
// answers to the first requests for consumers: nothing else does on demand. On asked come the
// subjects of all of these.
func forward(t *testing.T, nc *nats.Conn, domain string, lose int) (asked chan string) {
	t.Helper()
	asked = make(chan string, 100)
	prefix := "$JS." + domain + ".API."
	_, err := nc.Subscribe(prefix+">", func(m *nats.Msg) {
		subject := strings.TrimPrefix(m.Subject, prefix)
		reply := m.Reply
		if strings.HasPrefix(subject, "CONSUMER.CREATE.") {
			if asked <- subject; lose > 0 {
				lose--
				reply = "lost"
			}
		}
		_ = nc.PublishMsg(&nats.Msg{Subject: "$JS.API." + subject, Reply: reply, Data: m.Data})
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	return asked
}

// A consumer whose answer was lost is asked for by its name, and there is one.
func TestConsumerWhoseAnswerIsLost(t *testing.T) {
	t.Parallel()
	cluster := sharedServers(t, 1)
	nc := cluster.Connect(t)
	c := config()
	createStreams(t, nc, streamConfigs(c, 1)...)
	c.Domain = c.EventsStream
	asked := forward(t, cluster.Connect(t), c.Domain, 1)
	if _, err := open(t, nc, c).Subscribe(deadline(t), eventstore.SubscribeOptions{}); err != nil {
		t.Fatal(err)
	}
	if first, second := <-asked, <-asked; first != second || len(asked) != 0 {
		t.Errorf("asked for were %s and %s, and %d more", first, second, len(asked))
	}
	count := &consumers{stream: c.EventsStream}
	if err := count.connect(nc); err != nil {
		t.Fatal(err)
	}
	if err := count.want(deadline(t), 1); err != nil {
		t.Error(err)
	}
}

// One who may not ask a consumer for messages is told.
func TestSubscriptionThatMayNotAsk(t *testing.T) {
	t.Parallel()
	c := config()
	cluster := natsserver.Run(t, 1, func(o *server.Options) {
		o.Users = []*server.User{{Username: "admin", Password: "p"}, {Username: "reader", Password: "p", Permissions: &server.Permissions{
			Publish: &server.SubjectPermission{Allow: []string{"$JS.API.STREAM.MSG.GET.*", "$JS.API.CONSUMER.CREATE.>"}},
		}}}
	})
	createStreams(t, cluster.Connect(t, nats.UserInfo("admin", "p")), streamConfigs(c, 1)...)
	ctx := deadline(t)
	subscription, err := open(t, cluster.Connect(t, nats.UserInfo("reader", "p")), c).Subscribe(ctx, eventstore.SubscribeOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := subscription.Next(ctx); !errors.Is(err, eventstore.ErrPermissionDenied) || !strings.Contains(err.Error(), "CONSUMER.MSG.NEXT") {
		t.Errorf("next: %v", err)
	}
}

// Who follows the whole store has a consumer without a filter, and is handed events alone also
// where the stream has other messages.
func TestConsumerOfTheWholeStore(t *testing.T) {
	t.Parallel()
	nc := sharedServers(t, 1).Connect(t)
	c := config()
	streams := streamConfigs(c, 1)
	streams[0].Subjects = append(streams[0].Subjects, c.EventsStream+".other")
	createStreams(t, nc, streams...)
	js := jetStreamOf(t, nc)
	ctx := deadline(t)
	store := open(t, nc, c)
	all, err := store.Subscribe(ctx, eventstore.SubscribeOptions{})
	if err != nil {
		t.Fatal(err)
	}
	wantFilters(ctx, t, js, c.EventsStream, "")
	if _, err := js.Publish(ctx, c.EventsStream+".other", []byte("no event")); err != nil {
		t.Fatal(err)
	}
	saved, err := store.SaveEvent(ctx, event("1", "order-1", 1))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := all.Next(ctx); err != nil || got.Sequence != saved.Sequence {
		t.Errorf("next is %+v (%v), want sequence %d", got, err, saved.Sequence)
	}
	if _, err := store.Subscribe(ctx, eventstore.SubscribeOptions{ActorType: "order"}); err != nil {
		t.Fatal(err)
	}
	wantFilters(ctx, t, js, c.EventsStream, "", c.EventsStream+".events.order.*")
}

// wantFilters looks at the consumers of a stream.
func wantFilters(ctx context.Context, t *testing.T, js natsjs.JetStream, name string, want ...string) {
	t.Helper()
	stream, err := js.Stream(ctx, name)
	if err != nil {
		t.Fatal(err)
	}
	list := stream.ListConsumers(ctx)
	got := map[string]bool{}
	for info := range list.Info() {
		got[info.Config.FilterSubject] = true
	}
	if err := list.Err(); err != nil {
		t.Fatal(err)
	}
	for _, filter := range want {
		if !got[filter] || len(got) != len(want) {
			t.Errorf("the filters are %v, want %q", got, want)
		}
	}
}
