package controller_test

import (
	"context"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
)

func deleteStore(ctx context.Context, store *v1alpha1.EventStore) {
	GinkgoHelper()
	Expect(k8s.Delete(ctx, store)).To(Succeed())
	Eventually(func() bool {
		return k8s.Get(ctx, client.ObjectKeyFromObject(store), &v1alpha1.EventStore{}) != nil
	}).Should(BeTrue())
}

var _ = Describe("Whose a stream is", func() {
	var class *v1alpha1.EventStoreClass
	var api jetstream.JetStream
	BeforeEach(func(ctx context.Context) {
		class = newClass(ctx, single.URLs(), anyEventNamespace)
		api = js(single)
	})
	deletes := func(s *v1alpha1.EventStore) { s.Spec.DeletionPolicy = v1alpha1.DeletionPolicyDelete }

	It("two EventStores that name one stream do not fight", func(ctx context.Context) {
		shared := unique("shared")
		same := func(s *v1alpha1.EventStore) { s.Name, s.Spec.Namespace = "orders", shared }
		winner := create(ctx, newStore(newNamespace(ctx), class.Name, same))
		Eventually(read(ctx, winner)).WithContext(ctx).Should(beReady())
		loser := create(ctx, newStore(newNamespace(ctx), class.Name, same, deletes, func(s *v1alpha1.EventStore) { s.Spec.Retention.MaxAge = "7d" }))
		Eventually(read(ctx, loser)).WithContext(ctx).Should(And(
			beStalled(v1alpha1.ReasonConflict), sayWhy(ContainSubstring(winner.Namespace+"/orders"))))
		Expect(read(ctx, loser)(Default)).To(And(HaveField("Finalizers", BeEmpty()), HaveField("Status.Streams", BeEmpty())))

		state := func(g Gomega) []any {
			return []any{
				read(ctx, winner)(g).ResourceVersion, read(ctx, loser)(g).ResourceVersion,
				streamInfo(ctx, api, winner.EventsStreamName()).Config, streamInfo(ctx, api, winner.SnapshotsStreamName()).Config,
			}
		}
		before := state(Default)
		before[0], before[1] = annotate(ctx, winner, "1"), annotate(ctx, loser, "1")
		Consistently(state).WithTimeout(time.Second).Should(Equal(before))

		deleteStore(ctx, loser)
		Expect(streamInfo(ctx, api, winner.EventsStreamName()).Config.Metadata).To(HaveKeyWithValue(v1alpha1.MetadataUID, string(winner.UID)))
		Expect(read(ctx, winner)(Default)).To(beReady())
	})

	It("goes to the next once the winner has deleted its streams", func(ctx context.Context) {
		shared := unique("shared")
		same := func(s *v1alpha1.EventStore) { s.Name, s.Spec.Namespace = "orders", shared }
		winner := create(ctx, newStore(newNamespace(ctx), class.Name, same, deletes))
		Eventually(read(ctx, winner)).WithContext(ctx).Should(beReady())
		next := create(ctx, newStore(newNamespace(ctx), class.Name, same))
		Eventually(read(ctx, next)).WithContext(ctx).Should(beStalled(v1alpha1.ReasonConflict))
		deleteStore(ctx, winner)
		Eventually(read(ctx, next)).WithContext(ctx).Should(beReady())
		Expect(streamInfo(ctx, api, next.EventsStreamName()).Config.Metadata).To(HaveKeyWithValue(v1alpha1.MetadataUID, string(next.UID)))
	})

	It("stays with a winner that is deleted and retains its streams", func(ctx context.Context) {
		shared := unique("shared")
		same := func(s *v1alpha1.EventStore) { s.Name, s.Spec.Namespace = "orders", shared }
		winner := create(ctx, newStore(newNamespace(ctx), class.Name, same))
		Eventually(read(ctx, winner)).WithContext(ctx).Should(beReady())
		publish(ctx, api, winner, 3)
		loser := create(ctx, newStore(newNamespace(ctx), class.Name, same))
		Eventually(read(ctx, loser)).WithContext(ctx).Should(beStalled(v1alpha1.ReasonConflict))
		deleteStore(ctx, winner)
		Eventually(read(ctx, loser)).WithContext(ctx).Should(And(
			beStalled(v1alpha1.ReasonConflict), sayWhy(ContainSubstring("does not exist any more"))))
		Expect(streamInfo(ctx, api, winner.EventsStreamName())).To(And(
			HaveField("State.Msgs", BeEquivalentTo(3)),
			HaveField("Config.Metadata", HaveKeyWithValue(v1alpha1.MetadataUID, string(winner.UID)))))
	})

	It("is nobody's when it names no owner, and is not touched", func(ctx context.Context) {
		store := newStore(newNamespace(ctx), class.Name, deletes)
		foreign, err := api.CreateStream(ctx, jetstream.StreamConfig{Name: store.SnapshotsStreamName(), Subjects: []string{store.SnapshotsStreamName()}})
		Expect(err).NotTo(HaveOccurred())
		create(ctx, store)
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(
			beStalled(v1alpha1.ReasonNotOwned), sayWhy(ContainSubstring(store.SnapshotsStreamName()))))
		// Nothing half done: the other stream is not there.
		_, err = api.Stream(ctx, store.EventsStreamName())
		Expect(err).To(MatchError(jetstream.ErrStreamNotFound))
		Expect(streamInfo(ctx, api, store.SnapshotsStreamName()).Config).To(Equal(foreign.CachedInfo().Config))
		Expect(read(ctx, store)(Default).Status.Binding).To(BeNil())

		By("taking the way out that the condition tells")
		Expect(api.DeleteStream(ctx, store.SnapshotsStreamName())).To(Succeed())
		Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())
	})
})

var _ = Describe("An EventStore that is deleted", func() {
	deletes := func(s *v1alpha1.EventStore) { s.Spec.DeletionPolicy = v1alpha1.DeletionPolicyDelete }

	It("keeps its data with Retain, and takes it back when applied again", func(ctx context.Context) {
		class := newClass(ctx, single.URLs())
		api := js(single)
		store := create(ctx, newStore(newNamespace(ctx), class.Name))
		Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())
		Expect(read(ctx, store)(Default).Finalizers).To(BeEmpty())
		publish(ctx, api, store, 5)
		deleteStore(ctx, store)
		Expect(streamInfo(ctx, api, store.EventsStreamName()).State.Msgs).To(BeEquivalentTo(5))

		again := create(ctx, newStore(store.Namespace, class.Name, func(s *v1alpha1.EventStore) { s.Name = store.Name }))
		Expect(again.UID).NotTo(Equal(store.UID))
		Eventually(read(ctx, again)).WithContext(ctx).Should(beReady())
		for _, name := range []string{store.EventsStreamName(), store.SnapshotsStreamName()} {
			Expect(streamInfo(ctx, api, name).Config.Metadata).To(HaveKeyWithValue(v1alpha1.MetadataUID, string(again.UID)))
		}
		Expect(read(ctx, again)(Default).Status.Streams[0]).To(And(
			HaveField("Messages", BeEquivalentTo(5)), HaveField("LastSequence", BeEquivalentTo(5))))
	})

	It("keeps what it retained before, also where its class came to delete meanwhile", func(ctx context.Context) {
		class := newClass(ctx, single.URLs())
		api := js(single)
		store := create(ctx, newStore(newNamespace(ctx), class.Name))
		Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())
		publish(ctx, api, store, 5)
		deleteStore(ctx, store)
		changeClass(ctx, class, func(c *v1alpha1.EventStoreClass) { c.Spec.Defaults.DeletionPolicy = v1alpha1.DeletionPolicyDelete })
		again := create(ctx, newStore(store.Namespace, class.Name, func(s *v1alpha1.EventStore) { s.Name = store.Name }))
		Eventually(read(ctx, again)).WithContext(ctx).Should(And(beReady(), HaveField("Finalizers", BeEmpty()),
			HaveField("Status.Effective.DeletionPolicy", v1alpha1.DeletionPolicyRetain)))
		deleteStore(ctx, again)
		Expect(streamInfo(ctx, api, store.EventsStreamName()).State.Msgs).To(BeEquivalentTo(5))

		By("asking for it in the spec")
		last := create(ctx, newStore(store.Namespace, class.Name, deletes, func(s *v1alpha1.EventStore) { s.Name = store.Name }))
		Eventually(read(ctx, last)).WithContext(ctx).Should(And(beReady(), HaveField("Finalizers", ConsistOf(v1alpha1.Finalizer))))
	})

	It("deletes its streams with Delete", func(ctx context.Context) {
		class := newClass(ctx, cluster.URLs())
		api := js(cluster)
		store := create(ctx, newStore(newNamespace(ctx), class.Name, deletes, func(s *v1alpha1.EventStore) { s.Spec.Replicas = 3 }))
		Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())
		Expect(read(ctx, store)(Default).Finalizers).To(ConsistOf(v1alpha1.Finalizer))
		publish(ctx, api, store, 5)
		deleteStore(ctx, store)
		for _, name := range []string{store.EventsStreamName(), store.SnapshotsStreamName()} {
			_, err := api.Stream(ctx, name)
			Expect(err).To(MatchError(jetstream.ErrStreamNotFound))
		}
	})

	It("deletes no stream that carries another's uid", func(ctx context.Context) {
		class := newClass(ctx, single.URLs())
		api := js(single)
		store := create(ctx, newStore(newNamespace(ctx), class.Name, deletes))
		Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())
		config := streamInfo(ctx, api, store.EventsStreamName()).Config
		config.Metadata = map[string]string{v1alpha1.MetadataUID: "other", v1alpha1.MetadataNamespace: "other", v1alpha1.MetadataName: "other"}
		_, err := api.UpdateStream(ctx, config)
		Expect(err).NotTo(HaveOccurred())
		Eventually(read(ctx, store)).WithContext(ctx).Should(beStalled(v1alpha1.ReasonConflict))
		deleteStore(ctx, store)
		streamInfo(ctx, api, store.EventsStreamName())
	})

	It("loses its finalizer when its policy goes back to Retain", func(ctx context.Context) {
		class := newClass(ctx, single.URLs())
		store := create(ctx, newStore(newNamespace(ctx), class.Name))
		Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())
		change(ctx, store, deletes)
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(beReady(), HaveField("Finalizers", ConsistOf(v1alpha1.Finalizer))))
		change(ctx, store, func(s *v1alpha1.EventStore) { s.Spec.DeletionPolicy = v1alpha1.DeletionPolicyRetain })
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(beReady(), HaveField("Finalizers", BeEmpty())))
	})

	It("goes at once with Retain while NATS is down; with Delete it waits and says so", func(ctx context.Context) {
		servers := startNATS(1)
		class := newClass(ctx, servers.URLs())
		ns := newNamespace(ctx)
		retained := create(ctx, newStore(ns, class.Name))
		waits := create(ctx, newStore(ns, class.Name, deletes))
		released := create(ctx, newStore(ns, class.Name, deletes))
		for _, store := range []*v1alpha1.EventStore{retained, waits, released} {
			Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())
		}
		servers.StopNode(0)
		Eventually(read(ctx, waits)).WithContext(ctx).Should(And(
			haveCondition(v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonUnreachable),
			haveCondition(v1alpha1.ConditionConnected, metav1.ConditionFalse, v1alpha1.ReasonUnreachable),
			haveCondition(v1alpha1.ConditionReconciling, metav1.ConditionTrue, v1alpha1.ReasonProgressingWithRetry)))

		// A namespace goes when all that is in it is gone.
		Expect(k8s.DeleteAllOf(ctx, &v1alpha1.EventStore{}, client.InNamespace(ns))).To(Succeed())
		Expect(k8s.Get(ctx, client.ObjectKeyFromObject(retained), &v1alpha1.EventStore{})).NotTo(Succeed())
		Eventually(read(ctx, waits)).WithContext(ctx).Should(And(
			haveCondition(v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonUnreachable),
			sayWhy(And(ContainSubstring("not deleted yet"), ContainSubstring("kubectl patch eventstore "+waits.Name)))))

		By("taking the way out that the condition tells")
		change(ctx, released, func(s *v1alpha1.EventStore) { s.Spec.DeletionPolicy = v1alpha1.DeletionPolicyRetain })
		Eventually(func() error { return k8s.Get(ctx, client.ObjectKeyFromObject(released), &v1alpha1.EventStore{}) }).ShouldNot(Succeed())

		Expect(servers.StartNode(0)).To(Succeed())
		Eventually(func() error { return k8s.Get(ctx, client.ObjectKeyFromObject(waits), &v1alpha1.EventStore{}) }).ShouldNot(Succeed())
		api := js(servers)
		streamInfo(ctx, api, retained.EventsStreamName())
		streamInfo(ctx, api, released.EventsStreamName())
		_, err := api.Stream(ctx, waits.EventsStreamName())
		Expect(err).To(MatchError(jetstream.ErrStreamNotFound))
	})
})
