package controller_test

import (
	"context"

	"github.com/nats-io/nats.go/jetstream"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/onsi/gomega/types"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
)

var _ = Describe("A stream that is there after a loss and names no owner", func() {
	var class *v1alpha1.EventStoreClass
	var api jetstream.JetStream
	var store *v1alpha1.EventStore
	lost := func(reason string, what types.GomegaMatcher) types.GomegaMatcher {
		return And(beStalled(reason), haveCondition(v1alpha1.ConditionDataLoss, metav1.ConditionTrue, reason), sayWhy(what))
	}
	// madeByOthers makes a store whose stream others make again, without its metadata.
	madeByOthers := func(ctx context.Context, adopts v1alpha1.AdoptionPolicy) {
		GinkgoHelper()
		class, api = newClass(ctx, single.URLs()), js(single)
		store = create(ctx, newStore(newNamespace(ctx), class.Name, func(s *v1alpha1.EventStore) { s.Spec.AdoptionPolicy = adopts }))
		Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())
		publish(ctx, api, store, 4)
		recordedMessages(ctx, store, 4)
		config := streamInfo(ctx, api, store.EventsStreamName()).Config
		Expect(api.DeleteStream(ctx, config.Name)).To(Succeed())
		Eventually(read(ctx, store)).WithContext(ctx).Should(lost(v1alpha1.ReasonStreamMissing, Not(ContainSubstring("is not used"))))
		config.Metadata = nil
		_, err := api.CreateStream(ctx, config)
		Expect(err).NotTo(HaveOccurred())
	}

	DescribeTable("is not used when the loss is accepted, as its condition says before", func(ctx context.Context, adopts v1alpha1.AdoptionPolicy, reason string) {
		madeByOthers(ctx, adopts)
		says := And(ContainSubstring("see to stream "+store.EventsStreamName()), ContainSubstring("with the reason "+reason+" then"))
		Eventually(read(ctx, store)).WithContext(ctx).Should(lost(v1alpha1.ReasonStreamRecreated, says))
		change(ctx, store, accept)
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(beStalled(reason), haveNoCondition(v1alpha1.ConditionDataLoss)))
		Expect(api.DeleteStream(ctx, store.EventsStreamName())).To(Succeed())
		Eventually(func(g Gomega) {
			annotate(ctx, store, unique("poke"))
			g.Expect(read(ctx, store)(g)).To(beReady())
		}).WithContext(ctx).Should(Succeed())
	},
		Entry("where the store adopts none", v1alpha1.AdoptionRefuse, v1alpha1.ReasonNotOwned),
		Entry("where the class forbids it", v1alpha1.AdoptionAdopt, v1alpha1.ReasonTenancyForbidden),
	)

	It("is adopted when the loss is accepted, where store and class let it be", func(ctx context.Context) {
		madeByOthers(ctx, v1alpha1.AdoptionAdopt)
		Eventually(read(ctx, store)).WithContext(ctx).Should(lost(v1alpha1.ReasonStreamRecreated, ContainSubstring("TenancyForbidden")))
		changeClass(ctx, class, func(c *v1alpha1.EventStoreClass) { c.Spec.Tenancy.Adoption = v1alpha1.AdoptionAllowed })
		Eventually(read(ctx, store)).WithContext(ctx).Should(lost(v1alpha1.ReasonStreamRecreated, ContainSubstring("accept the loss and go on with what is there")))
		publish(ctx, api, store, 2)
		change(ctx, store, accept)
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(beReady(), haveNoCondition(v1alpha1.ConditionDataLoss)))
		Expect(streamInfo(ctx, api, store.EventsStreamName()).State.Msgs).To(BeEquivalentTo(2))
	})

	It("is used when the loss is accepted, where it is the one on record", func(ctx context.Context) {
		class, api = newClass(ctx, single.URLs()), js(single)
		store = create(ctx, newStore(newNamespace(ctx), class.Name))
		Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())
		publish(ctx, api, store, 4)
		recordedMessages(ctx, store, 4)
		change(ctx, store, func(s *v1alpha1.EventStore) { s.Spec.ManagementPolicy = v1alpha1.ManagementPaused })
		Eventually(read(ctx, store)).WithContext(ctx).Should(haveCondition(v1alpha1.ConditionReady, metav1.ConditionUnknown, v1alpha1.ReasonPaused))
		purge(ctx, api, store.EventsStreamName())
		config := streamInfo(ctx, api, store.EventsStreamName()).Config
		config.Metadata = nil
		_, err := api.UpdateStream(ctx, config)
		Expect(err).NotTo(HaveOccurred())
		change(ctx, store, func(s *v1alpha1.EventStore) { s.Spec.ManagementPolicy = v1alpha1.ManagementFull })
		Eventually(read(ctx, store)).WithContext(ctx).Should(lost(v1alpha1.ReasonStreamPurged, ContainSubstring("accept the loss and go on with what is there")))
		change(ctx, store, accept)
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(beReady(), haveNoCondition(v1alpha1.ConditionDataLoss)))
	})
})
