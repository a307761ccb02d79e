package controller_test

import (
	"context"
	"fmt"
	"strings"

	"github.com/nats-io/nats.go/jetstream"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/onsi/gomega/types"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
	layout "git.flowmade.one/flowmade-one/aether-operator/api/eventstore/jetstream"
	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
)

// recordedSnapshots waits until the status has the stream of snapshots as it is, which
// nobody else writes meanwhile.
func recordedSnapshots(ctx context.Context, api jetstream.JetStream, store *v1alpha1.EventStore) {
	GinkgoHelper()
	Eventually(func(g Gomega) {
		annotate(ctx, store, unique("poke"))
		last := streamInfo(ctx, api, store.SnapshotsStreamName()).State.LastSeq
		g.Expect(read(ctx, store)(g)).To(And(beReady(), haveNoCondition(v1alpha1.ConditionDataLoss),
			HaveField("Status.Streams", ContainElement(And(
				HaveField("Role", v1alpha1.StreamRoleSnapshots), HaveField("LastSequence", BeEquivalentTo(last)))))))
	}).WithContext(ctx).Should(Succeed())
}

// purge purges a stream of all it holds.
func purge(ctx context.Context, api jetstream.JetStream, name string, options ...jetstream.StreamPurgeOpt) {
	GinkgoHelper()
	s, err := api.Stream(ctx, name)
	Expect(err).NotTo(HaveOccurred())
	Expect(s.Purge(ctx, options...)).To(Succeed())
}

var _ = Describe("A stream of snapshots", func() {
	var api jetstream.JetStream
	var store *v1alpha1.EventStore
	start := func(ctx context.Context, change ...func(*v1alpha1.EventStore)) {
		GinkgoHelper()
		api = js(single)
		store = create(ctx, newStore(newNamespace(ctx), newClass(ctx, single.URLs()).Name, change...))
		Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())
	}
	put := func(ctx context.Context, actors ...string) {
		GinkgoHelper()
		for _, actor := range actors {
			_, err := api.Publish(ctx, store.EventsStreamName()+".snapshots.order."+actor, []byte("{}"))
			Expect(err).NotTo(HaveOccurred())
		}
	}
	told := func(ctx context.Context, loss types.GomegaMatcher) {
		GinkgoHelper()
		Eventually(func(g Gomega) {
			annotate(ctx, store, unique("poke"))
			g.Expect(read(ctx, store)(g)).To(loss)
		}).WithContext(ctx).Should(Succeed())
	}
	purged := And(beStalled(v1alpha1.ReasonStreamPurged), haveCondition(v1alpha1.ConditionDataLoss, metav1.ConditionTrue, v1alpha1.ReasonStreamPurged),
		sayWhy(ContainSubstring("_snapshots was purged")))

	It("that was purged is told, also if a snapshot was saved since", func(ctx context.Context) {
		start(ctx)
		put(ctx, "a", "b", "c", "d", "e")
		recordedSnapshots(ctx, api, store)
		purge(ctx, api, store.SnapshotsStreamName())
		put(ctx, "f")
		told(ctx, purged)

		By("accepting it: the one that is there is on record then")
		change(ctx, store, accept)
		Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())
		put(ctx, "g", "h")
		recordedSnapshots(ctx, api, store)
		purge(ctx, api, store.SnapshotsStreamName())
		put(ctx, "f")
		told(ctx, purged)
	})

	It("that was purged is told, though the operator itself writes there", func(ctx context.Context) {
		start(ctx, func(s *v1alpha1.EventStore) { s.Spec.Retention.MaxAge = "8s" })
		withEngine(single, store, func(engine *layout.Store) {
			saveActors(ctx, engine, 4)
			awaitEmpty(ctx, api, store)
			wantVersion(ctx, engine, "order-1", 3)
			recordedSnapshots(ctx, api, store)
			_, err := engine.SaveEvent(ctx, eventstore.Event{ID: "last", EventType: "Tested", ActorID: "order-9", Version: 3})
			Expect(err).NotTo(HaveOccurred())
			purge(ctx, api, store.SnapshotsStreamName())
			// What remembers the version of that actor, and how far the operator is.
			Eventually(func() uint64 { return streamInfo(ctx, api, store.SnapshotsStreamName()).State.Msgs }).WithContext(ctx).Should(BeEquivalentTo(2))
			told(ctx, purged)
		})
	})

	It("is not purged by what Aether does there: to replace, to delete, and to keep fewer for each actor", func(ctx context.Context) {
		start(ctx, func(s *v1alpha1.EventStore) { s.Spec.Snapshots.History = 3 })
		withEngine(single, store, func(engine *layout.Store) {
			saveActors(ctx, engine, 3)
			size := 100
			snapshotsOfAll := func() {
				GinkgoHelper()
				// Larger each time, so that the status has it.
				size *= 2
				for n := range 3 {
					Expect(engine.SaveSnapshot(ctx, eventstore.Snapshot{
						ActorID: fmt.Sprintf("order-%d", n), Version: 3, Data: []byte(`"` + strings.Repeat("x", size) + `"`),
					})).To(Succeed())
				}
			}
			snapshotsOfAll()
			member, err := engine.SubscribeDurable(ctx, eventstore.DurableOptions{Name: "mail"})
			Expect(err).NotTo(HaveOccurred())
			Expect(member.Close()).To(Succeed())
			recordedSnapshots(ctx, api, store)

			By("replacing all")
			for range 3 {
				snapshotsOfAll()
			}
			recordedSnapshots(ctx, api, store)

			By("deleting a durable subscription, and the snapshots of an actor")
			Expect(engine.DeleteDurable(ctx, "mail")).To(Succeed())
			Expect(engine.DeleteSnapshot(ctx, "order-0", 0)).To(Succeed())
			recordedSnapshots(ctx, api, store)

			By("keeping one for each")
			change(ctx, store, func(s *v1alpha1.EventStore) { s.Spec.Snapshots.History = 1 })
			Eventually(read(ctx, store)).WithContext(ctx).Should(beStalled(v1alpha1.ReasonWouldDestroyEvents))
			change(ctx, store, accept)
			Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())
			snapshotsOfAll()
			recordedSnapshots(ctx, api, store)
			Expect(streamInfo(ctx, api, store.SnapshotsStreamName()).State).To(And(HaveField("NumSubjects", BeEquivalentTo(4)), HaveField("Msgs", BeEquivalentTo(4))))

			By("erasing what remembers the durable subscription, by hand")
			purge(ctx, api, store.SnapshotsStreamName(), jetstream.WithPurgeSubject(store.EventsStreamName()+".snapshots.%durable.mail"))
			told(ctx, And(beReady(), HaveField("Status.Streams", ContainElement(HaveField("Subjects", BeEquivalentTo(3))))))
			snapshotsOfAll()
			recordedSnapshots(ctx, api, store)
		})
	})
})
