package stream_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	layout "git.flowmade.one/flowmade-one/aether-operator/api/eventstore/jetstream"
	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/stream"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv/link"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv/natsserver"
)

// makeOrders makes the streams of a store as the operator does, with one event, of version 5.
func makeOrders(t *testing.T, conn *stream.Conn, nc *nats.Conn, store *v1alpha1.EventStore) *jetstream.StreamInfo {
	t.Helper()
	var events *jetstream.StreamInfo
	for _, wanted := range desired(t, store) {
		info, err := conn.Create(t.Context(), wanted.Config)
		fail(t, err)
		if wanted.Role == v1alpha1.StreamRoleEvents {
			events = info
		}
	}
	js, err := jetstream.New(nc)
	fail(t, err)
	_, err = js.PublishMsg(t.Context(), &nats.Msg{Subject: store.EventsStreamName() + ".events.order.order-1", Header: nats.Header{
		"ce-specversion": {"1.0"}, "ce-id": {"a"}, "ce-type": {"Tested"}, "ce-source": {"/s"}, "ce-subject": {"order-1"},
		"ce-time": {"2026-01-02T03:04:05Z"}, "ce-actorversion": {"5"},
	}})
	fail(t, err)
	return events
}

// The permissions that the documentation lists are enough to keep versions.
func TestKeepVersionsWithTheListedPermissions(t *testing.T) {
	t.Parallel()
	for _, size := range []int{1, 3} {
		servers := natsserver.Run(t, size, withPermissions(stream.NeededPermissions("")), withAdmin)
		conn, _ := connect(t, servers, asU)
		nc := servers.Connect(t, nats.UserInfo("admin", "p"))
		store := orders(func(s *v1alpha1.EventStore) { s.Spec.Replicas = int32(size) })
		events := makeOrders(t, conn, nc, store)
		opts := layout.KeepOptions{MaxAge: 10 * time.Millisecond, Created: events.Created}
		testenv.Eventually(t, time.Minute, "the version to be kept", func() error {
			kept, err := conn.KeepVersions(t.Context(), store, opts)
			if err == nil && kept.Marked != 1 {
				err = errors.New("nothing is kept")
			}
			return err
		})
		js, err := jetstream.New(nc)
		fail(t, err)
		snapshots, err := js.Stream(t.Context(), store.SnapshotsStreamName())
		fail(t, err)
		var m *jetstream.RawStreamMsg
		testenv.Eventually(t, time.Minute, "a replica to answer", func() (err error) {
			m, err = snapshots.GetLastMsgForSubject(t.Context(), store.EventsStreamName()+".snapshots.order.order-1")
			return err
		})
		if m.Header.Get("ce-actorversion") != "5" || m.Header.Get("ce-source") != "/shop/orders" {
			t.Errorf("what remembers the version is %v", m.Header)
		}
		// Another stream of the name is none of the store's, perhaps.
		opts.Created = opts.Created.Add(-time.Hour)
		_, err = conn.KeepVersions(t.Context(), store, opts)
		wantFault(t, err, stream.Retry, v1alpha1.ReasonJetStreamUnavailable)
	}
}

// withAdmin adds a user who may do all.
func withAdmin(o *server.Options) {
	o.Users = append(o.Users, &server.User{Username: "admin", Password: "p"})
}

func TestKeepVersionsFaults(t *testing.T) {
	t.Parallel()
	may := stream.NeededPermissions("")
	may.Publish = slices.DeleteFunc(may.Publish, func(s string) bool { return strings.HasPrefix(s, "*.snapshots.") })
	servers := natsserver.Run(t, 1, withPermissions(may), withAdmin)
	conn, _ := connect(t, servers, asU)
	store := orders(func(s *v1alpha1.EventStore) { s.Spec.Replicas = 1 })
	makeOrders(t, conn, servers.Connect(t, nats.UserInfo("admin", "p")), store)
	var err error
	testenv.Eventually(t, time.Minute, "the version to be refused", func() error {
		// Before the event is in its window, nothing is to be done.
		if _, err = conn.KeepVersions(t.Context(), store, layout.KeepOptions{MaxAge: 10 * time.Millisecond}); err == nil {
			return errors.New("nothing is refused")
		}
		return nil
	})
	wantFault(t, err, stream.Stall, v1alpha1.ReasonPermissionDenied)
	if err == nil || !strings.Contains(err.Error(), "docs/eventstoreclass.md") {
		t.Errorf("it says %v", err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := conn.KeepVersions(ended, store, layout.KeepOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("with a context that has ended: %v", err)
	} else if _, isFault := stream.AsFault(err); isFault {
		t.Errorf("a context that has ended is a fault: %v", err)
	}
}

// Whether the servers answer is not a matter of one store.
func TestKeepVersionsWithoutAnswer(t *testing.T) {
	t.Parallel()
	servers := natsserver.Run(t, 1)
	way := link.To(t, servers.URLs()[0])
	conn, store := connectTo(t, way.URL()), orders()
	ended, cancel := context.WithTimeout(t.Context(), 0)
	defer cancel()
	for _, answers := range []bool{true, false} {
		if !answers {
			way.Silence()
		}
		kept, err := conn.KeepVersions(ended, store, layout.KeepOptions{})
		wantFault(t, err, stream.Retry, v1alpha1.ReasonJetStreamUnavailable)
		if kept.Answered != answers {
			t.Errorf("that the servers answer is %t, want %t: %v", kept.Answered, answers, err)
		}
	}
}

// A connection is given to who asks for that of the system that it leads to.
func TestCurrentConnection(t *testing.T) {
	t.Parallel()
	servers := natsserver.Run(t, 1)
	connections := stream.NewConnections(func(stream.Notice) {}, func(string, time.Duration, error) {}, nobodyKnows)
	t.Cleanup(connections.Close)
	if connections.Current("c", "one") != nil {
		t.Error("there is a connection before anybody has connected")
	}
	conn, err := connections.Get(t.Context(), stream.Target{Class: "c", Servers: servers.URLs(), System: "one"})
	fail(t, err)
	if connections.Current("c", "one") != conn {
		t.Error("the connection that there is is not found")
	}
	if connections.Current("c", "two") != nil || connections.Current("d", "one") != nil {
		t.Error("a connection to another system is found")
	}
	servers.Stop()
	testenv.Eventually(t, time.Minute, "the connection to be lost", func() error {
		if connections.Current("c", "one") != nil {
			return errors.New("it is found")
		}
		return nil
	})
}

func TestShortensAge(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		from, to time.Duration
		want     bool
	}{{0, 0, false}, {0, time.Hour, true}, {time.Hour, 0, false}, {time.Hour, time.Minute, true}, {time.Minute, time.Hour, false}, {time.Hour, time.Hour, false}} {
		plan := stream.Plan{Wanted: stream.Wanted{Config: jetstream.StreamConfig{MaxAge: c.to}}, Live: &jetstream.StreamInfo{Config: jetstream.StreamConfig{MaxAge: c.from}}}
		if got := plan.ShortensAge(); got != c.want {
			t.Errorf("from %s to %s: %t", c.from, c.to, got)
		}
		plan.Live = nil
		if plan.ShortensAge() {
			t.Error("a stream that is new expires nothing earlier")
		}
	}
}
