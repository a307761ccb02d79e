package controller_test

import (
	"context"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
)

// takeStatusAway empties the status of a store, as who restores it from a backup does.
func takeStatusAway(ctx context.Context, store *v1alpha1.EventStore) {
	GinkgoHelper()
	Eventually(func() error {
		current := read(ctx, store)(Default)
		current.Status = v1alpha1.EventStoreStatus{}
		return k8s.Status().Update(ctx, current)
	}).WithContext(ctx).Should(Succeed())
}

// refuseStatuses has the API server refuse the statuses of EventStores of a namespace, until
// what it gives is called.
func refuseStatuses(ctx context.Context, namespace string) (again func()) {
	GinkgoHelper()
	return refuseStatusesIf(ctx, namespace, "true", func(s *v1alpha1.EventStoreStatus) { s.ClassName = "x" })
}

// refuseStatusesIf is refuseStatuses for those of which an expression in CEL is true, as it is
// of the one that such makes.
func refuseStatusesIf(ctx context.Context, namespace, expression string, such func(*v1alpha1.EventStoreStatus)) (again func()) {
	GinkgoHelper()
	name := unique("no-status")
	policy := &admissionv1.ValidatingAdmissionPolicy{ObjectMeta: metav1.ObjectMeta{Name: name}}
	policy.Spec.FailurePolicy = new(admissionv1.Fail)
	policy.Spec.MatchConstraints = &admissionv1.MatchResources{ResourceRules: []admissionv1.NamedRuleWithOperations{{RuleWithOperations: admissionv1.RuleWithOperations{
		Operations: []admissionv1.OperationType{admissionv1.Update},
		Rule:       admissionv1.Rule{APIGroups: []string{v1alpha1.GroupVersion.Group}, APIVersions: []string{"*"}, Resources: []string{"eventstores/status"}},
	}}}}
	policy.Spec.Validations = []admissionv1.Validation{{
		Expression: "object.metadata.namespace != '" + namespace + "' || !(" + expression + ")", Message: "not now",
	}}
	Expect(k8s.Create(ctx, policy)).To(Succeed())
	binding := &admissionv1.ValidatingAdmissionPolicyBinding{ObjectMeta: metav1.ObjectMeta{Name: name}}
	binding.Spec.PolicyName, binding.Spec.ValidationActions = name, []admissionv1.ValidationAction{admissionv1.Deny}
	Expect(k8s.Create(ctx, binding)).To(Succeed())
	again = func() {
		Expect(client.IgnoreNotFound(k8s.Delete(context.Background(), binding))).To(Succeed())
		Expect(client.IgnoreNotFound(k8s.Delete(context.Background(), policy))).To(Succeed())
	}
	DeferCleanup(again)
	// The API server takes a moment to see it.
	probe := create(ctx, newStore(namespace, "none-at-all"))
	Eventually(func() error {
		current := read(ctx, probe)(Default)
		such(&current.Status)
		return k8s.Status().Update(ctx, current, client.DryRunAll)
	}).WithContext(ctx).Should(MatchError(ContainSubstring("not now")))
	return again
}

var _ = Describe("What a store retains", func() {
	var api jetstream.JetStream
	var class *v1alpha1.EventStoreClass
	var store *v1alpha1.EventStore
	BeforeEach(func(ctx context.Context) {
		api = js(single)
		class = newClass(ctx, single.URLs())
		store = create(ctx, newStore(newNamespace(ctx), class.Name))
		Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())
		publish(ctx, api, store, 3)
		recordedMessages(ctx, store, 3)
	})
	byDefaultDelete := func(c *v1alpha1.EventStoreClass) {
		c.Spec.Defaults.DeletionPolicy = v1alpha1.DeletionPolicyDelete
	}
	deletes := func(s *v1alpha1.EventStore) { s.Spec.DeletionPolicy = v1alpha1.DeletionPolicyDelete }
	marked := func(ctx context.Context) func() []string {
		return func() []string {
			return []string{
				streamInfo(ctx, api, store.EventsStreamName()).Config.Metadata[v1alpha1.MetadataDeletionPolicy],
				streamInfo(ctx, api, store.SnapshotsStreamName()).Config.Metadata[v1alpha1.MetadataDeletionPolicy],
			}
		}
	}
	retains := And(beReady(), HaveField("Finalizers", BeEmpty()), HaveField("Status.Effective.DeletionPolicy", v1alpha1.DeletionPolicyRetain))

	It("is marked in the streams, and so is what the spec asks for then", func(ctx context.Context) {
		Expect(marked(ctx)()).To(Equal([]string{"Retain", "Retain"}))
		change(ctx, store, deletes)
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(beReady(), HaveField("Finalizers", ConsistOf(v1alpha1.Finalizer))))
		Expect(marked(ctx)()).To(Equal([]string{"Delete", "Delete"}))

		By("editing the mark by hand")
		config := streamInfo(ctx, api, store.EventsStreamName()).Config
		config.Metadata[v1alpha1.MetadataDeletionPolicy] = "Retain"
		_, err := api.UpdateStream(ctx, config)
		Expect(err).NotTo(HaveOccurred())
		Eventually(marked(ctx)).Should(Equal([]string{"Delete", "Delete"}))
	})

	It("stays when the pass that takes it back cannot write the status, and the class came to delete", func(ctx context.Context) {
		deleteStore(ctx, store)
		changeClass(ctx, class, byDefaultDelete)
		accepted := refuseStatuses(ctx, store.Namespace)
		again := create(ctx, newStore(store.Namespace, class.Name, func(s *v1alpha1.EventStore) { s.Name = store.Name }))
		Eventually(func() string {
			return streamInfo(ctx, api, store.SnapshotsStreamName()).Config.Metadata[v1alpha1.MetadataUID]
		}).Should(Equal(string(again.UID)))
		accepted()
		Eventually(read(ctx, again)).WithContext(ctx).WithTimeout(time.Minute).Should(retains)
		deleteStore(ctx, again)
		Expect(streamInfo(ctx, api, store.EventsStreamName()).State.Msgs).To(BeEquivalentTo(3))
	})

	It("stays when it is given to a store of another namespace, and the class came to delete", func(ctx context.Context) {
		deleteStore(ctx, store)
		moved := newStore(newNamespace(ctx), class.Name, func(s *v1alpha1.EventStore) { s.Name, s.Spec.Namespace = store.Name, store.Namespace })
		changeClass(ctx, class, func(c *v1alpha1.EventStoreClass) {
			anyEventNamespace(c)
			byDefaultDelete(c)
			giveBack(moved)(c)
		})
		create(ctx, moved)
		Eventually(read(ctx, moved)).WithContext(ctx).WithTimeout(time.Minute).Should(retains)
		deleteStore(ctx, moved)
		Expect(streamInfo(ctx, api, store.EventsStreamName()).State.Msgs).To(BeEquivalentTo(3))
	})

	It("stays when the status was taken away, and the class came to delete", func(ctx context.Context) {
		changeClass(ctx, class, byDefaultDelete)
		Eventually(readClass(ctx, class)).WithContext(ctx).Should(And(beReady(), HaveField("Status.ObservedGeneration", BeEquivalentTo(2))))
		Eventually(read(ctx, store)).WithContext(ctx).Should(retains)
		takeStatusAway(ctx, store)
		change(ctx, store, func(s *v1alpha1.EventStore) { s.Spec.Retention.MaxAge = "366d" })
		Eventually(read(ctx, store)).WithContext(ctx).Should(retains)
		deleteStore(ctx, store)
		Expect(streamInfo(ctx, api, store.EventsStreamName()).State.Msgs).To(BeEquivalentTo(3))
	})

	It("stays when the status was taken away with a stream, and the class came to delete", func(ctx context.Context) {
		changeClass(ctx, class, byDefaultDelete)
		Eventually(readClass(ctx, class)).WithContext(ctx).Should(And(beReady(), HaveField("Status.ObservedGeneration", BeEquivalentTo(2))))
		takeStatusAway(ctx, store)
		Expect(api.DeleteStream(ctx, store.EventsStreamName())).To(Succeed())
		Expect(api.DeleteStream(ctx, store.SnapshotsStreamName())).To(Succeed())
		annotate(ctx, store, unique("poke"))
		lost := And(beStalled(v1alpha1.ReasonStreamMissing), haveCondition(v1alpha1.ConditionDataLoss, metav1.ConditionTrue, v1alpha1.ReasonStreamMissing),
			HaveField("Finalizers", BeEmpty()), HaveField("Status.Effective.DeletionPolicy", v1alpha1.DeletionPolicyRetain), HaveField("Status.Streams", HaveLen(2)))
		Eventually(read(ctx, store)).WithContext(ctx).Should(lost)

		By("taking the status away once more: the loss is told again")
		takeStatusAway(ctx, store)
		annotate(ctx, store, unique("poke"))
		Eventually(read(ctx, store)).WithContext(ctx).Should(lost)
		_, err := api.Stream(ctx, store.EventsStreamName())
		Expect(err).To(MatchError(jetstream.ErrStreamNotFound))

		By("accepting it: what was lost is not told again, whatever becomes of the status")
		change(ctx, store, accept)
		Eventually(read(ctx, store)).WithContext(ctx).Should(retains)
		takeStatusAway(ctx, store)
		annotate(ctx, store, unique("poke"))
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(retains, haveNoCondition(v1alpha1.ConditionDataLoss)))
	})

	It("is told as lost when the status was taken away and snapshots are there still", func(ctx context.Context) {
		_, err := api.Publish(ctx, store.EventsStreamName()+".snapshots.order.order-1", []byte("{}"))
		Expect(err).NotTo(HaveOccurred())
		takeStatusAway(ctx, store)
		Expect(api.DeleteStream(ctx, store.EventsStreamName())).To(Succeed())
		annotate(ctx, store, unique("poke"))
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(beStalled(v1alpha1.ReasonStreamMissing), sayWhy(ContainSubstring("it held 3 messages up to sequence 3"))))
		change(ctx, store, accept)
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(beReady(), HaveField("Status.Streams", HaveLen(2))))
	})

	It("is in every status that says Ready", func(ctx context.Context) {
		takeStatusAway(ctx, store)
		annotate(ctx, store, unique("poke"))
		Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())
		Expect(read(ctx, store)(Default)).To(And(retains, HaveField("Status.Streams", HaveLen(2))))
	})
})
