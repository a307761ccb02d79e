package controller_test

import (
	"context"

	"github.com/nats-io/nats.go/jetstream"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
)

var _ = Describe("A store that names no class", func() {
	isDefault := func(c *v1alpha1.EventStoreClass) {
		c.Annotations = map[string]string{v1alpha1.AnnotationDefaultClass: "true"}
	}
	noDefault := func(c *v1alpha1.EventStoreClass) { c.Annotations = nil }

	It("is not made anew on another class when its streams are on the default of before", func(ctx context.Context) {
		before := newClass(ctx, single.URLs(), isDefault)
		Eventually(readClass(ctx, before)).WithContext(ctx).Should(beReady())
		store := create(ctx, newStore(newNamespace(ctx), ""))
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(beReady(), HaveField("Status.ClassName", before.Name)))
		publish(ctx, js(single), store, 3)
		deleteStore(ctx, store)
		changeClass(ctx, before, noDefault)
		after := newClass(ctx, cluster.URLs(), isDefault)
		Eventually(readClass(ctx, after)).WithContext(ctx).Should(beReady())

		again := create(ctx, newStore(store.Namespace, "", func(s *v1alpha1.EventStore) { s.Name = store.Name }))
		Eventually(read(ctx, again)).WithContext(ctx).Should(And(beStalled(v1alpha1.ReasonOnAnotherClass),
			sayWhy(And(ContainSubstring("className "+before.Name), ContainSubstring("3 messages")))))
		_, err := js(cluster).Stream(ctx, store.EventsStreamName())
		Expect(err).To(MatchError(jetstream.ErrStreamNotFound))

		By("naming the default class, as the webhook does for who names none")
		deleteStore(ctx, again)
		written := create(ctx, newStore(store.Namespace, after.Name, func(s *v1alpha1.EventStore) { s.Name = store.Name }))
		Eventually(read(ctx, written)).WithContext(ctx).Should(beStalled(v1alpha1.ReasonOnAnotherClass))
		_, err = js(cluster).Stream(ctx, store.EventsStreamName())
		Expect(err).To(MatchError(jetstream.ErrStreamNotFound))

		By("taking the way out that the condition tells")
		deleteStore(ctx, written)
		named := create(ctx, newStore(store.Namespace, before.Name, func(s *v1alpha1.EventStore) { s.Name = store.Name }))
		Eventually(read(ctx, named)).WithContext(ctx).Should(beReady())
		Expect(streamInfo(ctx, js(single), store.EventsStreamName()).State.Msgs).To(BeEquivalentTo(3))
	})

	It("waits for a class that cannot be asked, and is made when that is gone", func(ctx context.Context) {
		away := newClass(ctx, []string{"nats://127.0.0.1:1"})
		Eventually(readClass(ctx, away)).WithContext(ctx).Should(haveCondition(v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonUnreachable))
		home := newClass(ctx, single.URLs(), isDefault)
		Eventually(readClass(ctx, home)).WithContext(ctx).Should(beReady())
		store := create(ctx, newStore(newNamespace(ctx), ""))
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(
			haveCondition(v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonProgressingWithRetry),
			sayWhy(ContainSubstring(away.Name))))
		_, err := js(single).Stream(ctx, store.EventsStreamName())
		Expect(err).To(MatchError(jetstream.ErrStreamNotFound))
		Expect(client.IgnoreNotFound(k8s.Delete(ctx, away))).To(Succeed())
		Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())
	})
})
