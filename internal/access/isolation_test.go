package access_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/jetstream"
	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/access"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv/callout"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv/natsserver"
)

const (
	// api is the prefix of JetStream as pods know it, and plain the one it has
	// elsewhere.
	api   = "$JS." + callout.Domain + ".API."
	plain = "$JS.API."
	// durable is a durable subscription of the other store.
	durable = "projection"
)

// attacker is a pod that uses one store, and tries to reach another.
type attacker struct {
	*testing.T
	nc *nats.Conn
	// own and other are the streams of events of the two stores.
	own, other string
	// inboxes is where the answers for a pod of the other store arrive.
	inboxes string
	// refused counts what was.
	refused int
}

// mayNotPublish tries to publish each subject.
func (a *attacker) mayNotPublish(subjects ...string) {
	a.Helper()
	for _, subject := range subjects {
		if err := a.nc.PublishRequest(subject, a.nc.NewInbox(), nil); err != nil {
			a.Fatalf("publish %s: %v", subject, err)
		}
		a.wantViolation("Publish", subject)
	}
}

// mayNotSubscribe tries to subscribe to each subject.
func (a *attacker) mayNotSubscribe(subjects ...string) {
	a.Helper()
	for _, subject := range subjects {
		for _, queue := range []string{"", "workers"} {
			sub, err := a.nc.QueueSubscribeSync(subject, queue)
			if err != nil {
				a.Fatalf("subscribe to %s: %v", subject, err)
			}
			a.wantViolation("Subscription", subject)
			_ = sub.Unsubscribe()
		}
	}
}

// wantViolation sees that the server has refused: it says so before it answers
// a ping.
func (a *attacker) wantViolation(what, subject string) {
	a.Helper()
	if err := a.nc.FlushTimeout(limit); err != nil {
		a.Fatal(err)
	}
	err := a.nc.LastError()
	if !errors.Is(err, nats.ErrPermissionViolation) || !strings.Contains(err.Error(), fmt.Sprintf("%s to %q", what, subject)) {
		a.Errorf("%s to %s was not refused: %v", what, subject, err)
		return
	}
	a.refused++
}

// callsOf are the subjects of all calls of the API on a store that is not the
// pod's.
func callsOf(stream string) []string {
	subjects := []string{
		stream + ".events.order.order-1", stream + ".snapshots.order.order-1", stream + ".snapshots.%parked." + durable,
		stream + ".work." + durable, stream + ".stored.order.order-1",
		"$JS.ACK." + stream + "." + durable + ".1.1.1.1.0", "$JS.FC." + stream + "." + durable + ".x",
		// As a server with js_ack_fc_v2 has it: a consumer of the older form takes it too.
		"$JS.ACK._.hash." + stream + "." + durable + ".1.1.1.1.0.x",
	}
	for _, prefix := range []string{api, plain} {
		for _, s := range []string{stream, stream + "_snapshots"} {
			for _, call := range []string{
				"DIRECT.GET.%s", "DIRECT.GET.%s." + stream + ".events.order.order-1", "STREAM.MSG.GET.%s",
				"CONSUMER.CREATE.%s", "CONSUMER.CREATE.%s.x", "CONSUMER.CREATE.%s.x." + stream + ".events.>", "CONSUMER.DURABLE.CREATE.%s.x",
				"CONSUMER.MSG.NEXT.%s." + durable, "CONSUMER.INFO.%s." + durable, "CONSUMER.DELETE.%s." + durable,
			} {
				subjects = append(subjects, prefix+fmt.Sprintf(call, s))
			}
		}
	}
	return subjects
}

// administrationOf are the subjects with which a stream, its consumers or the
// servers are administered.
func administrationOf(streams ...string) []string {
	var subjects []string
	for _, prefix := range []string{api, plain} {
		for _, stream := range streams {
			for _, call := range []string{
				"STREAM.CREATE.%s", "STREAM.UPDATE.%s", "STREAM.DELETE.%s", "STREAM.PURGE.%s", "STREAM.MSG.DELETE.%s", "STREAM.INFO.%s",
				"STREAM.SNAPSHOT.%s", "STREAM.RESTORE.%s", "STREAM.PEER.REMOVE.%s", "STREAM.PEER.EVACUATE.%s", "STREAM.LEADER.STEPDOWN.%s",
				"STREAM.CANCEL_MOVE.%s", "CONSUMER.NAMES.%s", "CONSUMER.LIST.%s", "CONSUMER.PAUSE.%s." + durable, "CONSUMER.RESET.%s." + durable,
				"CONSUMER.UNPIN.%s." + durable, "CONSUMER.LEADER.STEPDOWN.%s." + durable, "CONSUMER.PEER.REMOVE.%s." + durable,
			} {
				subjects = append(subjects, prefix+fmt.Sprintf(call, stream))
			}
		}
		for _, call := range []string{"INFO", "STREAM.NAMES", "STREAM.LIST", "STREAM.CREATE.new", "META.LEADER.STEPDOWN", "SERVER.REMOVE", "ACCOUNT.PURGE." + callout.Account} {
			subjects = append(subjects, prefix+call)
		}
	}
	return append(subjects,
		"$SYS.REQ.USER.AUTH", "$SYS.REQ.USER.INFO", "$SYS.REQ.SERVER.PING", "$SYS.REQ.SERVER.PING.CONNZ", "$SYS.REQ.ACCOUNT.PING.STATZ",
		"$SYS.REQ.ACCOUNT."+callout.Account+".CONNZ", "$SYS.REQ.CLAIMS.UPDATE")
}

// What no pod may listen to, for a store that is not its own.
func ears(stream, inboxes string) []string {
	return []string{
		">", "*", "*.>", "_INBOX.>", "_INBOX.*.>", "_INBOX.aether.>", "_INBOX.aether.*.>", inboxes + ".>", "_INBOX.aether-callout.>", "_R_.>",
		stream + ".>", stream + ".events.>", stream + ".snapshots.>", stream + ".stored.>", stream + ".stored.order.order-1",
		stream + ".work.>", stream + ".work." + durable, "*.stored.>", "*.events.>", "*.work.*",
		"$JS.>", "$JS.ACK.>", "$JS.EVENT.>", "$JS.EVENT.ADVISORY.STREAM.*.*", "$SYS.>", "$SYS.REQ.USER.AUTH", api + ">", plain + ">",
	}
}

// request asks for something that the pod may ask, and answers what came.
func (a *attacker) request(subject string, header nats.Header, data string) string {
	a.Helper()
	ctx, cancel := context.WithTimeout(a.Context(), limit)
	defer cancel()
	answer, err := a.nc.RequestMsgWithContext(ctx, &nats.Msg{Subject: subject, Header: header, Data: []byte(data)})
	if err != nil {
		a.Fatalf("request %s: %v", subject, err)
	}
	return string(answer.Data)
}

// misdirect has answers of JetStream, which may hold what the pod has stored, sent
// to a subject of its choice.
func (a *attacker) misdirect(to string, sequence int) {
	a.Helper()
	get := fmt.Sprintf(`{"seq":%d}`, sequence)
	for _, ask := range []struct{ subject, data string }{
		{a.own + ".events.order.order-1", "x"},
		{api + "DIRECT.GET." + a.own, get},
		{api + "STREAM.MSG.GET." + a.own, get},
		{api + "CONSUMER.MSG.NEXT." + a.own + ".mine", `{"batch":1}`},
		{api + "CONSUMER.INFO." + a.own + ".mine", ""},
	} {
		if err := a.nc.PublishRequest(ask.subject, to, []byte(ask.data)); err != nil {
			a.Fatal(err)
		}
		a.refused++
	}
	a.consumer("push", a.own, fmt.Sprintf(`"deliver_subject":%q`, to))
	a.refused++
	a.request(a.own+".events.order.order-1", nil, "{}")
}

// consumer makes a consumer of the own stream, whatever the body says.
func (a *attacker) consumer(name, stream, more string) string {
	a.Helper()
	return a.request(api+"CONSUMER.CREATE."+a.own+"."+name+"."+a.own+".events.>", nil, fmt.Sprintf(
		`{"stream_name":%q,"config":{"name":%q,"filter_subject":%q,"deliver_policy":"all","ack_policy":"none","replay_policy":"instant","inactive_threshold":60000000000,"num_replicas":1,"mem_storage":true,%s}}`,
		stream, name, a.own+".events.>", more))
}

// headers tries what headers of a message could do beyond storing it.
func (a *attacker) headers() {
	a.Helper()
	victim := a.other + ".events.order.order-1"
	for _, try := range []struct {
		header nats.Header
		want   string
	}{
		{nats.Header{"Nats-Rollup": {"all"}}, "rollup"},
		{nats.Header{"Nats-Rollup": {"sub"}}, "rollup"},
		{nats.Header{"Nats-Schedule": {"@at 2020-01-01T00:00:00Z"}, "Nats-Schedule-Target": {victim}}, "error"},
		{nats.Header{"Nats-Schedule": {"@every 1s"}, "Nats-Schedule-Target": {victim}}, "error"},
		{nats.Header{"Nats-TTL": {"1s"}}, "error"},
		{nats.Header{"Nats-Incr": {"1"}}, "error"},
		{nats.Header{"Nats-Expected-Stream": {a.other}}, "error"},
		// It would tell the sequence of a subject of the other store: but the stream
		// that is asked holds none, and says what it says of any that is not there.
		{nats.Header{"Nats-Expected-Last-Subject-Sequence": {"7"}, "Nats-Expected-Last-Subject-Sequence-Subject": {victim}}, "wrong last sequence: 0"},
		{nats.Header{"Nats-Expected-Last-Subject-Sequence": {"7"}, "Nats-Expected-Last-Subject-Sequence-Subject": {a.other + ".events.>"}}, "wrong last sequence: 0"},
	} {
		if answer := a.request(a.own+".events.order.order-2", try.header, "{}"); !strings.Contains(answer, "error") || !strings.Contains(answer, try.want) {
			a.Errorf("%v was answered with %s, want an error of %q", try.header, answer, try.want)
			continue
		}
		a.refused++
	}
	for _, header := range []nats.Header{
		{"Nats-Trace-Dest": {victim}}, {"Nats-Trace-Dest": {victim}, "Nats-Trace-Only": {"true"}}, {"Nats-Trace-Dest": {plain + "STREAM.PURGE." + a.other}},
		{"Nats-Request-Info": {`{"acc":"AETHER","svc":"AETHER"}`}},
	} {
		if err := a.nc.PublishMsg(&nats.Msg{Subject: a.own + ".events.order.order-2", Header: header, Data: []byte("{}")}); err != nil {
			a.Fatal(err)
		}
		a.refused++
	}
}

// victim is the store that is attacked, as its administrator and a pod of its own
// see it.
type victim struct {
	*testing.T
	streams []string
	js      natsjs.JetStream
	// heard is all that arrives at the pod.
	heard *nats.Subscription
	// stored are the notifications that the application gets.
	stored *jetstream.StoredSubscription
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
	fmt.Fprintf(&all, "consumer: %+v, delivered %d, acknowledged %d, pending %d, waiting %d\n",
		info.Config, info.Delivered.Stream, info.AckFloor.Stream, info.NumAckPending, info.NumWaiting)
	return all.String()
}

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
				a.own+".stored.order.order-1", api+"CONSUMER.CREATE."+a.own, api+"CONSUMER.CREATE."+a.own+".x",
				api+"CONSUMER.CREATE."+a.own+"_snapshots.x.>", api+"CONSUMER.CREATE."+a.own+".x."+a.other+".events.>", plain+"DIRECT.GET."+a.own)
			a.mayNotSubscribe(ears(a.other, inboxes)...)
			a.mayNotSubscribe(a.own+".events.>", a.own+".snapshots.>")
			a.headers()
			a.attackThroughAnswers()

			if after := v.state(); after != before {
				t.Errorf("the other store was changed, from\n%s to\n%s", before, after)
			}
			v.wantNothingHeard()
			t.Logf("%d attempts of a pod of another store came to nothing, with %d servers", a.refused, size)
		})
	}
}

// attackThroughAnswers uses that JetStream answers to whatever subject is named:
// with messages that the pod has stored for that.
func (a *attacker) attackThroughAnswers() {
	a.Helper()
	forged := nats.Header{
		"ce-specversion": {"1.0"}, "ce-id": {"forged"}, "ce-type": {"Forged"}, "ce-source": {"/x/y"}, "ce-subject": {"order-1"},
		"ce-time": {"2026-01-01T00:00:00Z"}, "ce-actorversion": {"99"}, "content-type": {"application/json"}, "Nats-Stream": {a.other},
	}
	a.consumer("mine", a.own, `"max_waiting":100`)
	for _, payload := range []struct {
		header nats.Header
		data   string
	}{
		{nil, ""}, {nil, "{}"}, {forged, "{}"}, {nil, "settled 1"}, {nil, "+ACK"}, {nil, "+NXT"},
		{nil, fmt.Sprintf(`{"name":%q,"subjects":["elsewhere"]}`, a.other)}, {nil, `{"seq":1,"no_erase":false}`},
	} {
		var stored struct {
			Sequence int `json:"seq"`
		}
		if err := json.Unmarshal([]byte(a.request(a.own+".events.order.order-1", payload.header, payload.data)), &stored); err != nil || stored.Sequence == 0 {
			a.Fatalf("store %q: sequence %d, %v", payload.data, stored.Sequence, err)
		}
		for _, to := range []string{
			a.other + ".events.order.order-1", a.other + ".snapshots.order.order-1", a.other + ".snapshots.%parked." + durable,
			a.other + ".stored.order.order-1", a.other + ".work." + durable,
			plain + "STREAM.DELETE." + a.other, api + "STREAM.DELETE." + a.other, plain + "STREAM.PURGE." + a.other, api + "STREAM.PURGE." + a.other,
			plain + "STREAM.UPDATE." + a.other, plain + "STREAM.MSG.DELETE." + a.other, plain + "CONSUMER.DELETE." + a.other + "." + durable,
			api + "CONSUMER.DELETE." + a.other + "." + durable, "_INBOX.aether-callout.x", "$SYS.REQ.USER.AUTH",
		} {
			a.misdirect(to, stored.Sequence)
		}
	}
	if answer := a.consumer("theirs", a.other, `"max_waiting":100`); !strings.Contains(answer, "error") {
		a.Errorf("a consumer of the other stream was made: %s", answer)
	}
	a.refused++
	// All was sent before this is answered.
	a.request(a.own+".events.order.order-3", nil, "{}")
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
	if _, err := opened.SubscribeDurable(ctx, eventstore.DurableOptions{Name: durable}); err != nil {
		t.Fatal(err)
	}
	js, err := natsjs.New(s.administrator(t))
	if err != nil {
		t.Fatal(err)
	}
	v := &victim{T: t, streams: []string{store.EventsStreamName(), store.SnapshotsStreamName()}, js: js}
	if v.stored, err = opened.SubscribeStored(ctx, eventstore.SubscribeOptions{ActorID: "order-1"}, 100); err != nil {
		t.Fatal(err)
	}
	inboxes := access.InboxPrefix(string(p.UID))
	nc := s.connect(t, p, store.EventsStreamName())
	if v.heard, err = nc.SubscribeSync(inboxes + ".>"); err != nil {
		t.Fatal(err)
	}
	if err := nc.FlushTimeout(limit); err != nil {
		t.Fatal(err)
	}
	return v, inboxes
}

func (v *victim) wantNothingHeard() {
	v.Helper()
	select {
	case notification := <-v.stored.C():
		v.Errorf("a notification of an event that was not stored: %+v", notification)
	default:
	}
	for {
		msg, err := v.heard.NextMsg(time.Millisecond)
		if err != nil {
			return
		}
		// The answers to the application, on its other connection, go to the same prefix.
		if strings.Contains(string(msg.Data), "forged") || msg.Header.Get("ce-id") == "forged" || strings.HasSuffix(msg.Subject, ".x") {
			v.Errorf("%s arrived at the pod: %v %q", msg.Subject, msg.Header, msg.Data)
		}
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
				a.own+".snapshots.other.x", a.own+".stored.order.order-1", a.own+".events.%parked."+durable)
			a.mayNotPublish(administrationOf(a.own, a.own+"_snapshots")...)

			reader := system.open(t, store, p)
			ctx := t.Context()
			for name, err := range map[string]error{
				"SaveEvent": second(reader.SaveEvent(ctx, eventstore.Event{ID: "2", EventType: "Ordered", ActorID: "order-1", Version: 2})),
				"SaveEvents": second(reader.SaveEvents(ctx, []eventstore.Event{
					{ID: "2", EventType: "Ordered", ActorID: "order-1", Version: 2}, {ID: "3", EventType: "Ordered", ActorID: "order-2", Version: 1}})),
				"SaveSnapshot": reader.SaveSnapshot(ctx, eventstore.Snapshot{ActorID: "order-1", Version: 2, Data: []byte("{}")}),
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
	stored, err := reader.SubscribeStored(ctx, eventstore.SubscribeOptions{}, 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := stored.Close(); err != nil {
		t.Error(err)
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
