package stream_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"k8s.io/apimachinery/pkg/api/resource"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv/natsserver"
)

// A stream of snapshots that is full refuses the snapshot of one more actor, keeps
// those of the others, and takes a smaller one in place of a larger.
func TestFullSnapshots(t *testing.T) {
	t.Parallel()
	for _, size := range []int{1, 3} {
		t.Run(fmt.Sprintf("on %d servers", size), func(t *testing.T) {
			t.Parallel()
			servers := natsserver.Run(t, size)
			nc, err := nats.Connect(servers.URL())
			if err != nil {
				t.Fatal(err)
			}
			defer nc.Close()
			api, err := jetstream.New(nc)
			if err != nil {
				t.Fatal(err)
			}
			limit := resource.MustParse("64Ki")
			wanted := desired(t, orders(func(s *v1alpha1.EventStore) {
				s.Spec.Replicas, s.Spec.Snapshots.MaxBytes, s.Spec.Snapshots.History = int32(size), &limit, 1
			}))[1]
			snapshots, err := api.CreateStream(t.Context(), wanted.Config)
			if err != nil {
				t.Fatal(err)
			}
			save := func(actor, bytes int) error {
				_, err := api.Publish(t.Context(), fmt.Sprintf("shop_orders.snapshots.order.%d", actor), make([]byte, bytes), patient)
				return err
			}
			const bytes = 4 << 10
			actors := 0
			for ; actors < 100 && err == nil; actors++ {
				err = save(actors, bytes)
			}
			kept := actors - 1
			var refused *jetstream.APIError
			if !errors.As(err, &refused) || refused.ErrorCode != 10077 {
				t.Fatalf("after %d snapshots: %v", kept, err)
			}
			if err := save(0, bytes/2); err != nil {
				t.Errorf("a smaller one in place of a larger: %v", err)
			}
			if err := save(1, 2*bytes); !errors.As(err, &refused) || refused.ErrorCode != 10077 {
				t.Errorf("a larger one in place of a smaller: %v", err)
			}
			info, err := snapshots.Info(t.Context(), jetstream.WithSubjectFilter(">"))
			if err != nil {
				t.Fatal(err)
			}
			if len(info.State.Subjects) != kept || info.State.Msgs != uint64(kept) {
				t.Errorf("%d snapshots of %d actors are left of %d", info.State.Msgs, len(info.State.Subjects), kept)
			}
		})
	}
}
