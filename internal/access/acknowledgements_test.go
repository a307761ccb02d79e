package access_test

import (
	"fmt"
	"testing"

	"github.com/nats-io/nats.go"
)

// Whichever form acknowledgements have, those of one store do not reach the consumers
// of another: not where the other stands in the place of a domain either.
func TestAcknowledgementsOfAnotherStore(t *testing.T) {
	t.Parallel()
	for size, system := range systems {
		t.Run(fmt.Sprintf("%d servers", size), func(t *testing.T) {
			t.Parallel()
			theirs, ours := newNamespace(t), newNamespace(t)
			other, own := system.newStore(t, theirs), system.newStore(t, ours)
			v, _ := system.newVictim(t, other)
			ctx := t.Context()
			delivery, err := v.member.Next(ctx)
			if err != nil {
				t.Fatal(err)
			}
			consumer, err := v.js.Consumer(ctx, other.EventsStreamName(), durable)
			if err != nil {
				t.Fatal(err)
			}
			if pending := consumer.CachedInfo().NumAckPending; pending != 1 {
				t.Fatalf("%d events are in hand", pending)
			}
			a := &attacker{T: t, nc: system.connect(t, newPod(t, ours, "attacker"), own.EventsStreamName()), own: own.EventsStreamName(), other: other.EventsStreamName()}
			const rest = ".1.1.1.1.0"
			granted := []string{
				"$JS.ACK." + a.own + "." + durable + rest, "$JS.ACK._.hash." + a.own + "." + durable + rest,
				// 11 tokens, of which the first five are where those of 9 name the other.
				"$JS.ACK." + a.other + "." + durable + "." + a.own + ".1" + rest, "$JS.ACK." + a.other + "." + durable + "." + a.own + "." + durable + rest,
			}
			for _, body := range []string{"", "+ACK", "-NAK", "-NAK {\"delay\": 0}", "+TERM", "+WPI", "+NXT", `+NXT {"batch":8}`} {
				for _, subject := range granted {
					a.send(&nats.Msg{Subject: subject, Reply: a.nc.NewInbox(), Data: []byte(body)})
				}
			}
			a.mayNotPublish("$JS.ACK."+a.other+"."+durable+rest, "$JS.ACK._.hash."+a.other+"."+durable+rest, "$JS.ACK._.hash."+a.other+"."+durable+rest+".x",
				// Of other lengths than the two.
				"$JS.ACK."+a.own, "$JS.ACK."+a.own+"."+durable, "$JS.ACK."+a.own+"."+durable+rest+".x", "$JS.ACK._.hash."+a.own+"."+durable+rest+".x",
				"$JS.ACK."+a.own+"."+durable+"."+a.other+"."+durable+rest)
			a.request(a.own+".events.order.order-1", nil, "{}")
			info, err := consumer.Info(ctx)
			if err != nil {
				t.Fatal(err)
			}
			if info.NumAckPending != 1 || info.NumRedelivered != 0 || info.AckFloor.Stream != 0 || info.Delivered.Stream != 1 {
				t.Errorf("the consumer of the other store was reached: %+v", info)
			}
			if err := v.member.Ack(ctx, delivery.Event.Sequence); err != nil {
				t.Error(err)
			}
			if info, err = consumer.Info(ctx); err != nil || info.NumAckPending != 0 || info.AckFloor.Stream != 1 {
				t.Errorf("the acknowledgement of the store itself did not count: %+v, %v", info, err)
			}
		})
	}
}
