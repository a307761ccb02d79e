package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv/link"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv/natsserver"
)

// givenUp is a sidecar whose two stores share a connection, and how a caller has the server
// end it for good.
type givenUp struct {
	*started
	cluster *natsserver.Cluster
}

func newGivenUp(t *testing.T, options ...natsserver.Option) givenUp {
	t.Helper()
	cluster := natsserver.Run(t, 1, options...)
	nc, root := cluster.Connect(t), t.TempDir()
	bind(t, cluster, root, "orders", nc, nil)
	bind(t, cluster, root, "payments", nc, nil)
	s := startBinary(t, map[string]string{"SERVICE_BINDING_ROOT": root}, "--request-timeout=3s")
	s.waitReady("")
	return givenUp{s, cluster}
}

// wantBack sees that another connection was made, and that all goes on over it.
func (g givenUp) wantBack() {
	g.Helper()
	testenv.Eventually(g, time.Minute, "another connection", func() error {
		if _, body := g.get(g.health + "/metrics"); strings.Contains(body, `aether_store_reconnects_total{store="payments"} 0`) {
			return fmt.Errorf("there is none yet")
		}
		return nil
	})
	g.waitReady("")
	if status, body := g.post("payments", `{"id":"after","eventType":"Paid","actorId":"payment-1"}`); status != http.StatusCreated {
		g.Errorf("save: %d %s", status, body)
	}
	if status, body := g.get(g.health + "/healthz"); status != http.StatusOK {
		g.Errorf("healthz answers %d %s", status, body)
	}
}

// A server takes smaller messages than it did, and ends the connection on which a larger
// one comes.
func TestPayloadThatIsLowered(t *testing.T) {
	t.Parallel()
	g := newGivenUp(t)
	followed, err := g.open("payments").Subscribe(t.Context(), eventstore.SubscribeOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = followed.Close() }()
	if err := g.cluster.Reload(0, func(o *server.Options) { o.MaxPayload = 64 << 10 }); err != nil {
		t.Fatal(err)
	}
	large := fmt.Sprintf(`{"id":"1","eventType":"T","actorId":"order-1","version":1,"data":%q}`, strings.Repeat("x", 100<<10))
	if status, body := g.post("orders", large); status == http.StatusCreated {
		t.Fatalf("save of what the server does not take: %d %s", status, body)
	}
	g.wantBack()
	if status, body := g.post("orders", large); status != http.StatusRequestEntityTooLarge {
		t.Errorf("save of what the server is known not to take: %d %s", status, body)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	// As when the sidecar starts anew, a stream that was open ends and is opened again.
	if event, err := followed.Next(ctx); !errors.Is(err, eventstore.ErrUnavailable) {
		t.Errorf("a stream that was open followed %+v, %v", event, err)
	}
	again, err := g.open("payments").Subscribe(ctx, eventstore.SubscribeOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = again.Close() }()
	if event, err := again.Next(ctx); err != nil || event.ID != "after" {
		t.Errorf("a stream that was opened again followed %+v, %v", event, err)
	}
}

// A server takes shorter lines than an actor may make it one.
func TestControlLineThatIsShort(t *testing.T) {
	t.Parallel()
	g := newGivenUp(t, func(o *server.Options) { o.MaxControlLine = 512 })
	long := strings.Repeat("ü", 121)
	if status, body := g.post("orders", `{"id":"1","eventType":"T","actorId":"`+long+`","version":1}`); status == http.StatusCreated {
		t.Fatalf("save on a line that the server does not take: %d %s", status, body)
	}
	g.wantBack()
}

// What a caller names in a filter is no longer than a line may be.
func TestFilterThatIsLong(t *testing.T) {
	t.Parallel()
	g := newGivenUp(t)
	for _, query := range []string{"actorType=" + strings.Repeat("a", 4000), "actorId=" + strings.Repeat("a", 4000), "eventType=" + strings.Repeat("a", 4000), "actorType=" + strings.Repeat("%C3%A9", 700)} {
		if status, body := g.get(g.api + "/v1/stores/orders/events?" + query); status != http.StatusBadRequest {
			t.Errorf("%.20s...: %d %s", query, status, body)
		}
	}
	if _, body := g.get(g.health + "/metrics"); !strings.Contains(body, `aether_store_reconnects_total{store="orders"} 0`) {
		t.Error("the connection was lost")
	}
}

// An nkey that is replaced in the binding is used when the server takes the old one no more.
func TestNKeyThatIsReplaced(t *testing.T) {
	t.Parallel()
	before, after := newNKey(t), newNKey(t)
	user := func(k nkey) natsserver.Option {
		return func(o *server.Options) { o.Nkeys = []*server.NkeyUser{{Nkey: k.public}} }
	}
	cluster := natsserver.Run(t, 1, user(before))
	root := t.TempDir()
	nc := cluster.Connect(t, nats.Nkey(before.public, before.pair.Sign))
	bind(t, cluster, root, "orders", nc, map[string]string{"nkey": before.seed})
	s := startBinary(t, map[string]string{"SERVICE_BINDING_ROOT": root})
	s.waitReady("")
	if err := cluster.Reload(0, user(after)); err != nil {
		t.Fatal(err)
	}
	s.waitReady("store orders is not ready")
	writeBinding(t, filepath.Join(root, "orders"), map[string]string{"nkey": after.seed})
	s.waitReady("")
}

// A server that is there and answers no request is left for another.
func TestServerThatAnswersPingsAlone(t *testing.T) {
	t.Parallel()
	cluster := natsserver.Run(t, 1)
	mute := startMute(t)
	silent := link.To(t, cluster.URL())
	silent.Silence()
	root := t.TempDir()
	bind(t, cluster, root, "orders", cluster.Connect(t), map[string]string{"servers": mute + "," + silent.URL()})
	s := startHere(t, map[string]string{"SERVICE_BINDING_ROOT": root})
	testenv.Eventually(t, time.Minute, "a connection", func() error {
		if _, body := s.get(s.health + "/metrics"); !strings.Contains(body, `aether_store_connected{store="orders"} 1`) {
			return errors.New("there is none")
		}
		return nil
	})
	silent.Resume()
	testenv.Eventually(t, time.Minute, "a save", func() error {
		if status, body := s.post("orders", `{"id":"1","eventType":"T","actorId":"order-1","version":1}`); status != http.StatusCreated {
			return fmt.Errorf("%d %s", status, body)
		}
		return nil
	})
}

// startMute runs a server without JetStream, where somebody takes all requests and answers
// none.
func startMute(t *testing.T) (url string) {
	t.Helper()
	mute, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, NoLog: true, NoSigs: true})
	if err != nil {
		t.Fatal(err)
	}
	mute.Start()
	t.Cleanup(func() { mute.Shutdown(); mute.WaitForShutdown() })
	if !mute.ReadyForConnections(time.Minute) {
		t.Fatal("the server does not start")
	}
	nc, err := nats.Connect(mute.ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	if _, err := nc.Subscribe(">", func(*nats.Msg) {}); err != nil {
		t.Fatal(err)
	}
	if err := nc.FlushTimeout(time.Minute); err != nil {
		t.Fatal(err)
	}
	return mute.ClientURL()
}

type nkey struct {
	pair         nkeys.KeyPair
	public, seed string
}

func newNKey(t *testing.T) nkey {
	t.Helper()
	pair, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	public, err := pair.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	seed, err := pair.Seed()
	if err != nil {
		t.Fatal(err)
	}
	return nkey{pair, public, string(seed)}
}
