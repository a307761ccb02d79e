package natsconn_test

import (
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"git.flowmade.one/flowmade-one/aether-operator/internal/natsconn"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv/natsserver"
)

// A connection that was closed is dialled again, also when that fails at first, and not
// after Close.
func TestKeeperDialsAgain(t *testing.T) {
	t.Parallel()
	cluster := natsserver.Run(t, 1)
	var dials, changes atomic.Int64
	k, err := natsconn.Keep(func(closed nats.Option) (*nats.Conn, error) {
		if dials.Add(1) == 2 {
			return nil, errors.New("the credentials cannot be read")
		}
		return nats.Connect(cluster.URL(), closed)
	}, func(before, now *nats.Conn) {
		changes.Add(1)
		if !before.IsClosed() || now.IsClosed() {
			t.Error("it was not the one that was closed that was replaced")
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	first := k.Conn()
	first.Close()
	testenv.Eventually(t, time.Minute, "another connection", func() error {
		if k.Conn() == first || !k.Conn().IsConnected() || changes.Load() != 1 {
			return errors.New("there is none yet")
		}
		return nil
	})
	if err := k.Check(); err != nil {
		t.Error(err)
	}
	if dials.Load() != 3 {
		t.Errorf("%d dials, want the first, one that failed, and one more", dials.Load())
	}
	last := k.Conn()
	k.Close()
	if !last.IsClosed() || k.Conn() != last {
		t.Error("the connection goes on after Close")
	}
}
