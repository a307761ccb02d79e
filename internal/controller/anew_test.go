package controller_test

import (
	"context"

	"github.com/nats-io/nats.go/jetstream"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
)

var _ = Describe("An EventStore whose streams were both lost", func() {
	It("is begun anew as it was, also where the servers take it later", func(ctx context.Context) {
		api, class := js(single), newClass(ctx, single.URLs(), func(c *v1alpha1.EventStoreClass) { c.Spec.Defaults.Protection = v1alpha1.ProtectionImmutable })
		store := create(ctx, newStore(newNamespace(ctx), class.Name))
		Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())
		publish(ctx, api, store, 3)
		_, err := api.Publish(ctx, store.EventsStreamName()+".snapshots.order.order-1", []byte("{}"))
		Expect(err).NotTo(HaveOccurred())
		recordedMessages(ctx, store, 3)
		changeClass(ctx, class, func(c *v1alpha1.EventStoreClass) {
			c.Spec.Defaults.Protection, c.Spec.Defaults.Storage = "", v1alpha1.StorageMemory
		})
		Expect(api.DeleteStream(ctx, store.EventsStreamName())).To(Succeed())
		Expect(api.DeleteStream(ctx, store.SnapshotsStreamName())).To(Succeed())
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(beStalled(v1alpha1.ReasonStreamMissing), sayWhy(ContainSubstring("_snapshots is gone"))))

		By("accepting the loss while the servers refuse to make the streams")
		change(ctx, store, func(s *v1alpha1.EventStore) {
			s.Spec.Retention.MaxBytes, s.Spec.Snapshots.MaxBytes = quantity("7Ei"), quantity("7Ei")
		})
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(beStalled(v1alpha1.ReasonStreamMissing), HaveField("Status.ObservedGeneration", BeEquivalentTo(2))))
		change(ctx, store, accept)
		Eventually(read(ctx, store)).WithContext(ctx).Should(beStalled(v1alpha1.ReasonOutOfStorage))

		change(ctx, store, func(s *v1alpha1.EventStore) { s.Spec.Retention.MaxBytes, s.Spec.Snapshots.MaxBytes = nil, nil })
		Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())
		Expect(streamInfo(ctx, api, store.EventsStreamName()).Config).To(And(
			HaveField("Storage", jetstream.FileStorage), HaveField("DenyDelete", true), HaveField("DenyPurge", true)))
	})
})
