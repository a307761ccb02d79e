package access_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/jetstream"
	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/access"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv/natsserver"
)

func TestPodOfAnotherStoreReachesNothing(t *testing.T) {
	t.Parallel()
	for size, system := range systems {
		t.Run(fmt.Sprintf("%d servers", size), func(t *testing.T) {
			t.Parallel()
			theirs, ours := newNamespace(t), newNamespace(t)
			other, own := system.newStore(t, theirs), system.newStore(t, ours)
			v, inboxes := system.newVictim(t, other)
			before := v.state()

			p := newPod(t, ours, "attacker")
			// It asks for the other store too.
			a := &attacker{T: t, nc: system.connect(t, p, own.EventsStreamName(), other.EventsStreamName()),
				own: own.EventsStreamName(), other: other.EventsStreamName(), inboxes: inboxes}
			a.mayNotPublish(callsOf(a.other)...)
			a.mayNotPublish(administrationOf(a.own, a.own+"_snapshots", a.other, a.other+"_snapshots")...)
			a.mayNotPublish(inboxes+".x", "_INBOX.x", "_INBOX.aether-callout.x", "_R_.x", "x", a.own, a.own+".events", a.own+".events.a.b.c",
				a.own+".stored.order.order-1", plain+"DIRECT.GET."+a.own, "aether.owner.x", jetstream.MakeConsumerSubject(a.own+"_snapshots"))
			a.mayNotSubscribe(ears(a.other, inboxes)...)
			a.mayNotSubscribe(a.own+".events.>", a.own+".snapshots.>", a.own+".stored.>", a.own+".stored.zz.zz", jetstream.MakeConsumerSubject(a.own), jetstream.MakeConsumerSubject("*"))
			a.headers()
			a.attackThroughAnswers()

			if after := v.state(); after != before {
				t.Errorf("the other store was changed, from\n%s to\n%s", before, after)
			}
			v.wantNothingHeard()
			v.wantServed()
			t.Logf("%d attempts of a pod of another store were refused and %d came to nothing, with %d servers", a.refused, a.sent, size)
		})
	}
}

func TestReaderWritesNothing(t *testing.T) {
	t.Parallel()
	for size, system := range systems {
		t.Run(fmt.Sprintf("%d servers", size), func(t *testing.T) {
			t.Parallel()
			namespace := newNamespace(t)
			store := system.newStore(t, namespace,
				v1alpha1.AccessEntry{ServiceAccount: "application"}, v1alpha1.AccessEntry{ServiceAccount: "reader", Role: v1alpha1.RoleReader})
			v, _ := system.newVictim(t, store)
			before := v.state()
			p := newPod(t, namespace, "reader")
			a := &attacker{T: t, nc: system.connect(t, p, store.EventsStreamName()), own: store.EventsStreamName()}
			a.mayNotPublish(a.own+".events.order.order-1", a.own+".events.order.order-2", a.own+".snapshots.order.order-1",
				a.own+".snapshots.other.x", a.own+".stored.order.order-1", a.own+".events.%durable."+durable)
			a.mayNotPublish(administrationOf(a.own, a.own+"_snapshots")...)

			reader := system.open(t, store, p)
			ctx := t.Context()
			for name, err := range map[string]error{
				"SaveEvent": second(reader.SaveEvent(ctx, eventstore.Event{ID: "2", EventType: "Ordered", ActorID: "order-1", Version: 2})),
				"SaveEvents": second(reader.SaveEvents(ctx, []eventstore.Event{
					{ID: "2", EventType: "Ordered", ActorID: "order-1", Version: 2}, {ID: "3", EventType: "Ordered", ActorID: "order-2", Version: 1}})),
				"SaveSnapshot":   reader.SaveSnapshot(ctx, eventstore.Snapshot{ActorID: "order-1", Version: 1, Data: []byte("{}")}),
				"DeleteSnapshot": reader.DeleteSnapshot(ctx, "order-1", 0),
			} {
				if !errors.Is(err, eventstore.ErrPermissionDenied) {
					t.Errorf("%s of a reader: %v, want permission denied", name, err)
					continue
				}
				a.refused++
			}
			if after := v.state(); after != before {
				t.Errorf("a reader changed the store, from\n%s to\n%s", before, after)
			}
			t.Logf("%d attempts of a reader came to nothing, with %d servers", a.refused, size)
			readsAll(t, reader)
		})
	}
}

func second[T any](_ T, err error) error { return err }

// readsAll makes every call that a reader has.
func readsAll(t *testing.T, reader *jetstream.Store) {
	t.Helper()
	ctx := t.Context()
	if events, err := reader.GetEvents(ctx, "order-1", 0); err != nil || len(events) != 1 {
		t.Errorf("GetEvents: %d events, %v", len(events), err)
	}
	if version, err := reader.GetLatestVersion(ctx, "order-1"); err != nil || version != 1 {
		t.Errorf("GetLatestVersion: %d, %v", version, err)
	}
	if snapshot, err := reader.GetLatestSnapshot(ctx, "order-1"); err != nil || snapshot.Version != 1 {
		t.Errorf("GetLatestSnapshot: %+v, %v", snapshot, err)
	}
	if err := reader.Check(ctx); err != nil {
		t.Errorf("Check: %v", err)
	}
	sub, err := reader.Subscribe(ctx, eventstore.SubscribeOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if event, err := sub.Next(ctx); err != nil || event.ID != "1" {
		t.Errorf("Subscribe: %+v, %v", event, err)
	}
	// Parked at once, listed, replayed and done.
	const own = "reports"
	member, err := reader.SubscribeDurable(ctx, eventstore.DurableOptions{Name: own, MaxDeliveries: 1})
	if err != nil {
		t.Fatal(err)
	}
	delivery, err := member.Next(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := member.Nak(ctx, delivery.Event.Sequence, 0, "not now"); err != nil {
		t.Fatal(err)
	}
	if parked, err := member.Parked(ctx); err != nil || len(parked) != 1 {
		t.Errorf("Parked: %+v, %v", parked, err)
	}
	if count, err := member.Replay(ctx); err != nil || count != 1 {
		t.Errorf("Replay: %d, %v", count, err)
	}
	if delivery, err = member.Next(ctx); err != nil {
		t.Fatal(err)
	}
	if err := member.Ack(ctx, delivery.Event.Sequence); err != nil {
		t.Error(err)
	}
	if err := member.Close(); err != nil {
		t.Error(err)
	}
	if err := reader.DeleteDurable(ctx, own); err != nil {
		t.Errorf("DeleteDurable: %v", err)
	}
}

// Why workloads have an account of their own: in that of the streams, permissions
// on subjects do not keep a pod from another store. Since 2.15.3 and 2.14.10 servers
// send no answer to the JetStream API, such as to a purge; to the events of another
// store they still do. Should this fail one day, they have closed that door as well,
// and one account would do.
func TestOneAccountWouldNotDo(t *testing.T) {
	t.Parallel()
	own, other := access.Grant{Stream: "shop_own", SnapshotStream: "shop_own_snapshots", Role: v1alpha1.RoleWriter}, "shop_other"
	p := access.PermissionsFor("uid", "", []access.Grant{own})
	cluster := natsserver.Run(t, 1, func(o *server.Options) {
		o.Users = []*server.User{{Username: administrator, Password: "p"}, {Username: "pod", Password: "p", Permissions: &server.Permissions{
			Publish: &server.SubjectPermission{Allow: p.Publish}, Subscribe: &server.SubjectPermission{Allow: p.Subscribe},
		}}}
	})
	js, err := natsjs.New(cluster.Connect(t, nats.UserInfo(administrator, "p")))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{own.Stream, other} {
		config := natsjs.StreamConfig{Name: name, Subjects: []string{name + ".events.>"}, AllowDirect: true}
		if err := natsserver.CreateStream(t.Context(), js, config); err != nil {
			t.Fatal(err)
		}
		if _, err := js.Publish(t.Context(), name+".events.order.order-1", []byte("{}")); err != nil {
			t.Fatal(err)
		}
	}
	a := &attacker{T: t, nc: cluster.Connect(t, nats.UserInfo("pod", "p"), nats.CustomInboxPrefix(access.InboxPrefix("uid")))}
	forged := other + ".events.order.forged"
	a.mayNotPublish(forged)
	if err := a.nc.PublishRequest(plain+"DIRECT.GET."+own.Stream, forged, []byte(`{"seq":1}`)); err != nil {
		t.Fatal(err)
	}
	testenv.Eventually(t, limit, "an event that no permission allows", func() error {
		stream, err := js.Stream(t.Context(), other)
		if err == nil {
			_, err = stream.GetLastMsgForSubject(t.Context(), forged)
		}
		return err
	})
}
