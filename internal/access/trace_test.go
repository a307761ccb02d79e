package access_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv"
)

// lineEnd stands for the end of a line in the value of a header, since the order of headers
// is the client's.
const lineEnd = "\x01\x02"

// hiding dials connections on which the header Status of a message stands behind the version
// of the protocol, as the status of an answer does. Servers up to 2.15.3 do not find the
// headers of a trace in such a message, so they do not look whether its sender may publish to
// its destination. JetStream takes the status away before it stores the message: where it is
// then answered over a route, the server there begins the trace (server/msgtrace.go
// genHeaderMapIfTraceHeadersPresent, server/stream.go processInboundJetStreamMsg).
type hiding struct{}

type hidingConn struct{ net.Conn }

func (hiding) Dial(network, address string) (net.Conn, error) {
	conn, err := net.DialTimeout(network, address, limit)
	return hidingConn{conn}, err
}

func (c hidingConn) Write(p []byte) (int, error) {
	// As long as before: the length of the header is in the line above it.
	p = bytes.ReplaceAll(p, []byte("NATS/1.0\r\nStatus:"), []byte("NATS/1.0  Status:"))
	return c.Conn.Write(bytes.ReplaceAll(p, []byte(lineEnd), []byte("\r\n")))
}

// A trace that begins on a route has all rights of the account of the streams but those that
// the configuration of the cluster takes away.
func TestTraceReachesNothing(t *testing.T) {
	t.Parallel()
	for size, system := range systems {
		t.Run(fmt.Sprintf("%d servers", size), func(t *testing.T) {
			t.Parallel()
			theirs, ours := newNamespace(t), newNamespace(t)
			other, own := system.newStore(t, theirs), system.newStore(t, ours)
			v, _ := system.newVictim(t, other)
			before := v.state()
			admin := system.administrator(t)
			harmless := "trace-of-" + ours
			begun, asked := listen(t, admin, harmless), listen(t, admin, "$JS.EVENT.ADVISORY.API")

			p := newPod(t, ours, "attacker")
			token, stream := p.token(t), own.EventsStreamName()
			for i, url := range system.servers.URLs() {
				nc, err := nats.Connect(url, append(p.options(token, stream), nats.SetCustomDialer(hiding{}), nats.DontRandomize())...)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(nc.Close)
				for n, to := range append(destinations(other.EventsStreamName()), harmless) {
					traced(t, nc, stream, fmt.Sprintf("%s.events.order.order-%d-%d", stream, i, n), to)
				}
			}
			if size > 1 {
				// The last of each server: those before it had their answers before.
				testenv.Eventually(t, limit, "a trace that may go where it goes", func() error {
					_, err := begun.NextMsg(time.Second)
					return err
				})
			}
			if after := v.state(); after != before {
				t.Errorf("the other store was changed, from\n%s to\n%s", before, after)
			}
			wantNoneAsked(t, asked)
			v.wantNothingHeard()
			v.wantServed()
		})
	}
}

// destinations are where a trace would change a store.
func destinations(stream string) []string {
	to := []string{stream + ".events.order.order-1", stream + ".snapshots.order.order-1", stream + ".snapshots.%durable." + durable}
	for _, name := range []string{stream, stream + "_snapshots"} {
		for _, call := range []string{"STREAM.CREATE.", "STREAM.UPDATE.", "STREAM.DELETE.", "STREAM.PURGE.", "STREAM.MSG.DELETE.", "STREAM.LEADER.STEPDOWN.", "STREAM.PEER.REMOVE.", "STREAM.RESTORE."} {
			to = append(to, plain+call+name)
		}
		for _, call := range []string{"CONSUMER.CREATE.", "CONSUMER.DURABLE.CREATE.", "CONSUMER.DELETE.", "CONSUMER.PAUSE.", "CONSUMER.RESET.", "CONSUMER.LEADER.STEPDOWN.", "CONSUMER.UNPIN."} {
			to = append(to, plain+call+name+"."+durable)
		}
	}
	return append(to, plain+"META.LEADER.STEPDOWN", plain+"SERVER.REMOVE")
}

// traced stores a message whose trace is to go somewhere, and has it answered: by each server
// that holds the stream, sooner or later.
func traced(t *testing.T, nc *nats.Conn, stream, subject, to string) {
	t.Helper()
	answer, err := nc.RequestMsg(&nats.Msg{Subject: subject, Data: []byte("{}"), Header: nats.Header{"Status": {"503" + lineEnd + "Nats-Trace-Dest: " + to}}}, limit)
	if err != nil {
		t.Fatalf("store a message with a trace to %s: %v", to, err)
	}
	var stored struct{ Seq int }
	if err := json.Unmarshal(answer.Data, &stored); err != nil || stored.Seq == 0 {
		t.Fatalf("store a message with a trace to %s: %s, %v", to, answer.Data, err)
	}
	// Those whose trace is refused are not passed on: nothing to wait for.
	for range 6 {
		if err := nc.PublishRequest(api+"DIRECT.GET."+stream, nc.NewInbox(), fmt.Appendf(nil, `{"seq":%d}`, stored.Seq)); err != nil {
			t.Fatal(err)
		}
	}
}

func listen(t *testing.T, nc *nats.Conn, subject string) *nats.Subscription {
	t.Helper()
	heard, err := nc.SubscribeSync(subject)
	if err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	return heard
}

// wantNoneAsked looks through what JetStream says that it was asked for.
func wantNoneAsked(t *testing.T, asked *nats.Subscription) {
	t.Helper()
	for {
		msg, err := asked.NextMsg(time.Second)
		if err != nil {
			return
		}
		var audit struct{ Subject, Request, Response string }
		if err := json.Unmarshal(msg.Data, &audit); err != nil {
			t.Fatal(err)
		}
		// So does a trace begin.
		if strings.HasPrefix(audit.Request, `{"server":`) {
			t.Errorf("a trace asked JetStream for %s: %.200s", audit.Subject, audit.Response)
		}
	}
}
