package sidecar_test

import (
	"context"
	"strings"
	"testing"

	eventstorev1 "git.flowmade.one/flowmade-one/aether-operator/api/eventstore/v1"
)

// What a durable subscription says of itself is answered, and measured while a
// session is here.
func TestDurableStatus(t *testing.T) {
	t.Parallel()
	r := serveMemory(t)
	client := r.rpc()
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	saveEach(ctx, t, client, "order-1", "order-1", "order-2")
	j := join(ctx, t, client, &eventstorev1.SubscribeDurableRequest{Name: "mailer"})
	j.want("e-1")
	names, err := client.ListDurables(ctx, &eventstorev1.ListDurablesRequest{})
	if err != nil || len(names.GetNames()) != 1 || names.GetNames()[0] != "mailer" {
		t.Errorf("list %v, %v", names, err)
	}
	status, err := client.GetDurableStatus(ctx, &eventstorev1.GetDurableStatusRequest{Name: "mailer"})
	if s := status.GetStatus(); err != nil || s.GetMembers() != 1 || s.GetInHand() < 1 || s.GetPosition() != 3 || s.GetLag() != 0 {
		t.Errorf("status %v, %v", status, err)
	}
	got := r.healthOf("/metrics").body
	for _, want := range []string{
		`aether_durable_lag{durable="mailer",store="orders"} 0`, `aether_durable_members{durable="mailer",store="orders"} 1`,
		`aether_durable_in_hand{durable="mailer",store="orders"} 1`, `aether_durable_queued{`, `aether_durable_waiting{`,
		`aether_durable_parked{durable="mailer",store="orders"} 0`, `aether_durable_full{durable="mailer",store="orders"} 0`,
	} {
		if !strings.Contains(got, want) {
			t.Errorf("metrics lack %s:\n%s", want, got)
		}
	}
}

// What was released comes again, and a session that is paused gets nothing until it
// starts.
func TestReleaseDeliveries(t *testing.T) {
	t.Parallel()
	client := serveMemory(t).rpc()
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	saveEach(ctx, t, client, "order-1")
	j := join(ctx, t, client, &eventstorev1.SubscribeDurableRequest{Name: "mailer", MaxDeliveries: 1})
	for _, pause := range []bool{false, true} {
		sequence := j.want("e-1")
		_, err := client.ReleaseDeliveries(ctx, &eventstorev1.ReleaseDeliveriesRequest{Session: j.session, Sequences: []uint64{sequence}, Pause: pause})
		must(t, err)
	}
	other := join(ctx, t, client, &eventstorev1.SubscribeDurableRequest{Name: "mailer", MaxDeliveries: 1})
	other.want("e-1")
}
