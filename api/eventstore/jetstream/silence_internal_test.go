package jetstream

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv/natsserver"
)

// What was asked on a connection that was lost is not waited for on the next.
func TestRequestOnConnectionThatIsLost(t *testing.T) {
	t.Parallel()
	cluster := natsserver.Run(t, 1)
	nc := cluster.Connect(t, nats.ReconnectWait(10*time.Millisecond), nats.MaxReconnects(-1))
	asked := make(chan *nats.Msg, 1)
	if _, err := cluster.Connect(t).ChanSubscribe("mute", asked); err != nil {
		t.Fatal(err)
	}
	store, err := New(nc, Config{Namespace: "shop", Store: "orders", EventsStream: "shop_orders", SnapshotsStream: "shop_orders_snapshots"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	// The one who answers nothing is listened for first.
	for {
		if _, err = store.request(ctx, &nats.Msg{Subject: "mute"}); !errors.Is(err, errNoResponders) {
			break
		}
	}
	<-asked
	failed := make(chan error, 1)
	go func() {
		_, err := store.request(ctx, &nats.Msg{Subject: "mute"})
		failed <- err
	}()
	<-asked
	if err := nc.ForceReconnect(); err != nil {
		t.Fatal(err)
	}
	if err := <-failed; !errors.Is(err, errNoAnswer) || !strings.Contains(err.Error(), "the connection was lost") {
		t.Errorf("the request ended with %v", err)
	}
}
