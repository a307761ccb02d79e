package controller_test

import (
	"context"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/onsi/gomega/types"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
)

// toldOf are the Events about an object, of every version of it.
func toldOf(ctx context.Context, store *v1alpha1.EventStore) func(Gomega) []eventsv1.Event {
	return func(g Gomega) []eventsv1.Event {
		var all eventsv1.EventList
		g.Expect(k8s.List(ctx, &all, client.InNamespace(store.Namespace))).To(Succeed())
		var about []eventsv1.Event
		for _, e := range all.Items {
			if e.Regarding.Name == store.Name {
				about = append(about, e)
			}
		}
		return about
	}
}

// anEvent matches an Event by its type, its reason and its note.
func anEvent(eventType, reason string, note types.GomegaMatcher) types.GomegaMatcher {
	return And(HaveField("Type", eventType), HaveField("Reason", reason), HaveField("Note", note))
}

// recordedMessages waits until the status knows of so many events.
func recordedMessages(ctx context.Context, store *v1alpha1.EventStore, count int) {
	GinkgoHelper()
	Eventually(func(g Gomega) {
		annotate(ctx, store, unique("poke"))
		g.Expect(read(ctx, store)(g).Status.Streams).To(ContainElement(And(
			HaveField("Role", v1alpha1.StreamRoleEvents), HaveField("Messages", BeEquivalentTo(count)))))
	}).Should(Succeed())
}

// olderThanASecond waits until all that a stream holds is, which only time can bring
// about.
func olderThanASecond(ctx context.Context, api jetstream.JetStream, name string) {
	GinkgoHelper()
	olderThan(ctx, api, name, time.Second)
}

func olderThan(ctx context.Context, api jetstream.JetStream, name string, age time.Duration) {
	GinkgoHelper()
	Eventually(func() time.Duration {
		info := streamInfo(ctx, api, name)
		return info.TimeStamp.Sub(info.State.LastTime)
	}).Should(BeNumerically(">", age))
}

var _ = Describe("An acceptance", func() {
	var class *v1alpha1.EventStoreClass
	var api jetstream.JetStream
	var store *v1alpha1.EventStore
	BeforeEach(func(ctx context.Context) {
		class, api = newClass(ctx, single.URLs()), js(single)
		store = create(ctx, newStore(newNamespace(ctx), class.Name))
		Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())
	})
	messages := func(ctx context.Context) uint64 {
		GinkgoHelper()
		return streamInfo(ctx, api, store.EventsStreamName()).State.Msgs
	}
	held := And(beStalled(v1alpha1.ReasonWouldDestroyEvents), haveCondition(v1alpha1.ConditionDataLossPrevented, metav1.ConditionTrue, v1alpha1.ReasonWouldDestroyEvents))
	lost := func(reason string) types.GomegaMatcher {
		return And(beStalled(reason), haveCondition(v1alpha1.ConditionDataLoss, metav1.ConditionTrue, reason))
	}
	unmatched := haveCondition(v1alpha1.ConditionAcceptanceUnmatched, metav1.ConditionTrue, v1alpha1.ReasonTokenUnknown)
	shortAge := func(s *v1alpha1.EventStore) { s.Spec.Retention.MaxAge = "1s" }
	longAge := func(s *v1alpha1.EventStore) { s.Spec.Retention.MaxAge = "365d" }
	// acceptedChange destroys what is there, as a person asked for, and leaves the
	// annotation behind.
	acceptedChange := func(ctx context.Context) {
		GinkgoHelper()
		publish(ctx, api, store, 2)
		olderThanASecond(ctx, api, store.EventsStreamName())
		change(ctx, store, shortAge)
		Eventually(read(ctx, store)).WithContext(ctx).Should(held)
		change(ctx, store, accept)
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(beReady(), haveNoCondition(v1alpha1.ConditionDataLossPrevented)))
		Eventually(func() uint64 { return messages(ctx) }).Should(BeZero())
		change(ctx, store, longAge)
		Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())
	}

	It("does not come again with a status that was lost", func(ctx context.Context) {
		acceptedChange(ctx)
		publish(ctx, api, store, 2)
		olderThanASecond(ctx, api, store.EventsStreamName())
		Eventually(func() error {
			current := read(ctx, store)(Default)
			current.Status = v1alpha1.EventStoreStatus{}
			return k8s.Status().Update(ctx, current)
		}).Should(Succeed())
		annotate(ctx, store, unique("poke"))
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(beReady(), HaveField("Status.Acceptances", BeEmpty())))
		change(ctx, store, shortAge)
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(held, unmatched))
		annotate(ctx, store, unique("poke"))
		Consistently(read(ctx, store)).WithContext(ctx).WithTimeout(consistentTime).Should(held)
		Expect(messages(ctx)).To(BeEquivalentTo(2))

		By("accepting what is told now")
		change(ctx, store, accept)
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(beReady(), HaveField("Status.Acceptances", HaveLen(1))))
		Eventually(func() uint64 { return messages(ctx) }).Should(BeZero())
	})

	It("is recorded, and told with what it let through", func(ctx context.Context) {
		publish(ctx, api, store, 4)
		olderThanASecond(ctx, api, store.EventsStreamName())
		change(ctx, store, shortAge)
		Eventually(read(ctx, store)).WithContext(ctx).Should(held)
		token := tokenOf(read(ctx, store)(Default), v1alpha1.ConditionDataLossPrevented)
		change(ctx, store, accept)
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(beReady(), haveNoCondition(v1alpha1.ConditionAcceptanceUnmatched),
			HaveField("Status.Acceptances", HaveExactElements(And(
				HaveField("Token", token), HaveField("Reason", v1alpha1.ReasonWouldDestroyEvents), HaveField("Pending", false),
				HaveField("Message", And(ContainSubstring("maxAge from 365d to 1s"), ContainSubstring("4 of 4 messages"))))))))
		Eventually(toldOf(ctx, store)).Should(ContainElements(
			anEvent("Warning", "DataDestructionAccepted", And(ContainSubstring(token), ContainSubstring("4 of 4 messages"))),
			anEvent("Warning", "DataDestroyed", And(ContainSubstring("maxAge from 365d to 1s"), ContainSubstring("destroyed 4 of 4 messages")))))
	})

	It("that is left on the store lets no change of the class through", func(ctx context.Context) {
		change(ctx, store, acceptWith("1"))
		publish(ctx, api, store, 5)
		olderThan(ctx, api, store.EventsStreamName(), 2*time.Second)
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(beReady(), unmatched))
		changeClass(ctx, class, func(c *v1alpha1.EventStoreClass) { c.Spec.Defaults.Retention.MaxAge = "1s" })
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(held, HaveField("Generation", BeEquivalentTo(1))))
		Expect(messages(ctx)).To(BeEquivalentTo(5))

		By("another default: what was accepted is another thing")
		token := tokenOf(read(ctx, store)(Default), v1alpha1.ConditionDataLossPrevented)
		changeClass(ctx, class, func(c *v1alpha1.EventStoreClass) { c.Spec.Defaults.Retention.MaxAge = "2s" })
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(held, sayWhy(ContainSubstring("to 2s"))))
		change(ctx, store, acceptWith(token))
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(held, unmatched))
		Expect(messages(ctx)).To(BeEquivalentTo(5))
	})

	It("of a change lets no loss through", func(ctx context.Context) {
		acceptedChange(ctx)
		publish(ctx, api, store, 3)
		recordedMessages(ctx, store, 3)
		Expect(api.DeleteStream(ctx, store.EventsStreamName())).To(Succeed())
		Eventually(read(ctx, store)).WithContext(ctx).Should(lost(v1alpha1.ReasonStreamMissing))
		Consistently(read(ctx, store)).WithContext(ctx).WithTimeout(consistentTime).Should(lost(v1alpha1.ReasonStreamMissing))
		_, err := api.Stream(ctx, store.EventsStreamName())
		Expect(err).To(MatchError(jetstream.ErrStreamNotFound))
	})

	It("destroys nothing while the server refuses the rest of the change, and tells when it does", func(ctx context.Context) {
		publish(ctx, api, store, 4)
		olderThanASecond(ctx, api, store.EventsStreamName())
		change(ctx, store, func(s *v1alpha1.EventStore) {
			s.Spec.Retention.MaxAge, s.Spec.Snapshots.MaxBytes = "1s", quantity("7Ei")
		})
		Eventually(read(ctx, store)).WithContext(ctx).Should(held)
		change(ctx, store, accept)
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(beStalled(v1alpha1.ReasonOutOfStorage), HaveField("Status.Acceptances", ContainElement(HaveField("Pending", true)))))
		Expect(messages(ctx)).To(BeEquivalentTo(4))
		change(ctx, store, func(s *v1alpha1.EventStore) { s.Spec.Snapshots.MaxBytes = nil })
		Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())
		Eventually(toldOf(ctx, store)).Should(ContainElement(anEvent("Warning", "DataDestroyed", ContainSubstring("destroyed 4 of 4 messages"))))
	})

	It("lets nothing through a second time", func(ctx context.Context) {
		acceptedChange(ctx)
		publish(ctx, api, store, 3)
		olderThanASecond(ctx, api, store.EventsStreamName())
		change(ctx, store, shortAge)
		Eventually(read(ctx, store)).WithContext(ctx).Should(held)
		used := read(ctx, store)(Default).Status.Acceptances[0].Token
		Expect(tokenOf(read(ctx, store)(Default), v1alpha1.ConditionDataLossPrevented)).NotTo(Equal(used))
		change(ctx, store, acceptWith(used))
		Consistently(read(ctx, store)).WithContext(ctx).WithTimeout(consistentTime).Should(held)
		Expect(messages(ctx)).To(BeEquivalentTo(3))
	})

	It("of a loss lets no change through that waits as well, and the other way round", func(ctx context.Context) {
		publish(ctx, api, store, 4)
		_, err := api.Publish(ctx, store.EventsStreamName()+".snapshots.order.order-1", []byte("{}"))
		Expect(err).NotTo(HaveOccurred())
		recordedMessages(ctx, store, 4)
		olderThanASecond(ctx, api, store.EventsStreamName())
		change(ctx, store, shortAge)
		Eventually(read(ctx, store)).WithContext(ctx).Should(held)
		ofChange := tokenOf(read(ctx, store)(Default), v1alpha1.ConditionDataLossPrevented)
		Expect(api.DeleteStream(ctx, store.SnapshotsStreamName())).To(Succeed())
		both := And(lost(v1alpha1.ReasonStreamMissing),
			haveCondition(v1alpha1.ConditionDataLossPrevented, metav1.ConditionTrue, v1alpha1.ReasonWouldDestroyEvents))
		Eventually(read(ctx, store)).WithContext(ctx).Should(both)

		By("accepting the change while the loss is not decided about")
		change(ctx, store, acceptWith(ofChange))
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(both, unmatched))
		Expect(messages(ctx)).To(BeEquivalentTo(4))

		By("accepting the loss")
		change(ctx, store, accept)
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(held, haveNoCondition(v1alpha1.ConditionDataLoss), haveNoCondition(v1alpha1.ConditionAcceptanceUnmatched)))
		Consistently(func() uint64 { return messages(ctx) }).WithTimeout(consistentTime).Should(BeEquivalentTo(4))

		By("accepting the change")
		change(ctx, store, accept)
		Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())
		streamInfo(ctx, api, store.SnapshotsStreamName())
		Expect(read(ctx, store)(Default).Status.Acceptances).To(HaveExactElements(
			HaveField("Reason", v1alpha1.ReasonWouldDestroyEvents), HaveField("Reason", v1alpha1.ReasonStreamMissing)))
	})

	It("in a manifest lets nothing through when that is applied again", func(ctx context.Context) {
		publish(ctx, api, store, 4)
		olderThanASecond(ctx, api, store.EventsStreamName())
		change(ctx, store, shortAge)
		Eventually(read(ctx, store)).WithContext(ctx).Should(held)
		token := tokenOf(read(ctx, store)(Default), v1alpha1.ConditionDataLossPrevented)
		for _, value := range []string{token, "1"} {
			deleteStore(ctx, store)
			store = create(ctx, newStore(store.Namespace, class.Name, shortAge, acceptWith(value), func(s *v1alpha1.EventStore) { s.Name = store.Name }))
			Eventually(read(ctx, store)).WithContext(ctx).Should(And(held, unmatched))
			Consistently(func() uint64 { return messages(ctx) }).WithTimeout(consistentTime).Should(BeEquivalentTo(4))
		}
	})

	It("that is given before a loss was told accepts nothing", func(ctx context.Context) {
		publish(ctx, api, store, 3)
		recordedMessages(ctx, store, 3)
		s, err := api.Stream(ctx, store.EventsStreamName())
		Expect(err).NotTo(HaveOccurred())
		Expect(s.Purge(ctx)).To(Succeed())
		change(ctx, store, acceptWith("1"))
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(lost(v1alpha1.ReasonStreamPurged), unmatched))
		Consistently(read(ctx, store)).WithContext(ctx).WithTimeout(consistentTime).Should(lost(v1alpha1.ReasonStreamPurged))
		change(ctx, store, accept)
		Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())
		Eventually(toldOf(ctx, store)).Should(ContainElement(anEvent("Warning", "DataLossAccepted", ContainSubstring("held 3 messages up to sequence 3"))))
	})

	It("does not cover what was lost after it was told", func(ctx context.Context) {
		publish(ctx, api, store, 3)
		recordedMessages(ctx, store, 3)
		config := streamInfo(ctx, api, store.EventsStreamName()).Config
		Expect(api.DeleteStream(ctx, store.EventsStreamName())).To(Succeed())
		Eventually(read(ctx, store)).WithContext(ctx).Should(lost(v1alpha1.ReasonStreamMissing))
		token := tokenOf(read(ctx, store)(Default), v1alpha1.ConditionDataLoss)
		_, err := api.CreateStream(ctx, config)
		Expect(err).NotTo(HaveOccurred())
		Eventually(read(ctx, store)).WithContext(ctx).Should(lost(v1alpha1.ReasonStreamRecreated))
		change(ctx, store, acceptWith(token))
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(lost(v1alpha1.ReasonStreamRecreated), unmatched))
	})

	It("stays the same while events are saved", func(ctx context.Context) {
		publish(ctx, api, store, 3)
		olderThanASecond(ctx, api, store.EventsStreamName())
		change(ctx, store, shortAge)
		Eventually(read(ctx, store)).WithContext(ctx).Should(held)
		token := tokenOf(read(ctx, store)(Default), v1alpha1.ConditionDataLossPrevented)
		publish(ctx, api, store, 20)
		recordedMessages(ctx, store, 23)
		Expect(tokenOf(read(ctx, store)(Default), v1alpha1.ConditionDataLossPrevented)).To(Equal(token))
		change(ctx, store, accept)
		Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())
	})

	It("is asked for before drift is set right that would destroy events", func(ctx context.Context) {
		change(ctx, store, shortAge)
		Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())
		By("keeping events for longer by hand, while the operator does not look")
		change(ctx, store, func(s *v1alpha1.EventStore) { s.Spec.ManagementPolicy = v1alpha1.ManagementPaused })
		Eventually(read(ctx, store)).WithContext(ctx).Should(haveCondition(v1alpha1.ConditionReady, metav1.ConditionUnknown, v1alpha1.ReasonPaused))
		config := streamInfo(ctx, api, store.EventsStreamName()).Config
		config.MaxAge = time.Hour
		_, err := api.UpdateStream(ctx, config)
		Expect(err).NotTo(HaveOccurred())
		publish(ctx, api, store, 3)
		olderThanASecond(ctx, api, store.EventsStreamName())
		change(ctx, store, func(s *v1alpha1.EventStore) { s.Spec.ManagementPolicy = v1alpha1.ManagementFull })
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(held, sayWhy(ContainSubstring("maxAge from 1h to 1s"))))
		Expect(messages(ctx)).To(BeEquivalentTo(3))
		change(ctx, store, accept)
		Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())
		Eventually(func() uint64 { return messages(ctx) }).Should(BeZero())
	})

	DescribeTable("with a value that is no token is told, once", func(ctx context.Context, value string) {
		change(ctx, store, acceptWith(value))
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(beReady(), unmatched))
		version := annotate(ctx, store, "1")
		Consistently(func(g Gomega) string { return read(ctx, store)(g).ResourceVersion }).WithTimeout(consistentTime).Should(Equal(version))
		about := ContainElement(anEvent("Warning", "AcceptanceUnmatched", ContainSubstring("which accepts nothing")))
		Eventually(toldOf(ctx, store)).Should(about)
		Expect(toldOf(ctx, store)(Default)).To(WithTransform(func(all []eventsv1.Event) int {
			count := 0
			for _, e := range all {
				if e.Reason == "AcceptanceUnmatched" {
					count++
					if e.Series != nil {
						count += int(e.Series.Count)
					}
				}
			}
			return count
		}, Equal(1)))
		change(ctx, store, func(s *v1alpha1.EventStore) { delete(s.Annotations, v1alpha1.AnnotationAcceptDataLoss) })
		Eventually(read(ctx, store)).WithContext(ctx).Should(haveNoCondition(v1alpha1.ConditionAcceptanceUnmatched))
	},
		Entry("true", "true"),
		Entry("a generation", "1"),
		Entry("nothing", ""),
		Entry("what looks like one", "0123456789abcdef"),
	)
})
