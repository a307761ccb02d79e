package controller_test

import (
	"context"

	"github.com/nats-io/nats.go/jetstream"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/onsi/gomega/types"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv/natsserver"
)

var _ = Describe("An accepted change that waits to be carried out", func() {
	var servers *natsserver.Cluster
	var class *v1alpha1.EventStoreClass
	var api jetstream.JetStream
	var store *v1alpha1.EventStore
	onServers := func(ctx context.Context, s *natsserver.Cluster) {
		GinkgoHelper()
		servers = s
		class, api = newClass(ctx, s.URLs()), js(s)
		store = create(ctx, newStore(newNamespace(ctx), class.Name))
		Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())
	}
	held := And(beStalled(v1alpha1.ReasonWouldDestroyEvents), haveCondition(v1alpha1.ConditionDataLossPrevented, metav1.ConditionTrue, v1alpha1.ReasonWouldDestroyEvents))
	pending := func(yes bool) types.GomegaMatcher {
		return HaveField("Status.Acceptances", HaveExactElements(HaveField("Pending", yes)))
	}
	messages := func(ctx context.Context) func() uint64 {
		return func() uint64 { return streamInfo(ctx, api, store.EventsStreamName()).State.Msgs }
	}
	tooMuch := func(s *v1alpha1.EventStore) { s.Spec.Snapshots.MaxBytes = quantity("7Ei") }
	age := func(age string) func(*v1alpha1.EventStore) {
		return func(s *v1alpha1.EventStore) { s.Spec.Retention.MaxAge = age }
	}
	classAge := func(age string) func(*v1alpha1.EventStoreClass) {
		return func(c *v1alpha1.EventStoreClass) { c.Spec.Defaults.Retention.MaxAge = age }
	}
	// accepted accepts a shorter age, which waits since the server refuses what else is asked for.
	accepted := func(ctx context.Context, ask func()) {
		GinkgoHelper()
		publish(ctx, api, store, 4)
		olderThanASecond(ctx, api, store.EventsStreamName())
		change(ctx, store, tooMuch)
		Eventually(read(ctx, store)).WithContext(ctx).Should(beStalled(v1alpha1.ReasonOutOfStorage))
		ask()
		Eventually(read(ctx, store)).WithContext(ctx).Should(held)
		change(ctx, store, accept)
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(beStalled(v1alpha1.ReasonOutOfStorage), pending(true)))
	}
	// asksAgain saves more and lets the server take the rest: nothing goes but for another token.
	asksAgain := func(ctx context.Context) {
		GinkgoHelper()
		publish(ctx, api, store, 20)
		olderThanASecond(ctx, api, store.EventsStreamName())
		change(ctx, store, func(s *v1alpha1.EventStore) { s.Spec.Snapshots.MaxBytes = nil })
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(held, pending(false)))
		Consistently(messages(ctx)).WithTimeout(consistentTime).Should(BeEquivalentTo(24))
		change(ctx, store, accept)
		Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())
		Eventually(messages(ctx)).Should(BeZero())
	}

	DescribeTable("needs another token, if it was taken back", func(ctx context.Context, policy v1alpha1.ManagementPolicy, rests types.GomegaMatcher) {
		onServers(ctx, single)
		accepted(ctx, func() { change(ctx, store, age("1s")) })
		change(ctx, store, func(s *v1alpha1.EventStore) {
			age("365d")(s)
			s.Spec.ManagementPolicy = policy
			delete(s.Annotations, v1alpha1.AnnotationAcceptDataLoss)
		})
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(rests, pending(false)))
		change(ctx, store, func(s *v1alpha1.EventStore) {
			age("1s")(s)
			s.Spec.ManagementPolicy = v1alpha1.ManagementFull
		})
		asksAgain(ctx)
	},
		Entry("under Observe", v1alpha1.ManagementObserve, beStalled(v1alpha1.ReasonObserved)),
		Entry("under Paused", v1alpha1.ManagementPaused, haveCondition(v1alpha1.ConditionReady, metav1.ConditionUnknown, v1alpha1.ReasonPaused)),
		Entry("under Full", v1alpha1.ManagementFull, beStalled(v1alpha1.ReasonOutOfStorage)),
	)

	DescribeTable("needs another token, if it was taken back and made again while nobody could look", func(ctx context.Context, ask func(context.Context, string)) {
		onServers(ctx, startNATS(1))
		accepted(ctx, func() { ask(ctx, "1s") })
		servers.StopNode(0)
		ask(ctx, "365d")
		ask(ctx, "1s")
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(haveCondition(v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonUnreachable), pending(false)))
		Expect(servers.StartNode(0)).To(Succeed())
		asksAgain(ctx)
	},
		Entry("by the resource", func(ctx context.Context, a string) { change(ctx, store, age(a)) }),
		Entry("by the class", func(ctx context.Context, a string) { changeClass(ctx, class, classAge(a)) }),
	)

	It("needs another token, if its class was made again", func(ctx context.Context) {
		onServers(ctx, single)
		accepted(ctx, func() { changeClass(ctx, class, classAge("1s")) })
		Expect(k8s.Delete(ctx, class)).To(Succeed())
		Eventually(read(ctx, store)).WithContext(ctx).Should(beStalled(v1alpha1.ReasonClassNotFound))
		name := class.Name
		newClass(ctx, servers.URLs(), classAge("1s"), func(c *v1alpha1.EventStoreClass) { c.Name = name })
		Eventually(read(ctx, store)).WithContext(ctx).Should(held)
		asksAgain(ctx)
	})

	It("is carried out once the servers take it, though they were away and other fields were edited", func(ctx context.Context) {
		onServers(ctx, startNATS(1))
		accepted(ctx, func() { change(ctx, store, age("1s")) })
		servers.StopNode(0)
		annotate(ctx, store, unique("poke"))
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(haveCondition(v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonUnreachable), pending(true)))
		Expect(servers.StartNode(0)).To(Succeed())
		for _, window := range []string{"3m", "4m"} {
			change(ctx, store, func(s *v1alpha1.EventStore) { s.Spec.DuplicateWindow = window })
			generation := read(ctx, store)(Default).Generation
			Eventually(read(ctx, store)).WithContext(ctx).Should(And(beStalled(v1alpha1.ReasonOutOfStorage), pending(true),
				HaveField("Status.Acceptances", ContainElement(HaveField("Generation", generation)))))
		}
		changeClass(ctx, class, func(c *v1alpha1.EventStoreClass) { c.Spec.Defaults.DuplicateWindow = "5m" })
		Eventually(read(ctx, store)).WithContext(ctx).Should(HaveField("Status.Acceptances", ContainElement(HaveField("ClassGeneration", BeEquivalentTo(2)))))
		change(ctx, store, func(s *v1alpha1.EventStore) { s.Spec.Snapshots.MaxBytes = nil })
		Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())
		Eventually(messages(ctx)).Should(BeZero())
	})
})
