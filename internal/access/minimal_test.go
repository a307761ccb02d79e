package access_test

import (
	"context"
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
	"git.flowmade.one/flowmade-one/aether-operator/internal/stream"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv/callout"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv/natsserver"
)

// Each subject of the table is needed: without it some call of the API is denied.
func TestEachPermissionIsNeeded(t *testing.T) {
	t.Parallel()
	permissions := func(i int) access.Permissions {
		return access.PermissionsFor(userName(i), callout.Domain, []access.Grant{{
			Stream: numbered(i).EventsStreamName(), SnapshotStream: numbered(i).SnapshotsStreamName(), Role: v1alpha1.RoleWriter}})
	}
	// Without the inbox, the first to subscribe to, no call has an answer at all.
	subjects := func(p access.Permissions) []string { return slices.Concat(p.Publish, p.Subscribe[1:]) }
	all := subjects(permissions(0))
	// One user for each subject, who has all but that one; and one who has all.
	users := func(o *server.Options) {
		for i := range len(all) + 1 {
			p := permissions(i)
			without := ""
			if i < len(all) {
				without = subjects(p)[i]
			}
			isIt := func(subject string) bool { return subject == without }
			o.Users = append(o.Users, &server.User{
				Username: userName(i), Password: "p", Account: accountOf(o, callout.Account),
				Permissions: &server.Permissions{
					Publish: &server.SubjectPermission{Allow: except(p.Publish, isIt)}, Subscribe: &server.SubjectPermission{Allow: except(p.Subscribe, isIt)},
				},
			})
			o.AuthCallout.AuthUsers = append(o.AuthCallout.AuthUsers, userName(i))
		}
	}
	var stores []v1alpha1.EventStore
	for i := range len(all) + 1 {
		stores = append(stores, *numbered(i))
	}
	b := newBench(t, "shop", withAdministrator, users)
	b.makeConsumers(t, stores...)
	for i := range len(all) + 1 {
		name := "with all"
		if i < len(all) {
			name = "without " + all[i]
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			js, err := natsjs.New(b.administrator(t))
			if err != nil {
				t.Fatal(err)
			}
			createStreams(t, js, numbered(i))
			denied := b.denials(t, i, numbered(i))
			if i == len(all) && len(denied) != 0 {
				t.Errorf("with all permissions, denied is %v", denied)
			}
			if i < len(all) && len(denied) == 0 {
				t.Error("no call was denied: it is not needed")
			}
		})
	}
	t.Logf("%d subjects, each of them needed", len(all))
}

// numbered is an EventStore shop/store-i that can be used.
func numbered(i int) *v1alpha1.EventStore {
	store := &v1alpha1.EventStore{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: fmt.Sprintf("store-%d", i), UID: "1"},
		Spec:       v1alpha1.EventStoreSpec{Replicas: 1, Retention: v1alpha1.Retention{MaxAge: "1d"}},
	}
	store.Status.Binding = &v1alpha1.Binding{Name: "x"}
	owned(metav1.ConditionTrue, v1alpha1.ReasonOwned)(store)
	return store
}

func userName(i int) string { return fmt.Sprintf("user-%d", i) }

// except is never empty, which would mean all.
func except(subjects []string, isIt func(string) bool) []string {
	return append(slices.DeleteFunc(slices.Clone(subjects), isIt), "nothing")
}

func createStreams(t *testing.T, js natsjs.JetStream, store *v1alpha1.EventStore) {
	t.Helper()
	wanted, err := stream.Desired(store, stream.Home{}, v1alpha1.Defaults{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	for _, w := range wanted {
		if err := natsserver.CreateStream(ctx, js, w.Config); err != nil {
			t.Fatal(err)
		}
	}
}

// denials makes every call as a user, and answers what the server denied.
func (b *bench) denials(t *testing.T, user int, store *v1alpha1.EventStore) []string {
	t.Helper()
	var mu sync.Mutex
	var denied []string
	nc, err := nats.Connect(b.servers.URL(), nats.UserInfo(userName(user), "p"), nats.CustomInboxPrefix(access.InboxPrefix(userName(user))),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			if errors.Is(err, nats.ErrPermissionViolation) {
				mu.Lock()
				defer mu.Unlock()
				denied = append(denied, err.Error())
			}
		}))
	if err != nil {
		t.Fatal(err)
	}
	b.everyCall(t, nc, store)
	// All that was denied was said before this is answered, and is handled before the
	// connection is closed.
	closed := make(chan struct{})
	nc.SetClosedHandler(func(*nats.Conn) { close(closed) })
	if err := nc.FlushTimeout(limit); err != nil {
		t.Fatal(err)
	}
	nc.Close()
	waitFor(t, closed, "the connection to close")
	mu.Lock()
	defer mu.Unlock()
	return denied
}

// everyCall makes every call of the API, and goes on when one fails.
func (b *bench) everyCall(t *testing.T, nc *nats.Conn, store *v1alpha1.EventStore) {
	t.Helper()
	open := func() *jetstream.Store {
		opened, err := jetstream.New(nc, jetstream.Config{
			Namespace: store.Namespace, Store: store.Name, EventsStream: store.EventsStreamName(),
			SnapshotsStream: store.SnapshotsStreamName(), Domain: callout.Domain, OperatorMakesConsumers: true, Timeout: 2 * time.Second,
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = opened.Close() })
		return opened
	}
	ctx := t.Context()
	first, second := open(), open()
	saved := 0
	note := func(what string, err error) {
		if err != nil && !strings.Contains(err.Error(), "permission") {
			t.Logf("%s: %v", what, err)
		}
	}
	for range 3 {
		saved++
		_, err := first.SaveEvent(ctx, eventstore.Event{ID: fmt.Sprint(saved), EventType: "Ordered", ActorID: "order-1"})
		note("SaveEvent", err)
	}
	note("DeleteSnapshot", first.DeleteSnapshot(ctx, "order-2", 0))
	note("SaveSnapshot", first.SaveSnapshot(ctx, eventstore.Snapshot{ActorID: "order-1", Version: 1, Data: []byte("{}")}))
	// One that remembers nothing asks the servers.
	for range 2 {
		_, err := second.GetEvents(ctx, "order-1", 0)
		note("GetEvents", err)
	}
	_, err := second.GetLatestVersion(ctx, "order-1")
	note("GetLatestVersion", err)
	_, err = second.GetLatestVersion(ctx, "order-none")
	note("GetLatestVersion", err)
	_, err = second.GetLatestSnapshot(ctx, "order-1")
	note("GetLatestSnapshot", err)
	_, err = second.SaveEvent(ctx, eventstore.Event{ID: "fresh", EventType: "Ordered", ActorID: "order-2"})
	note("SaveEvent", err)
	if sub, err := first.Subscribe(ctx, eventstore.SubscribeOptions{}); err == nil {
		bounded, cancel := context.WithTimeout(ctx, 2*time.Second)
		_, err = sub.Next(bounded)
		cancel()
		note("Next", err)
	}
	member, err := first.SubscribeDurable(ctx, eventstore.DurableOptions{Name: durable, MaxDeliveries: 1})
	note("SubscribeDurable", err)
	if err == nil {
		bounded, cancel := context.WithTimeout(ctx, 4*time.Second)
		defer cancel()
		for i := range 2 {
			delivery, err := member.Next(bounded)
			if err != nil {
				note("Next", err)
				break
			}
			if i == 0 {
				note("Nak", member.Nak(ctx, delivery.Event.Sequence, 0, "not now"))
			} else {
				note("Ack", member.Ack(ctx, delivery.Event.Sequence))
			}
		}
		_, err := member.Replay(ctx)
		note("Replay", err)
		_ = member.Close()
	}
	note("DeleteDurable", first.DeleteDurable(ctx, durable))
}
