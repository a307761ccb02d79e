package controller_test

import (
	"context"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/access"
)

// grantsOf are what pods of a store's namespace may do with it.
func grantsOf(store *v1alpha1.EventStore) []access.Grant {
	of := access.Identity{Namespace: store.Namespace, ServiceAccount: "default", PodName: "p", PodUID: "u"}
	return access.Decide([]v1alpha1.EventStore{*store}, store.Status.System, of, []string{store.EventsStreamName()}).Grants
}

var _ = Describe("What a store had", func() {
	var api jetstream.JetStream
	BeforeEach(func() { api = js(single) })

	It("lets nobody in when the class allows the namespace no more, paused or not", func(ctx context.Context) {
		class := newClass(ctx, single.URLs(), func(c *v1alpha1.EventStoreClass) {
			c.Spec.AllowedNamespaces = &v1alpha1.AllowedNamespaces{Selector: metav1.LabelSelector{MatchLabels: map[string]string{"allowed": "yes"}}}
		})
		ns := newNamespace(ctx)
		label := func(value string) {
			GinkgoHelper()
			namespace := &corev1.Namespace{}
			Expect(k8s.Get(ctx, client.ObjectKey{Name: ns}, namespace)).To(Succeed())
			namespace.Labels["allowed"] = value
			Expect(k8s.Update(ctx, namespace)).To(Succeed())
		}
		label("yes")
		store := create(ctx, newStore(ns, class.Name))
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(beReady(), WithTransform(grantsOf, HaveLen(1))))
		label("no")
		refused := And(beStalled(v1alpha1.ReasonClassNotAllowed), WithTransform(grantsOf, BeEmpty()))
		Eventually(read(ctx, store)).WithContext(ctx).Should(refused)
		change(ctx, store, func(s *v1alpha1.EventStore) { s.Spec.ManagementPolicy = v1alpha1.ManagementPaused })
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(refused, HaveField("Status.ObservedGeneration", BeEquivalentTo(2))))

		By("allowing it again, and taking that back while it is paused")
		label("yes")
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(
			haveCondition(v1alpha1.ConditionReady, metav1.ConditionUnknown, v1alpha1.ReasonPaused), WithTransform(grantsOf, HaveLen(1))))
		label("no")
		Eventually(read(ctx, store)).WithContext(ctx).Should(refused)
	})

	It("is not replaced by a stream of another cluster, to which a class is led", func(ctx context.Context) {
		class := newClass(ctx, single.URLs())
		store := create(ctx, newStore(newNamespace(ctx), class.Name))
		Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())
		publish(ctx, api, store, 3)
		recordedMessages(ctx, store, 3)
		other := startNATS(1)
		config := streamInfo(ctx, api, store.EventsStreamName()).Config
		config.Metadata[v1alpha1.MetadataUID], config.Metadata[v1alpha1.MetadataClusterUID], config.Metadata[v1alpha1.MetadataNamespaceUID] = "of-another", "another-cluster", "another-namespace"
		_, err := js(other).CreateStream(ctx, config)
		Expect(err).NotTo(HaveOccurred())
		publish(ctx, js(other), store, 5)
		before := bindingOf(ctx, store).Data
		changeClass(ctx, class, func(c *v1alpha1.EventStoreClass) {
			c.Spec.Servers = []v1alpha1.ServerURL{v1alpha1.ServerURL(other.URL())}
		})
		held := And(beStalled(v1alpha1.ReasonNotGivenBack), WithTransform(grantsOf, BeEmpty()),
			haveCondition(v1alpha1.ConditionDataLoss, metav1.ConditionTrue, v1alpha1.ReasonStreamRecreated))
		Eventually(read(ctx, store)).WithContext(ctx).Should(held)
		annotate(ctx, store, unique("poke"))
		Consistently(read(ctx, store)).WithContext(ctx).WithTimeout(consistentTime).Should(held)
		Expect(bindingOf(ctx, store).Data).To(Equal(before))
		Expect(streamInfo(ctx, js(other), store.EventsStreamName()).State.Msgs).To(BeEquivalentTo(5))
	})

	DescribeTable("is missed when an age that somebody set by hand took it", func(ctx context.Context, hold func(context.Context, *v1alpha1.EventStoreClass, *v1alpha1.EventStore)) {
		class := newClass(ctx, single.URLs())
		store := create(ctx, newStore(newNamespace(ctx), class.Name))
		Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())
		publish(ctx, api, store, 100)
		recordedMessages(ctx, store, 100)
		hold(ctx, class, store)
		config := streamInfo(ctx, api, store.EventsStreamName()).Config
		config.MaxAge, config.Duplicates = time.Second, time.Second
		_, err := api.UpdateStream(ctx, config)
		Expect(err).NotTo(HaveOccurred())
		Eventually(func() uint64 { return streamInfo(ctx, api, store.EventsStreamName()).State.Msgs }).Should(BeZero())
		annotate(ctx, store, unique("poke"))
		Eventually(read(ctx, store)).WithContext(ctx).Should(haveCondition(v1alpha1.ConditionDataLoss, metav1.ConditionTrue, v1alpha1.ReasonStreamPurged))
	},
		Entry("while the store observes", func(ctx context.Context, _ *v1alpha1.EventStoreClass, store *v1alpha1.EventStore) {
			change(ctx, store, func(s *v1alpha1.EventStore) { s.Spec.ManagementPolicy = v1alpha1.ManagementObserve })
			Eventually(read(ctx, store)).WithContext(ctx).Should(haveCondition(v1alpha1.ConditionReady, metav1.ConditionTrue, v1alpha1.ReasonObserved))
		}),
		Entry("while a limit holds the plan back", func(ctx context.Context, class *v1alpha1.EventStoreClass, store *v1alpha1.EventStore) {
			changeClass(ctx, class, func(c *v1alpha1.EventStoreClass) { c.Spec.Limits.Snapshots.History = 1 })
			change(ctx, store, func(s *v1alpha1.EventStore) { s.Spec.Snapshots.History = 2 })
			Eventually(read(ctx, store)).WithContext(ctx).Should(beStalled(v1alpha1.ReasonLimitExceeded))
		}),
	)
})

var _ = Describe("Stores that leave the class to the default", func() {
	It("have no more room together than the class gives", func(ctx context.Context) {
		newClass(ctx, single.URLs(), func(c *v1alpha1.EventStoreClass) {
			c.Annotations = map[string]string{v1alpha1.AnnotationDefaultClass: "true"}
			c.Spec.Limits.PerNamespace.Stores = 2
		})
		ns := newNamespace(ctx)
		const count = 30
		for range count {
			create(ctx, newStore(ns, ""))
		}
		Eventually(func(g Gomega) {
			list := &v1alpha1.EventStoreList{}
			g.Expect(k8s.List(ctx, list, client.InNamespace(ns))).To(Succeed())
			reasons := map[string]int{}
			for i := range list.Items {
				if ready := meta.FindStatusCondition(list.Items[i].Status.Conditions, v1alpha1.ConditionReady); ready != nil {
					reasons[ready.Reason]++
				}
			}
			g.Expect(reasons).To(Equal(map[string]int{v1alpha1.ReasonReady: 2, v1alpha1.ReasonLimitExceeded: count - 2}))
		}).WithContext(ctx).Should(Succeed())
	})
})
