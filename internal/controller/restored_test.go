package controller_test

import (
	"context"

	"github.com/nats-io/nats.go/jetstream"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv/natsserver"
)

var _ = Describe("A stream that is restored from a backup", func() {
	var class *v1alpha1.EventStoreClass
	var api jetstream.JetStream
	var store *v1alpha1.EventStore
	BeforeEach(func(ctx context.Context) {
		class, api = newClass(ctx, single.URLs()), js(single)
		store = create(ctx, newStore(newNamespace(ctx), class.Name))
		Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())
		publish(ctx, api, store, 5)
		recordedMessages(ctx, store, 5)
	})
	backUp := func(ctx context.Context, name string) *natsserver.Backup {
		GinkgoHelper()
		backup, err := natsserver.TakeBackup(ctx, api.Conn(), name)
		Expect(err).NotTo(HaveOccurred())
		return backup
	}
	missing := And(beStalled(v1alpha1.ReasonStreamMissing), haveCondition(v1alpha1.ConditionDataLoss, metav1.ConditionTrue, v1alpha1.ReasonStreamMissing))
	recreated := And(beStalled(v1alpha1.ReasonStreamRecreated), haveCondition(v1alpha1.ConditionDataLoss, metav1.ConditionTrue, v1alpha1.ReasonStreamRecreated))
	// away is while the operator leaves the store alone, and back when it looks again.
	away := func(ctx context.Context, meanwhile func()) {
		GinkgoHelper()
		change(ctx, store, func(s *v1alpha1.EventStore) { s.Spec.ManagementPolicy = v1alpha1.ManagementPaused })
		Eventually(read(ctx, store)).WithContext(ctx).Should(haveCondition(v1alpha1.ConditionReady, metav1.ConditionUnknown, v1alpha1.ReasonPaused))
		meanwhile()
		change(ctx, store, func(s *v1alpha1.EventStore) { s.Spec.ManagementPolicy = v1alpha1.ManagementFull })
	}

	It("is recognised, and goes on", func(ctx context.Context) {
		backup := backUp(ctx, store.EventsStreamName())
		Expect(api.DeleteStream(ctx, store.EventsStreamName())).To(Succeed())
		Eventually(read(ctx, store)).WithContext(ctx).Should(missing)
		Expect(backup.Restore(ctx, api.Conn())).To(Succeed())
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(beReady(), haveNoCondition(v1alpha1.ConditionDataLoss), HaveField("Status.Acceptances", BeEmpty())))
		Expect(streamInfo(ctx, api, store.EventsStreamName()).State).To(And(HaveField("Msgs", BeEquivalentTo(5)), HaveField("LastSeq", BeEquivalentTo(5))))
		Eventually(toldOf(ctx, store)).Should(ContainElement(anEvent("Normal", "StreamRestored", ContainSubstring("up to sequence 5"))))

		By("losing it once more: the record went on")
		publish(ctx, api, store, 5)
		recordedMessages(ctx, store, 10)
		Expect(api.DeleteStream(ctx, store.EventsStreamName())).To(Succeed())
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(missing, sayWhy(ContainSubstring("10 messages up to sequence 10"))))
		Expect(backup.Restore(ctx, api.Conn())).To(Succeed())
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(recreated, sayWhy(ContainSubstring("held 10 messages up to sequence 10"))))
		change(ctx, store, accept)
		Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())
		Expect(streamInfo(ctx, api, store.EventsStreamName()).State.Msgs).To(BeEquivalentTo(5))
	})

	It("is recognised though events were saved to it since", func(ctx context.Context) {
		backup := backUp(ctx, store.EventsStreamName())
		away(ctx, func() {
			Expect(api.DeleteStream(ctx, store.EventsStreamName())).To(Succeed())
			Expect(backup.Restore(ctx, api.Conn())).To(Succeed())
			publish(ctx, api, store, 3)
		})
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(beReady(), haveNoCondition(v1alpha1.ConditionDataLoss)))
		Eventually(toldOf(ctx, store)).Should(ContainElement(anEvent("Normal", "StreamRestored", ContainSubstring("its last sequence is 8"))))
	})

	It("is told as what it is when messages are missing", func(ctx context.Context) {
		s, err := api.Stream(ctx, store.EventsStreamName())
		Expect(err).NotTo(HaveOccurred())
		backup := backUp(ctx, store.EventsStreamName())
		Expect(api.DeleteStream(ctx, store.EventsStreamName())).To(Succeed())
		Eventually(read(ctx, store)).WithContext(ctx).Should(missing)
		away(ctx, func() {
			Expect(backup.Restore(ctx, api.Conn())).To(Succeed())
			Expect(s.DeleteMsg(ctx, 3)).To(Succeed())
		})
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(recreated, sayWhy(ContainSubstring("it holds 4 of at least 5 messages"))))
	})

	snapshot := func(ctx context.Context, actor, data string) {
		GinkgoHelper()
		_, err := api.Publish(ctx, store.EventsStreamName()+".snapshots.order."+actor, []byte(data))
		Expect(err).NotTo(HaveOccurred())
	}
	recordedSnapshots := func(ctx context.Context, last int) {
		GinkgoHelper()
		Eventually(func(g Gomega) {
			annotate(ctx, store, unique("poke"))
			g.Expect(read(ctx, store)(g).Status.Streams).To(ContainElement(And(
				HaveField("Role", v1alpha1.StreamRoleSnapshots), HaveField("LastSequence", BeEquivalentTo(last)))))
		}).Should(Succeed())
	}
	restoreSnapshots := func(ctx context.Context, backup *natsserver.Backup) {
		GinkgoHelper()
		Expect(api.DeleteStream(ctx, store.SnapshotsStreamName())).To(Succeed())
		Expect(backup.Restore(ctx, api.Conn())).To(Succeed())
	}

	It("of snapshots is told when it is older, also where snapshots were saved to it since", func(ctx context.Context) {
		snapshot(ctx, "a", "old")
		snapshot(ctx, "b", "old")
		backup := backUp(ctx, store.SnapshotsStreamName())
		snapshot(ctx, "b", "new")
		snapshot(ctx, "a", "new")
		recordedSnapshots(ctx, 4)
		away(ctx, func() {
			restoreSnapshots(ctx, backup)
			for range 3 { // 3, 4 and 5, of which the last is left
				snapshot(ctx, "a", "later")
			}
		})
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(recreated, sayWhy(ContainSubstring("it has no message at sequence 4"))))
	})

	It("of snapshots is recognised though the one on record was replaced before the backup", func(ctx context.Context) {
		snapshot(ctx, "a", "old")
		snapshot(ctx, "b", "old")
		recordedSnapshots(ctx, 2)
		away(ctx, func() {
			snapshot(ctx, "b", "new")
			restoreSnapshots(ctx, backUp(ctx, store.SnapshotsStreamName()))
			snapshot(ctx, "a", "later")
		})
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(beReady(), haveNoCondition(v1alpha1.ConditionDataLoss)))
		Eventually(toldOf(ctx, store)).Should(ContainElement(anEvent("Normal", "StreamRestored", ContainSubstring("its last sequence is 4"))))
	})

	It("that was made anew and written to is told as what it is", func(ctx context.Context) {
		config := streamInfo(ctx, api, store.EventsStreamName()).Config
		Expect(api.DeleteStream(ctx, store.EventsStreamName())).To(Succeed())
		Eventually(read(ctx, store)).WithContext(ctx).Should(missing)
		_, err := api.CreateStream(ctx, config)
		Expect(err).NotTo(HaveOccurred())
		publish(ctx, api, store, 7)
		Eventually(func(g Gomega) {
			annotate(ctx, store, unique("poke"))
			g.Expect(read(ctx, store)(g)).To(And(recreated, sayWhy(ContainSubstring("its message at sequence 5 is of"))))
		}).Should(Succeed())
	})

	It("on other servers is recognised when the class moves there", func(ctx context.Context) {
		others := startNATS(1)
		there := js(others)
		for _, name := range []string{store.EventsStreamName(), store.SnapshotsStreamName()} {
			Expect(backUp(ctx, name).Restore(ctx, there.Conn())).To(Succeed())
		}
		changeClass(ctx, class, func(c *v1alpha1.EventStoreClass) {
			c.Spec.Servers = []v1alpha1.ServerURL{v1alpha1.ServerURL(others.URL())}
		})
		Eventually(toldOf(ctx, store)).Should(ContainElement(anEvent("Normal", "StreamRestored", ContainSubstring(store.EventsStreamName()))))
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(beReady(), haveNoCondition(v1alpha1.ConditionDataLoss)))
		Expect(streamInfo(ctx, there, store.EventsStreamName()).State.Msgs).To(BeEquivalentTo(5))
		Eventually(func() map[string][]byte { return bindingOf(ctx, store).Data }).Should(HaveKeyWithValue("servers", []byte(others.URL())))
	})
})

var _ = Describe("A pair of streams of which one went while the resource was away", func() {
	var class *v1alpha1.EventStoreClass
	var api jetstream.JetStream
	var store *v1alpha1.EventStore
	BeforeEach(func(ctx context.Context) {
		class, api = newClass(ctx, single.URLs()), js(single)
		store = create(ctx, newStore(newNamespace(ctx), class.Name))
		Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())
		publish(ctx, api, store, 3)
		_, err := api.Publish(ctx, store.EventsStreamName()+".snapshots.order.order-1", []byte("{}"))
		Expect(err).NotTo(HaveOccurred())
		deleteStore(ctx, store)
	})
	again := func(ctx context.Context) *v1alpha1.EventStore {
		GinkgoHelper()
		return create(ctx, newStore(store.Namespace, class.Name, func(s *v1alpha1.EventStore) { s.Name = store.Name }))
	}

	It("waits for a person when it is that of the events", func(ctx context.Context) {
		Expect(api.DeleteStream(ctx, store.EventsStreamName())).To(Succeed())
		store = again(ctx)
		lost := And(beStalled(v1alpha1.ReasonStreamMissing), haveCondition(v1alpha1.ConditionDataLoss, metav1.ConditionTrue, v1alpha1.ReasonStreamMissing))
		Eventually(read(ctx, store)).WithContext(ctx).Should(lost)
		annotate(ctx, store, "1")
		Consistently(read(ctx, store)).WithContext(ctx).WithTimeout(consistentTime).Should(lost)
		_, err := api.Stream(ctx, store.EventsStreamName())
		Expect(err).To(MatchError(jetstream.ErrStreamNotFound))
		change(ctx, store, accept)
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(beReady(), haveNoCondition(v1alpha1.ConditionDataLoss)))
		Expect(streamInfo(ctx, api, store.SnapshotsStreamName()).State.Msgs).To(BeEquivalentTo(1))
	})

	It("goes on, and tells, when it is that of the snapshots", func(ctx context.Context) {
		Expect(api.DeleteStream(ctx, store.SnapshotsStreamName())).To(Succeed())
		store = again(ctx)
		Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())
		Expect(streamInfo(ctx, api, store.EventsStreamName()).State.Msgs).To(BeEquivalentTo(3))
		Eventually(toldOf(ctx, store)).Should(ContainElements(
			anEvent("Warning", "SnapshotsStreamMissing", ContainSubstring("while the stream of 3 events is there")),
			anEvent("Normal", "EventsStreamTakenBack", ContainSubstring("with its 3 messages"))))
	})
})
