package controller_test

import (
	"context"

	"github.com/nats-io/nats.go/jetstream"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
)

func anyEventNamespace(c *v1alpha1.EventStoreClass) {
	c.Spec.Tenancy.EventNamespaces = v1alpha1.EventNamespacesAny
}

func allowAdoption(c *v1alpha1.EventStoreClass) {
	c.Spec.Tenancy.Adoption = v1alpha1.AdoptionAllowed
}

func giveBack(store *v1alpha1.EventStore) func(*v1alpha1.EventStoreClass) {
	return func(c *v1alpha1.EventStoreClass) {
		c.Spec.Tenancy.GiveBack = append(c.Spec.Tenancy.GiveBack, v1alpha1.StoreReference{Namespace: store.Namespace, Name: store.Name})
	}
}

// recycle deletes a namespace for good and makes another of that name, as the
// namespace controller of a whole cluster lets one do.
func recycle(ctx context.Context, name string) {
	GinkgoHelper()
	namespace := &corev1.Namespace{}
	Expect(k8s.Get(ctx, client.ObjectKey{Name: name}, namespace)).To(Succeed())
	Expect(k8s.Delete(ctx, namespace)).To(Succeed())
	Expect(k8s.Get(ctx, client.ObjectKey{Name: name}, namespace)).To(Succeed())
	namespace.Spec.Finalizers = nil
	Expect(k8s.SubResource("finalize").Update(ctx, namespace)).To(Succeed())
	Eventually(func() error { return k8s.Get(ctx, client.ObjectKey{Name: name}, namespace) }).ShouldNot(Succeed())
	Expect(k8s.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}})).To(Succeed())
}

var _ = Describe("Tenancy", func() {
	deletes := func(s *v1alpha1.EventStore) { s.Spec.DeletionPolicy = v1alpha1.DeletionPolicyDelete }
	adopts := func(s *v1alpha1.EventStore) { s.Spec.AdoptionPolicy = v1alpha1.AdoptionAdopt }
	var api jetstream.JetStream
	BeforeEach(func() { api = js(single) })
	messages := func(ctx context.Context, name string) uint64 { return streamInfo(ctx, api, name).State.Msgs }
	// ledger is a stream that somebody else in the account made, with three messages.
	ledger := func(ctx context.Context, name string) jetstream.StreamConfig {
		GinkgoHelper()
		made, err := api.CreateStream(ctx, jetstream.StreamConfig{Name: name, Subjects: []string{name + ".tx.>"}})
		Expect(err).NotTo(HaveOccurred())
		for range 3 {
			_, err := api.Publish(ctx, name+".tx.1", []byte("{}"))
			Expect(err).NotTo(HaveOccurred())
		}
		return made.CachedInfo().Config
	}
	untouched := func(ctx context.Context, config jetstream.StreamConfig) {
		GinkgoHelper()
		Expect(streamInfo(ctx, api, config.Name)).To(And(HaveField("Config", config), HaveField("State.Msgs", BeEquivalentTo(3))))
	}

	It("is closed: a store takes over no stream of the account, by another event namespace or its own", func(ctx context.Context) {
		class := newClass(ctx, single.URLs())
		billing, evil := unique("billing"), newNamespace(ctx)
		foreign := ledger(ctx, billing+"_ledger")
		reaching := create(ctx, newStore(evil, class.Name, adopts, deletes, func(s *v1alpha1.EventStore) { s.Name, s.Spec.Namespace = "ledger", billing }))
		Eventually(read(ctx, reaching)).WithContext(ctx).Should(And(beStalled(v1alpha1.ReasonTenancyForbidden),
			sayWhy(And(ContainSubstring("spec.namespace is "+billing), ContainSubstring("spec.tenancy.eventNamespaces")))))
		untouched(ctx, foreign)

		at := newStore(evil, class.Name, adopts, deletes)
		own := ledger(ctx, at.EventsStreamName())
		create(ctx, at)
		Eventually(read(ctx, at)).WithContext(ctx).Should(And(beStalled(v1alpha1.ReasonTenancyForbidden), sayWhy(ContainSubstring("spec.tenancy.adoption"))))
		for _, store := range []*v1alpha1.EventStore{reaching, at} {
			Expect(read(ctx, store)(Default)).To(And(HaveField("Finalizers", BeEmpty()), HaveField("Status.Binding", BeNil())))
			deleteStore(ctx, store)
		}
		untouched(ctx, foreign)
		untouched(ctx, own)
	})

	It("lets nobody squat a name: the store of the namespace itself is made, whoever was first", func(ctx context.Context) {
		class := newClass(ctx, single.URLs())
		team, evil := newNamespace(ctx), newNamespace(ctx)
		invoices := func(s *v1alpha1.EventStore) { s.Name, s.Spec.Namespace = "invoices", team }
		squatter := create(ctx, newStore(evil, class.Name, invoices))
		paused := create(ctx, newStore(newNamespace(ctx), class.Name, invoices, func(s *v1alpha1.EventStore) { s.Spec.ManagementPolicy = v1alpha1.ManagementPaused }))
		Eventually(read(ctx, squatter)).WithContext(ctx).Should(beStalled(v1alpha1.ReasonTenancyForbidden))
		Eventually(read(ctx, paused)).WithContext(ctx).Should(haveCondition(v1alpha1.ConditionReady, metav1.ConditionUnknown, v1alpha1.ReasonPaused))
		own := create(ctx, newStore(team, class.Name, func(s *v1alpha1.EventStore) { s.Name = "invoices" }, deletes))
		Eventually(read(ctx, own)).WithContext(ctx).Should(beReady())

		By("deleting it with its streams: the name goes to nobody else")
		deleteStore(ctx, own)
		annotate(ctx, squatter, "again")
		Consistently(read(ctx, squatter)).WithContext(ctx).WithTimeout(consistentTime).Should(beStalled(v1alpha1.ReasonTenancyForbidden))
		_, err := api.Stream(ctx, own.EventsStreamName())
		Expect(err).To(MatchError(jetstream.ErrStreamNotFound))
	})

	It("gives the name of a stream that was lost to nobody else, whoever was first", func(ctx context.Context) {
		class := newClass(ctx, single.URLs())
		team := newNamespace(ctx)
		elder := create(ctx, newStore(newNamespace(ctx), class.Name, func(s *v1alpha1.EventStore) { s.Name, s.Spec.Namespace = "invoices", team }))
		Eventually(read(ctx, elder)).WithContext(ctx).Should(beStalled(v1alpha1.ReasonTenancyForbidden))
		own := create(ctx, newStore(team, class.Name, func(s *v1alpha1.EventStore) { s.Name = "invoices" }))
		Eventually(read(ctx, own)).WithContext(ctx).Should(beReady())
		publish(ctx, api, own, 3)
		recordedMessages(ctx, own, 3)
		changeClass(ctx, class, anyEventNamespace)
		Eventually(read(ctx, elder)).WithContext(ctx).Should(beStalled(v1alpha1.ReasonConflict))
		for _, name := range []string{own.SnapshotsStreamName(), own.EventsStreamName()} {
			Expect(api.DeleteStream(ctx, name)).To(Succeed())
		}
		Eventually(read(ctx, own)).WithContext(ctx).Should(beStalled(v1alpha1.ReasonStreamMissing))
		annotate(ctx, elder, "again")
		Consistently(read(ctx, elder)).WithContext(ctx).WithTimeout(consistentTime).Should(beStalled(v1alpha1.ReasonConflict))
		_, err := api.Stream(ctx, own.EventsStreamName())
		Expect(err).To(MatchError(jetstream.ErrStreamNotFound))
	})

	It("keeps what there is when a class becomes stricter, and gives what a deleted store had back by the platform's word", func(ctx context.Context) {
		class := newClass(ctx, single.URLs(), anyEventNamespace)
		team := newNamespace(ctx)
		first := create(ctx, newStore(newNamespace(ctx), class.Name, func(s *v1alpha1.EventStore) { s.Name, s.Spec.Namespace = "invoices", team }))
		Eventually(read(ctx, first)).WithContext(ctx).Should(beReady())
		publish(ctx, api, first, 3)
		changeClass(ctx, class, func(c *v1alpha1.EventStoreClass) { c.Spec.Tenancy = v1alpha1.Tenancy{} })
		change(ctx, first, func(s *v1alpha1.EventStore) { s.Spec.Retention.MaxAge = "400d" })
		Eventually(read(ctx, first)).WithContext(ctx).Should(beReady())
		own := create(ctx, newStore(team, class.Name, func(s *v1alpha1.EventStore) { s.Name = "invoices" }, deletes))
		changeClass(ctx, class, giveBack(own))
		Eventually(read(ctx, own)).WithContext(ctx).Should(beStalled(v1alpha1.ReasonConflict), "the first exists")

		By("deleting the first, which keeps its streams")
		changeClass(ctx, class, func(c *v1alpha1.EventStoreClass) { c.Spec.Tenancy = v1alpha1.Tenancy{} })
		deleteStore(ctx, first)
		Eventually(read(ctx, own)).WithContext(ctx).Should(And(beStalled(v1alpha1.ReasonConflict),
			sayWhy(And(ContainSubstring("does not exist any more"), ContainSubstring("spec.tenancy.giveBack")))))
		changeClass(ctx, class, giveBack(own))
		Eventually(read(ctx, own)).WithContext(ctx).Should(beReady())
		Expect(messages(ctx, own.EventsStreamName())).To(BeEquivalentTo(3))
	})

	It("does not hand the streams of an earlier namespace to the next one of that name", func(ctx context.Context) {
		class := newClass(ctx, single.URLs())
		payroll := newNamespace(ctx)
		salaries := func(s *v1alpha1.EventStore) { s.Name = "salaries" }
		first := create(ctx, newStore(payroll, class.Name, salaries))
		Eventually(read(ctx, first)).WithContext(ctx).Should(beReady())
		publish(ctx, api, first, 3)
		deleteStore(ctx, first)
		recycle(ctx, payroll)

		next := create(ctx, newStore(payroll, class.Name, salaries, deletes))
		Eventually(read(ctx, next)).WithContext(ctx).Should(And(beStalled(v1alpha1.ReasonNotGivenBack),
			sayWhy(And(ContainSubstring("spec.tenancy.giveBack"), ContainSubstring("{namespace: "+payroll+", name: salaries}")))))
		Expect(read(ctx, next)(Default).Status.Binding).To(BeNil())
		deleteStore(ctx, next)
		Expect(messages(ctx, first.EventsStreamName())).To(BeEquivalentTo(3))

		By("giving them back, one by one")
		again := create(ctx, newStore(payroll, class.Name, salaries))
		Eventually(read(ctx, again)).WithContext(ctx).Should(beStalled(v1alpha1.ReasonNotGivenBack))
		changeClass(ctx, class, giveBack(again))
		Eventually(read(ctx, again)).WithContext(ctx).Should(beReady())
		Expect(streamInfo(ctx, api, again.EventsStreamName())).To(And(HaveField("State.Msgs", BeEquivalentTo(3)),
			HaveField("Config.Metadata", HaveKeyWithValue(v1alpha1.MetadataUID, string(again.UID)))))
	})

	It("gives them back by name where the class says so", func(ctx context.Context) {
		class := newClass(ctx, single.URLs(), func(c *v1alpha1.EventStoreClass) { c.Spec.Tenancy.TakeBack = v1alpha1.TakeBackByName })
		store := create(ctx, newStore(newNamespace(ctx), class.Name))
		Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())
		publish(ctx, api, store, 3)
		deleteStore(ctx, store)
		recycle(ctx, store.Namespace)
		again := create(ctx, newStore(store.Namespace, class.Name, func(s *v1alpha1.EventStore) { s.Name = store.Name }))
		Eventually(read(ctx, again)).WithContext(ctx).Should(beReady())
		Expect(messages(ctx, store.EventsStreamName())).To(BeEquivalentTo(3))
	})

	It("adds to what is ours what an earlier operator did not write, and changes nothing else", func(ctx context.Context) {
		store := create(ctx, newStore(newNamespace(ctx), newClass(ctx, single.URLs()).Name))
		Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())
		publish(ctx, api, store, 3)
		config := streamInfo(ctx, api, store.EventsStreamName()).Config
		namespaceUID := config.Metadata[v1alpha1.MetadataNamespaceUID]
		Expect(namespaceUID).NotTo(BeEmpty())
		delete(config.Metadata, v1alpha1.MetadataNamespaceUID)
		delete(config.Metadata, v1alpha1.MetadataClusterUID)
		_, err := api.UpdateStream(ctx, config)
		Expect(err).NotTo(HaveOccurred())
		Eventually(func() *jetstream.StreamInfo { return streamInfo(ctx, api, store.EventsStreamName()) }).Should(And(
			HaveField("State.Msgs", BeEquivalentTo(3)), HaveField("Config.Metadata", HaveKeyWithValue(v1alpha1.MetadataNamespaceUID, namespaceUID))))
		Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())
	})
})
