package stream_test

import (
	"context"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/stream"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv/link"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv/natsserver"
)

// nobodyKnows is of a cluster that has no EventStores.
var nobodyKnows = stream.Self{
	Cluster:  func(context.Context) (types.UID, error) { return "cluster", nil },
	Standing: func(context.Context, stream.Owner) stream.Standing { return stream.Unknown },
}

// A pass that is still under way when the operator ends must not connect anew: nobody
// would close that connection, and it would tell other operators that ours is at work.
func TestClosedConnectionsStayClosed(t *testing.T) {
	t.Parallel()
	servers := natsserver.Run(t, 1)
	connections := stream.NewConnections(func(stream.Notice) {}, func(string, time.Duration, error) {}, nobodyKnows)
	target := stream.Target{Class: "standard", Servers: servers.URLs()}
	conn, err := connections.Get(t.Context(), target)
	if err != nil {
		t.Fatal(err)
	}
	connections.Close()
	_, err = connections.Get(t.Context(), target)
	if err == nil {
		t.Error("it connects after it was closed")
	}
	// Nothing is wrong with the NATS system, whoever asks with the one or the other.
	_, ofRequest := conn.Stream(t.Context(), "shop_orders")
	_, ofWatch := conn.WatchFirstEvent("shop_orders", "shop_orders.stored.>")
	for _, err := range []error{err, ofRequest, ofWatch} {
		if !stream.WasClosed(err) {
			t.Errorf("that it was closed is told as %v", err)
		}
	}
}

// A server whose machine has lost its power closes no connection. The others of its
// cluster are found within seconds, and what listens there listens on.
func TestSilentServerIsLeft(t *testing.T) {
	t.Parallel()
	servers := natsserver.Run(t, 3)
	silent := link.To(t, servers.URLs()[0])
	knows := nobodyKnows
	knows.Standing = func(_ context.Context, owner stream.Owner) stream.Standing {
		if owner.UID == "ours" {
			return stream.Exists
		}
		return stream.Unknown
	}
	connections := stream.NewConnections(func(stream.Notice) {}, func(string, time.Duration, error) {}, knows)
	t.Cleanup(connections.Close)
	target := stream.Target{Class: "c", Servers: []string{silent.URL()}}
	conn, err := connections.Get(t.Context(), target)
	fail(t, err)
	if _, err := conn.Stream(t.Context(), "shop_orders"); err != nil {
		t.Fatal(err)
	}
	silent.Silence()
	testenv.Eventually(t, time.Minute, "another server", func() error {
		conn, err := connections.Get(t.Context(), target)
		if err == nil {
			_, err = conn.Stream(t.Context(), "shop_orders")
		}
		return err
	})
	another := servers.Connect(t)
	testenv.Eventually(t, time.Minute, "an answer to another operator", func() error {
		_, err := another.Request("aether.owner.ours", []byte(`{"operator": "another", "cluster": "another-cluster", "owner": {}}`), time.Second)
		return err
	})
}

// silentServers take connections, say nothing, and count who was connected to.
func silentServers(t *testing.T, count int) (urls []string, dialled *atomic.Int64) {
	t.Helper()
	dialled = &atomic.Int64{}
	for range count {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		fail(t, err)
		t.Cleanup(func() { _ = listener.Close() })
		urls = append(urls, "nats://"+listener.Addr().String())
		go func() {
			for {
				// Who dials gives up, and closes it.
				if _, err := listener.Accept(); err != nil {
					return
				}
				dialled.Add(1)
			}
		}()
	}
	return urls, dialled
}

// A class of many servers, none of which answers: those who ask are not held until all
// were tried, neither the first nor the many that follow.
func TestSilentServersHoldUpNobody(t *testing.T) {
	t.Parallel()
	urls, dialled := silentServers(t, 16)
	connections := stream.NewConnections(func(stream.Notice) {}, func(string, time.Duration, error) {}, nobodyKnows)
	t.Cleanup(connections.Close)
	var asking sync.WaitGroup
	for range 64 {
		asking.Go(func() {
			_, err := connections.Get(t.Context(), stream.Target{Class: "silent", Servers: urls})
			if fault, ok := stream.AsFault(err); !ok || fault.Reason != v1alpha1.ReasonUnreachable || fault.Handling != stream.Retry {
				t.Errorf("it says %v", err)
			}
		})
	}
	asking.Wait()
	if tried := dialled.Load(); tried == 0 || tried == int64(len(urls)) {
		t.Errorf("%d of %d servers were tried before it was answered", tried, len(urls))
	}
	// Who has less time than the dial takes is let go.
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := connections.Get(ended, stream.Target{Class: "another", Servers: urls}); err == nil || stream.WasClosed(err) {
		t.Errorf("with a context that has ended it says %v", err)
	}
}

// Servers that begin to answer are found by the dial that nobody waits for, and that is
// told.
func TestServersThatAnswerLate(t *testing.T) {
	t.Parallel()
	server := link.To(t, natsserver.Run(t, 1).URL())
	server.Silence()
	told := make(chan stream.Notice, 64)
	connections := stream.NewConnections(func(n stream.Notice) { told <- n }, func(string, time.Duration, error) {}, nobodyKnows)
	t.Cleanup(connections.Close)
	target := stream.Target{Class: "late", Servers: []string{server.URL()}}
	if _, err := connections.Get(t.Context(), target); err == nil {
		t.Fatal("it connects to a server that is silent")
	}
	server.Resume()
	testenv.Eventually(t, time.Minute, "the notice of a connection", func() error {
		select {
		case notice := <-told:
			if notice != (stream.Notice{Class: "late"}) {
				t.Errorf("told %+v", notice)
			}
			return nil
		default:
		}
		// Each who asks makes the next dial, when there is none, and does not wait for it.
		_, err := connections.Get(t.Context(), target)
		return fmt.Errorf("nothing was told: %w", err)
	})
	if _, err := connections.Get(t.Context(), target); err != nil {
		t.Errorf("after the notice it says %v", err)
	}
}

// Another list of servers counts at once, while the earlier one is still tried.
func TestOtherServersDoNotWaitForSilentOnes(t *testing.T) {
	t.Parallel()
	urls, dialled := silentServers(t, 16)
	connections := stream.NewConnections(func(stream.Notice) {}, func(string, time.Duration, error) {}, nobodyKnows)
	t.Cleanup(connections.Close)
	if _, err := connections.Get(t.Context(), stream.Target{Class: "moved", Servers: urls}); err == nil {
		t.Fatal("it connects to servers that are silent")
	}
	_, err := connections.Get(t.Context(), stream.Target{Class: "moved", Servers: natsserver.Run(t, 1).URLs()})
	if tried := dialled.Load(); err != nil || tried == int64(len(urls)) {
		t.Errorf("after %d of %d silent servers: %v", tried, len(urls), err)
	}
}

// A connection that stays lost is waited for once, and not by each who asks.
func TestLostConnectionHoldsUpNobody(t *testing.T) {
	t.Parallel()
	servers := natsserver.Run(t, 1)
	connections := stream.NewConnections(func(stream.Notice) {}, func(string, time.Duration, error) {}, nobodyKnows)
	t.Cleanup(connections.Close)
	target := stream.Target{Class: "lost", Servers: servers.URLs()}
	_, err := connections.Get(t.Context(), target)
	fail(t, err)
	servers.StopNode(0)
	faultIs(t, v1alpha1.ReasonUnreachable, func() error {
		_, err := connections.Get(t.Context(), target)
		return err
	})
	// As many as could not each wait for the time that one may.
	deadline, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for range 100 {
		_, err := connections.Get(deadline, target)
		if fault, ok := stream.AsFault(err); !ok || fault.Reason != v1alpha1.ReasonUnreachable {
			t.Fatalf("it says %v", err)
		}
	}
}
