package stream_test

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/stream"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv/natsserver"
)

// connect gives a connection as the operator has it, and what it was told.
func connect(t *testing.T, servers *natsserver.Cluster, credentials map[string][]byte) (*stream.Conn, chan stream.Notice) {
	t.Helper()
	told := make(chan stream.Notice, 100)
	return connectAs(t, stream.Target{Class: "c", Servers: servers.URLs(), Credentials: credentials}, told), told
}

func connectTo(t *testing.T, urls ...string) *stream.Conn {
	t.Helper()
	return connectAs(t, stream.Target{Class: "c", Servers: urls}, make(chan stream.Notice, 100))
}

func connectAs(t *testing.T, target stream.Target, told chan stream.Notice) *stream.Conn {
	t.Helper()
	connections := stream.NewConnections(func(n stream.Notice) { told <- n }, func(string, time.Duration, error) {}, nobodyKnows)
	t.Cleanup(connections.Close)
	conn, err := connections.Get(t.Context(), target)
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

func fail(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantFault(t *testing.T, err error, handling stream.Handling, reason string) {
	t.Helper()
	if fault, ok := stream.AsFault(err); !ok || fault.Handling != handling || fault.Reason != reason {
		t.Errorf("got %v, want a fault with handling %d and reason %s", err, handling, reason)
	}
}

func TestCreateUpdateDelete(t *testing.T) {
	t.Parallel()
	for name, size := range map[string]int{"one server": 1, "three servers": 3} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			servers := natsserver.Run(t, size)
			conn, told := connect(t, servers, nil)
			store := orders(func(s *v1alpha1.EventStore) { s.Spec.Replicas = int32(size) })
			for _, wanted := range desired(t, store) {
				live, err := conn.Stream(t.Context(), wanted.Config.Name)
				fail(t, err)
				if live != nil {
					t.Fatalf("%+v is there before it is created", live)
				}
				plan := stream.NewPlan(wanted, nil, time.Now())
				live = create(t, conn, plan.Config())
				// The server took every field as it was asked for, and adjusted none.
				if plan = stream.NewPlan(wanted, live, time.Now()); !plan.Settled() {
					t.Errorf("after creation: %v", plan.Steps)
				}
				live = editUntilTold(t, servers, told, live.Config)
				live, err = conn.Update(t.Context(), stream.NewPlan(wanted, live, time.Now()).Config())
				fail(t, err)
				if plan = stream.NewPlan(wanted, live, time.Now()); !plan.Settled() {
					t.Errorf("after the update: %v", plan.Steps)
				}
				fail(t, conn.Delete(t.Context(), wanted.Config.Name))
				fail(t, conn.Delete(t.Context(), wanted.Config.Name))
			}
		})
	}
}

// create tries for as long as the operator would: servers that have just found
// each other may take one for absent for a moment.
func create(t *testing.T, conn *stream.Conn, config jetstream.StreamConfig) *jetstream.StreamInfo {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; {
		live, err := conn.Create(t.Context(), config)
		if fault, ok := stream.AsFault(err); ok && fault.Handling == stream.Retry && time.Now().Before(deadline) {
			continue
		}
		fail(t, err)
		return live
	}
}

// editUntilTold edits a stream until a notice about it comes: in a cluster it
// takes a moment until all servers know who listens.
func editUntilTold(t *testing.T, servers *natsserver.Cluster, told chan stream.Notice, config jetstream.StreamConfig) *jetstream.StreamInfo {
	t.Helper()
	api, err := jetstream.New(servers.Connect(t))
	fail(t, err)
	for i := range 1000 {
		config.Description = fmt.Sprintf("edit %d", i)
		live, err := api.UpdateStream(t.Context(), config)
		fail(t, err)
		select {
		case notice := <-told:
			if notice == (stream.Notice{Class: "c", Stream: config.Name}) {
				return live.CachedInfo()
			}
		default:
		}
	}
	t.Fatalf("no notice about %s", config.Name)
	return nil
}

func awaitNotice(t *testing.T, told chan stream.Notice, name string) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	for {
		select {
		case notice := <-told:
			if notice == (stream.Notice{Class: "c", Stream: name}) {
				return
			}
		case <-deadline:
			t.Fatalf("no notice about %s", name)
		}
	}
}

// A server that has not finished removing a stream can bring its messages back
// into a new one of that name.
func TestCreatedStreamIsEmpty(t *testing.T) {
	t.Parallel()
	servers := natsserver.Run(t, 1)
	conn, _ := connect(t, servers, nil)
	nc := servers.Connect(t)
	js, err := jetstream.New(nc)
	fail(t, err)
	wanted := desired(t, orders(func(s *v1alpha1.EventStore) { s.Spec.Replicas = 1 }))[0]
	for range 60 {
		live, err := conn.Create(t.Context(), wanted.Config)
		if err != nil {
			wantFault(t, err, stream.Retry, v1alpha1.ReasonProgressingWithRetry)
			continue
		}
		if live.State.Msgs != 0 || live.State.LastSeq != 0 {
			t.Fatalf("the new stream holds %+v", live.State)
		}
		for range 20 {
			_, err := js.Publish(t.Context(), wanted.Config.Name+".events.a.b", make([]byte, 1000))
			fail(t, err)
		}
		fail(t, conn.Delete(t.Context(), wanted.Config.Name))
	}
}

// Where a stream says no number of consumers, the server takes its own for it: 1,000
// in 2.15, and as few here as show it. A stream of before gets the number while it is
// in use.
func TestConsumersBeyondTheServersDefault(t *testing.T) {
	t.Parallel()
	servers := natsserver.Run(t, 1, func(o *server.Options) { o.JetStreamLimits.DefaultMaxConsumers = 1 })
	conn, _ := connect(t, servers, nil)
	api, err := jetstream.New(servers.Connect(t))
	fail(t, err)
	for _, wanted := range desired(t, orders(func(s *v1alpha1.EventStore) { s.Spec.Replicas = 1 })) {
		before := wanted.Config
		before.MaxConsumers = -1
		live, err := conn.Create(t.Context(), before)
		fail(t, err)
		subscribe := func() error {
			_, err := api.CreateConsumer(t.Context(), before.Name, jetstream.ConsumerConfig{InactiveThreshold: time.Hour})
			return err
		}
		fail(t, subscribe())
		if subscribe() == nil {
			t.Fatal("the server does not limit the consumers of a stream that says no number")
		}
		plan := stream.NewPlan(wanted, live, time.Now())
		if len(plan.Steps) != 1 || plan.Steps[0].Effect != stream.Safe {
			t.Fatalf("the plan is %v, want one safe step", plan.Steps)
		}
		live, err = conn.Update(t.Context(), plan.Config())
		fail(t, err)
		if plan = stream.NewPlan(wanted, live, time.Now()); !plan.Settled() {
			t.Errorf("after the update: %v", plan.Steps)
		}
		for range 3 {
			fail(t, subscribe())
		}
	}
}

// An account may allow fewer: who reads it learns where to change what.
func TestAccountThatLimitsConsumers(t *testing.T) {
	t.Parallel()
	option, err := natsserver.WithConfig(`
		accounts { A { users: [{user: u, password: p}], jetstream: {max_consumers: 10} }, $SYS { users: [{user: s, password: s}] } }`)
	fail(t, err)
	conn, _ := connect(t, natsserver.Run(t, 1, option), map[string][]byte{"username": []byte("u"), "password": []byte("p")})
	_, err = conn.Create(t.Context(), desired(t, orders(func(s *v1alpha1.EventStore) { s.Spec.Replicas = 1 }))[0].Config)
	wantFault(t, err, stream.Stall, v1alpha1.ReasonRefusedByServer)
	if err == nil || !strings.Contains(err.Error(), "raise max_consumers of the account") {
		t.Errorf("it says %v", err)
	}
}

func TestFirstSince(t *testing.T) {
	t.Parallel()
	servers := natsserver.Run(t, 1)
	conn, _ := connect(t, servers, nil)
	js, err := jetstream.New(servers.Connect(t))
	fail(t, err)
	wanted := desired(t, orders(func(s *v1alpha1.EventStore) { s.Spec.Replicas = 1 }))[0]
	_, err = conn.Create(t.Context(), wanted.Config)
	fail(t, err)
	for range 5 {
		_, err := js.Publish(t.Context(), wanted.Config.Name+".events.a.b", nil)
		fail(t, err)
	}
	live, err := conn.Stream(t.Context(), wanted.Config.Name)
	fail(t, err)
	s, err := js.Stream(t.Context(), wanted.Config.Name)
	fail(t, err)
	third, err := s.GetMsg(t.Context(), 3)
	fail(t, err)
	for since, want := range map[time.Time]uint64{
		live.State.FirstTime.Add(-time.Hour): 1,
		third.Time:                           3,
		third.Time.Add(1):                    4,
		live.State.LastTime.Add(time.Hour):   6,
	} {
		if got, err := conn.FirstSince(t.Context(), live, since); err != nil || got != want {
			t.Errorf("first since %v: %d, %v, want %d", since, got, err, want)
		}
	}
}

func TestFirstEventIsTold(t *testing.T) {
	t.Parallel()
	servers := natsserver.Run(t, 1)
	conn, told := connect(t, servers, nil)
	watch := func() bool {
		isNew, err := conn.WatchFirstEvent("shop_orders", "shop_orders.stored.>")
		fail(t, err)
		return isNew
	}
	if !watch() || watch() {
		t.Error("a watch is new once")
	}
	nc := servers.Connect(t)
	fail(t, nc.Publish("shop_orders.stored.a.b", nil))
	awaitNotice(t, told, "shop_orders")
}

func TestPeers(t *testing.T) {
	t.Parallel()
	for _, size := range []int{1, 3} {
		conn, _ := connect(t, natsserver.Run(t, size), nil)
		for _, enough := range []int{size, 100} {
			if got, err := conn.Peers(t.Context(), enough); err != nil || got != size {
				t.Errorf("%d servers: %d, %v", size, got, err)
			}
		}
	}
}

func TestServerRefusals(t *testing.T) {
	t.Parallel()
	servers := natsserver.Run(t, 1)
	conn, _ := connect(t, servers, nil)
	wanted := desired(t, orders(func(s *v1alpha1.EventStore) { s.Spec.Replicas = 1 }))[0].Config

	many := wanted
	many.Replicas = 3
	_, err := conn.Create(t.Context(), many)
	wantFault(t, err, stream.Stall, v1alpha1.ReasonInsufficientPeers)

	window := wanted
	window.MaxAge, window.Duplicates = time.Second, time.Minute
	_, err = conn.Create(t.Context(), window)
	wantFault(t, err, stream.Stall, v1alpha1.ReasonRefusedByServer)
}

func TestConnectionIsSharedAndReplaced(t *testing.T) {
	t.Parallel()
	one, other := natsserver.Run(t, 1), natsserver.Run(t, 1)
	connections := stream.NewConnections(func(stream.Notice) {}, func(string, time.Duration, error) {}, nobodyKnows)
	t.Cleanup(connections.Close)
	get := func(servers *natsserver.Cluster) *stream.Conn {
		t.Helper()
		conn, err := connections.Get(t.Context(), stream.Target{Class: "c", Servers: servers.URLs()})
		fail(t, err)
		return conn
	}
	first := get(one)
	if get(one) != first {
		t.Error("the connection is not shared")
	}
	if get(other) == first {
		t.Error("the connection is not replaced")
	}
	for deadline := time.Now().Add(30 * time.Second); one.Node(0).NumClients() != 0; runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatal("the connection that was replaced is still open")
		}
	}
}

func TestServerThatIsAway(t *testing.T) {
	t.Parallel()
	servers := natsserver.Run(t, 1)
	connections := stream.NewConnections(func(stream.Notice) {}, func(string, time.Duration, error) {}, nobodyKnows)
	t.Cleanup(connections.Close)
	target := stream.Target{Class: "c", Servers: servers.URLs()}
	conn, err := connections.Get(t.Context(), target)
	fail(t, err)
	servers.StopNode(0)
	_, err = conn.Stream(t.Context(), "shop_orders")
	wantFault(t, err, stream.Retry, v1alpha1.ReasonUnreachable)
	_, err = connections.Get(t.Context(), target)
	wantFault(t, err, stream.Retry, v1alpha1.ReasonUnreachable)
	fail(t, servers.StartNode(0))
	for deadline := time.Now().Add(30 * time.Second); ; {
		if conn, err = connections.Get(t.Context(), target); err == nil {
			_, err = conn.Stream(t.Context(), "shop_orders")
		}
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

// A listing has every stream, page by page, and stands for a look until something
// is told of a stream.
func TestListing(t *testing.T) {
	t.Parallel()
	servers := natsserver.Run(t, 1)
	conn, told := connect(t, servers, nil)
	api, err := jetstream.New(servers.Connect(t))
	fail(t, err)
	const streams = 300
	for i := range streams {
		_, err := api.CreateStream(t.Context(), jetstream.StreamConfig{Name: fmt.Sprintf("s%d", i), Storage: jetstream.MemoryStorage})
		fail(t, err)
	}
	awaitNotice(t, told, fmt.Sprintf("s%d", streams-1))
	listed := map[string]*jetstream.StreamInfo{}
	fail(t, conn.List(t.Context(), func(name string, live *jetstream.StreamInfo) { listed[name] = live }))
	for i := range streams {
		if name := fmt.Sprintf("s%d", i); listed[name] == nil || listed[name].Config.Name != name {
			t.Fatalf("stream %s is listed as %v", name, listed[name])
		}
	}
	if len(listed) != streams || !conn.CanList() {
		t.Errorf("%d streams are listed, want %d", len(listed), streams)
	}
	if conn.Told("s0") {
		t.Error("a stream that nothing happened to was told about")
	}
	editUntilTold(t, servers, told, mustStream(t, conn, "s0").Config)
	if !conn.Told("s0") || conn.Told("s1") {
		t.Error("the stream that was edited is not the one that was told about")
	}
}

// A change of one's own is not told, and the next of another is.
func TestOwnChangesAreNotTold(t *testing.T) {
	t.Parallel()
	servers := natsserver.Run(t, 1)
	conn, told := connect(t, servers, nil)
	config := desired(t, orders(func(s *v1alpha1.EventStore) { s.Spec.Replicas = 1 }))[0].Config
	live := create(t, conn, config)
	for i := range 10 {
		config.Description = fmt.Sprintf("own edit %d", i)
		_, err := conn.Update(t.Context(), config)
		fail(t, err)
	}
	if err := conn.List(t.Context(), func(string, *jetstream.StreamInfo) {}); err != nil {
		t.Fatal(err)
	}
	_, err := conn.Update(t.Context(), config)
	fail(t, err)
	if !conn.Told(config.Name) {
		t.Error("what was listed before a change of one's own still holds")
	}
	api, err := jetstream.New(servers.Connect(t))
	fail(t, err)
	live.Config.Description = "another's edit"
	_, err = api.UpdateStream(t.Context(), live.Config)
	fail(t, err)
	awaitNotice(t, told, config.Name)
	// Notices come in the order of the changes, so that all have come.
	if n := len(told); n > 0 {
		t.Errorf("%d notices of changes of one's own", n)
	}
}

func mustStream(t *testing.T, conn *stream.Conn, name string) *jetstream.StreamInfo {
	t.Helper()
	info, err := conn.Stream(t.Context(), name)
	fail(t, err)
	return info
}
