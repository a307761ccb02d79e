package stream_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"k8s.io/apimachinery/pkg/api/resource"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/stream"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv/natsserver"
)

// faultIs waits for what the servers come to say.
func faultIs(t *testing.T, reason string, ask func() error) {
	t.Helper()
	testenv.Eventually(t, time.Minute, reason, func() error {
		err := ask()
		if fault, ok := stream.AsFault(err); !ok || fault.Reason != reason {
			return fmt.Errorf("it says %w", err)
		}
		return nil
	})
}

// Of three servers two are away: what is left says so, of itself and of a stream.
func TestLostQuorum(t *testing.T) {
	t.Parallel()
	servers := natsserver.Run(t, 3)
	conn, _ := connect(t, servers, nil)
	config := desired(t, orders(func(s *v1alpha1.EventStore) { s.Spec.Replicas = 3 }))[0].Config
	create(t, conn, config)
	servers.StopNode(1)
	servers.StopNode(2)
	faultIs(t, v1alpha1.ReasonNoQuorum, func() error {
		_, err := conn.Account(t.Context())
		return err
	})
	faultIs(t, v1alpha1.ReasonNoQuorum, func() error {
		live, err := conn.Stream(t.Context(), config.Name)
		if err == nil && stream.Leaderless(live) {
			err = stream.Waiting(v1alpha1.ReasonNoQuorum, "it has no leader")
		}
		return err
	})
}

func TestOutOfStorage(t *testing.T) {
	t.Parallel()
	small := func(o *server.Options) { o.JetStreamMaxStore = 1 << 20 }
	limited, err := natsserver.WithConfig(`
		accounts { A { users: [{user: u, password: p}], jetstream: {max_file: 1M} }, $SYS { users: [{user: s, password: s}] } }`)
	fail(t, err)
	for name, system := range map[string]struct {
		size        int
		option      natsserver.Option
		credentials map[string][]byte
	}{
		"one server":    {1, small, nil},
		"three servers": {3, small, nil},
		"the account":   {1, limited, asU},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn, _ := connect(t, natsserver.Run(t, system.size, system.option), system.credentials)
			config := desired(t, orders(func(s *v1alpha1.EventStore) {
				s.Spec.Replicas = int32(system.size)
				s.Spec.Retention.MaxBytes = resource.NewQuantity(10<<20, resource.BinarySI)
			}))[0].Config
			faultIs(t, v1alpha1.ReasonOutOfStorage, func() error {
				_, err := conn.Create(t.Context(), config)
				return err
			})
		})
	}
}

// An account that is full refuses what is saved, to all stores in it.
func TestFullAccount(t *testing.T) {
	t.Parallel()
	option, err := natsserver.WithConfig(`
		accounts { A { users: [{user: u, password: p}], jetstream: {max_file: 4M} }, $SYS { users: [{user: s, password: s}] } }`)
	fail(t, err)
	servers := natsserver.Run(t, 1, option)
	conn, _ := connect(t, servers, asU)
	config := desired(t, orders(func(s *v1alpha1.EventStore) { s.Spec.Replicas = 1 }))[0].Config
	create(t, conn, config)
	account, err := conn.Account(t.Context())
	fail(t, err)
	fail(t, account.CheckStorage())
	js, err := jetstream.New(servers.Connect(t, nats.UserInfo("u", "p")))
	fail(t, err)
	for err == nil {
		_, err = js.Publish(t.Context(), config.Name+".events.a.b", make([]byte, 1<<16))
	}
	if t.Context().Err() != nil {
		t.Fatal(err)
	}
	account, err = conn.Account(t.Context())
	fail(t, err)
	wantFault(t, account.CheckStorage(), stream.Stall, v1alpha1.ReasonOutOfStorage)
}
