package controller_test

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	layout "git.flowmade.one/flowmade-one/aether-operator/api/eventstore/jetstream"
	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv/natsserver"
)

// fill publishes an event of so many actors to each of some stores.
func fill(servers *natsserver.Cluster, stores []*v1alpha1.EventStore, actors int) {
	GinkgoHelper()
	nc := js(servers).Conn()
	for n := range actors {
		actor := fmt.Sprintf("order-%d", n)
		header := nats.Header{
			"ce-specversion": {"1.0"}, "ce-id": {actor}, "ce-type": {"Tested"}, "ce-source": {"test"}, "ce-subject": {actor},
			"ce-time": {"2026-01-02T03:04:05Z"}, "ce-actorversion": {"1"},
		}
		for _, store := range stores {
			Expect(nc.PublishMsg(&nats.Msg{Subject: layout.EventsSubject(store.EventsStreamName(), actor), Header: header})).To(Succeed())
		}
	}
	Expect(nc.FlushTimeout(time.Minute)).To(Succeed())
}

var _ = Describe("Turns of keeping the latest versions of actors", func() {
	// More is due for the stores of one namespace than can be done in time.
	It("come to a store of another namespace than one with many busy stores", func(ctx context.Context) {
		const stores, events = 24, 10_000
		servers := startNATS(1)
		class, busyNamespace := newClass(ctx, servers.URLs()).Name, newNamespace(ctx)
		aged := func(age string) func(*v1alpha1.EventStore) {
			return func(s *v1alpha1.EventStore) { s.Spec.Retention.MaxAge = age }
		}
		quiet := create(ctx, newStore(newNamespace(ctx), class, aged("6s")))
		var busy []*v1alpha1.EventStore
		for range stores {
			busy = append(busy, create(ctx, newStore(busyNamespace, class, aged("16s"))))
		}
		for _, store := range append(busy, quiet) {
			Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())
		}
		fill(servers, busy, events)
		// The first of them are in their window then.
		olderThan(ctx, js(servers), busy[0].EventsStreamName(), 6*time.Second)
		withEngine(servers, quiet, func(engine *layout.Store) { saveActors(ctx, engine, 10) })
		awaitEmpty(ctx, js(servers), quiet)
		withEngine(servers, quiet, func(engine *layout.Store) {
			for n := range 10 {
				wantVersion(ctx, engine, fmt.Sprintf("order-%d", n), 3)
			}
		})
	}, SpecTimeout(2*time.Minute))

	It("are told of before events expire, also where no turn begins since nobody answers", func(ctx context.Context) {
		servers := startNATS(1)
		store := create(ctx, newStore(newNamespace(ctx), newClass(ctx, servers.URLs()).Name, func(s *v1alpha1.EventStore) { s.Spec.Retention.MaxAge = "20s" }))
		Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())
		servers.StopNode(0)
		behind := haveCondition(v1alpha1.ConditionVersionsNotKept, metav1.ConditionTrue, v1alpha1.ReasonVersionsBehind)
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(haveCondition(v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonUnreachable), behind))
		Eventually(toldOf(ctx, store)).Should(ContainElement(anEvent("Warning", v1alpha1.ReasonVersionsBehind, ContainSubstring("have been waiting since"))))
		Expect(servers.StartNode(0)).To(Succeed())
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(beReady(), haveNoCondition(v1alpha1.ConditionVersionsNotKept)))
	}, SpecTimeout(2*time.Minute))
})
