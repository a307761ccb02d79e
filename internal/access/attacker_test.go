package access_test

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/jetstream"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv/callout"
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
	// refused counts what a server has said no to, and sent what was sent without an
	// answer that the attacker could see: that came to nothing when the other store is as
	// it was.
	refused, sent int
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
		stream + ".events.order.order-1", stream + ".snapshots.order.order-1", stream + ".snapshots.%durable." + durable, stream + ".snapshots.%waiting." + durable + "%00",
		stream + ".work." + durable, stream + ".stored.order.order-1",
		"$JS.ACK." + stream + "." + durable + ".1.1.1.1.0", "$JS.FC." + stream + "." + durable + ".x", "$JS.FC._.hash." + stream + "." + durable + ".x",
		// As servers with the feature js_ack_fc_v2 have it, who take more at its end too.
		"$JS.ACK._.hash." + stream + "." + durable + ".1.1.1.1.0", "$JS.ACK._.hash." + stream + "." + durable + ".1.1.1.1.0.x",
		jetstream.MakeConsumerSubject(stream), jetstream.MakeConsumerSubject(stream + "_snapshots"), jetstream.MakeConsumerSubject("*"),
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
				"CONSUMER.CREATE.%s", "CONSUMER.CREATE.%s.x", "CONSUMER.CREATE.%s.x." + stream + ".events.>", "CONSUMER.DURABLE.CREATE.%s.x",
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
	return string(a.ask(subject, header, data).Data)
}

func (a *attacker) ask(subject string, header nats.Header, data string) *nats.Msg {
	a.Helper()
	ctx, cancel := context.WithTimeout(a.Context(), limit)
	defer cancel()
	answer, err := a.nc.RequestMsgWithContext(ctx, &nats.Msg{Subject: subject, Header: header, Data: []byte(data)})
	for again := time.NewTicker(50 * time.Millisecond); errors.Is(err, nats.ErrNoResponders) && strings.HasPrefix(subject, jetstream.MakeConsumerSubject("")); {
		// The operator listens a moment after a store is there, and no more requests are
		// passed on than it has asked for.
		select {
		case <-ctx.Done():
			a.Fatalf("request %s: %v", subject, ctx.Err())
		case <-again.C:
		}
		answer, err = a.nc.RequestMsgWithContext(ctx, &nats.Msg{Subject: subject, Header: header, Data: []byte(data)})
	}
	if err != nil {
		a.Fatalf("request %s: %v", subject, err)
	}
	return answer
}

// wantRefused sees that an answer is an error that says why.
func (a *attacker) wantRefused(what, answer, why string) {
	a.Helper()
	if !strings.Contains(answer, `"error"`) || !strings.Contains(answer, why) {
		a.Errorf("%s was answered with %s, want an error of %q", what, answer, why)
		return
	}
	a.refused++
}

// send publishes what has no answer that the attacker could see.
func (a *attacker) send(msg *nats.Msg) {
	a.Helper()
	if err := a.nc.PublishMsg(msg); err != nil {
		a.Fatalf("publish %s: %v", msg.Subject, err)
	}
	a.sent++
}

// misdirect has answers of JetStream, which may hold what the pod has stored, sent
// to a subject of its choice.
func (a *attacker) misdirect(to string, sequence int) {
	a.Helper()
	get := fmt.Sprintf(`{"seq":%d}`, sequence)
	for _, ask := range []struct{ subject, data string }{
		{a.own + ".events.order.order-1", "x"},
		{api + "DIRECT.GET." + a.own, get},
		{api + "DIRECT.GET." + a.own, fmt.Sprintf(`{"seq":%d,"batch":8,"next_by_subj":">"}`, sequence)},
		{api + "STREAM.MSG.GET." + a.own, get},
		{api + "CONSUMER.MSG.NEXT." + a.own + "." + mine, `{"batch":8}`},
		{jetstream.MakeConsumerSubject(a.own), get},
	} {
		a.send(&nats.Msg{Subject: ask.subject, Reply: to, Data: []byte(ask.data)})
	}
	a.request(a.own+".events.order.order-1", nil, "{}")
}

// mine is a consumer of the attacker's own store.
const mine = "aether-MINEMINEMINEMINEMINEMINE22"

func newName() string { return "aether-" + rand.Text() }

// consumerFor is a request for a consumer, and change what is done to it.
func consumerFor(stream, name string, change func(request, config map[string]any)) string {
	config := map[string]any{
		"name": name, "deliver_policy": "by_start_sequence", "opt_start_seq": 1, "filter_subject": jetstream.EventsSubjects(stream),
		"ack_policy": "none", "replay_policy": "instant", "num_replicas": 1, "inactive_threshold": time.Minute, "mem_storage": true,
	}
	request := map[string]any{"stream_name": stream, "action": "create", "config": config}
	change(request, config)
	body, err := json.Marshal(request)
	if err != nil {
		panic(err)
	}
	return string(body)
}

func unchanged(_, _ map[string]any) {}

// make has a consumer of the own store made, and asks again where that takes long.
func (a *attacker) make(body string) {
	a.Helper()
	testenv.Eventually(a.T, limit, "a consumer", func() error {
		if answer := a.request(jetstream.MakeConsumerSubject(a.own), nil, body); strings.Contains(answer, `"error"`) {
			return errors.New(answer)
		}
		return nil
	})
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
		a.wantRefused(fmt.Sprint(try.header), a.request(a.own+".events.order.order-2", try.header, "{}"), try.want)
	}
	for _, header := range []nats.Header{
		{"Nats-Trace-Dest": {victim}}, {"Nats-Trace-Dest": {victim}, "Nats-Trace-Only": {"true"}}, {"Nats-Trace-Dest": {plain + "STREAM.PURGE." + a.other}},
		{"Nats-Request-Info": {`{"acc":"AETHER","svc":"AETHER"}`}},
	} {
		a.send(&nats.Msg{Subject: a.own + ".events.order.order-2", Header: header, Data: []byte("{}")})
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
	a.make(consumerFor(a.own, mine, unchanged))
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
			a.other + ".events.order.order-1", a.other + ".snapshots.order.order-1", a.other + ".snapshots.%durable." + durable,
			a.other + ".stored.order.order-1", a.other + ".work." + durable, plain + "CONSUMER.RESET." + a.other + "." + durable,
			plain + "CONSUMER.MSG.NEXT." + a.other + "." + durable, "$JS.ACK." + a.other + "." + durable + ".1.1.1.1.0",
			jetstream.MakeConsumerSubject(a.other), "aether.owner.x",
			plain + "STREAM.DELETE." + a.other, api + "STREAM.DELETE." + a.other, plain + "STREAM.PURGE." + a.other, api + "STREAM.PURGE." + a.other,
			plain + "STREAM.UPDATE." + a.other, plain + "STREAM.MSG.DELETE." + a.other, plain + "CONSUMER.DELETE." + a.other + "." + durable,
			api + "CONSUMER.DELETE." + a.other + "." + durable, "_INBOX.aether-callout.x", "$SYS.REQ.USER.AUTH",
		} {
			a.misdirect(to, stored.Sequence)
		}
	}
	a.wantRefused("a consumer of the other stream", a.request(jetstream.MakeConsumerSubject(a.own), nil, consumerFor(a.other, newName(), unchanged)), "it is for stream")
	// All was sent before this is answered.
	a.request(a.own+".events.order.order-3", nil, "{}")
}
