package controller_test

import (
	"context"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	gomegatypes "github.com/onsi/gomega/types"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
)

// What a message tells a person to do is what helps.
var _ = Describe("A message", func() {
	DescribeTable("names the field that keeps streams from being placed",
		func(ctx context.Context, ask func(*v1alpha1.EventStore), reason string, way gomegatypes.GomegaMatcher) {
			store := create(ctx, newStore(newNamespace(ctx), newClass(ctx, cluster.URLs()).Name, ask))
			Eventually(read(ctx, store)).WithContext(ctx).Should(And(beStalled(reason), sayWhy(way)))
		},
		Entry("a cluster", func(s *v1alpha1.EventStore) { s.Spec.Placement = &v1alpha1.Placement{Cluster: "nope"} },
			v1alpha1.ReasonInsufficientPeers, ContainSubstring("spec.placement.cluster")),
		Entry("tags", func(s *v1alpha1.EventStore) { s.Spec.Placement = &v1alpha1.Placement{Tags: []string{"ssd"}} },
			v1alpha1.ReasonInsufficientPeers, ContainSubstring("spec.placement.tags")),
		Entry("bytes", func(s *v1alpha1.EventStore) { s.Spec.Retention.MaxBytes = quantity("1Ei") },
			v1alpha1.ReasonOutOfStorage, ContainSubstring("maxBytes")),
	)

	It("about a connection that is lost names the servers", func(ctx context.Context) {
		servers := startNATS(1)
		store := create(ctx, newStore(newNamespace(ctx), newClass(ctx, servers.URLs()).Name))
		Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())
		servers.StopNode(0)
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(
			haveCondition(v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonUnreachable), sayWhy(ContainSubstring(servers.URLs()[0]))))
	})

	It("about a binding that somebody made immutable says to delete it, and it is written again", func(ctx context.Context) {
		class := newClass(ctx, single.URLs())
		store := create(ctx, newStore(newNamespace(ctx), class.Name))
		Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())
		binding := &corev1.Secret{}
		Expect(k8s.Get(ctx, client.ObjectKey{Namespace: store.Namespace, Name: store.Name + "-eventstore"}, binding)).To(Succeed())
		binding.Immutable = new(true)
		Expect(k8s.Update(ctx, binding)).To(Succeed())
		changeClass(ctx, class, func(c *v1alpha1.EventStoreClass) {
			c.Spec.Workloads.Servers = []v1alpha1.ServerURL{"nats://elsewhere:4222"}
		})
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(beStalled(v1alpha1.ReasonBindingConflict), sayWhy(ContainSubstring("immutable"))))
		Expect(k8s.Delete(ctx, binding)).To(Succeed())
		Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())
	})

	It("tells who lists service accounts that the class does not ask for them", func(ctx context.Context) {
		class := newClass(ctx, single.URLs())
		store := create(ctx, newStore(newNamespace(ctx), class.Name, func(s *v1alpha1.EventStore) {
			s.Spec.Access = []v1alpha1.AccessEntry{{ServiceAccount: "checkout"}}
		}))
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(beReady(),
			haveCondition(v1alpha1.ConditionAccessIgnored, metav1.ConditionTrue, v1alpha1.ReasonAccessNotEnforced)))
		Eventually(eventsAbout(ctx, store)).Should(ContainElement(And(HaveField("Type", "Warning"), HaveField("Reason", v1alpha1.ReasonAccessNotEnforced))))
		change(ctx, store, func(s *v1alpha1.EventStore) { s.Spec.Access = nil })
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(beReady(), haveNoCondition(v1alpha1.ConditionAccessIgnored)))
	})

	It("about the namespaces that a class allows is told by the class", func(ctx context.Context) {
		class := newClass(ctx, single.URLs(), func(c *v1alpha1.EventStoreClass) {
			c.Spec.AllowedNamespaces = &v1alpha1.AllowedNamespaces{Selector: metav1.LabelSelector{MatchLabels: map[string]string{"no label": "a"}}}
		})
		Eventually(readClass(ctx, class)).WithContext(ctx).Should(And(beStalled(v1alpha1.ReasonInvalidSpec), sayWhy(ContainSubstring("spec.allowedNamespaces.selector"))))
	})

	It("about a class that is gone does not tell a store that is being deleted to be applied again", func(ctx context.Context) {
		class := newClass(ctx, single.URLs())
		store := create(ctx, newStore(newNamespace(ctx), class.Name, func(s *v1alpha1.EventStore) { s.Spec.DeletionPolicy = v1alpha1.DeletionPolicyDelete }))
		Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())
		Expect(k8s.Delete(ctx, class)).To(Succeed())
		Expect(k8s.Delete(ctx, store)).To(Succeed())
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(beStalled(v1alpha1.ReasonClassNotFound),
			sayWhy(And(ContainSubstring("so that the streams can be deleted"), Not(ContainSubstring("apply it again"))))))
		change(ctx, store, func(s *v1alpha1.EventStore) { s.Spec.DeletionPolicy = v1alpha1.DeletionPolicyRetain })
		Eventually(func() error { return k8s.Get(ctx, client.ObjectKeyFromObject(store), &v1alpha1.EventStore{}) }).ShouldNot(Succeed())
	})
})
