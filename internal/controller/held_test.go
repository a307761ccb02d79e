package controller_test

import (
	"context"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
)

var _ = Describe("An EventStore that is held back", func() {
	var class *v1alpha1.EventStoreClass
	var api jetstream.JetStream
	var store *v1alpha1.EventStore
	held := beStalled(v1alpha1.ReasonWouldDestroyEvents)
	BeforeEach(func(ctx context.Context) {
		class, api = newClass(ctx, single.URLs()), js(single)
		store = create(ctx, newStore(newNamespace(ctx), class.Name))
		Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())
	})
	hold := func(ctx context.Context) {
		GinkgoHelper()
		publish(ctx, api, store, 3)
		recordedMessages(ctx, store, 3)
		olderThanASecond(ctx, api, store.EventsStreamName())
		change(ctx, store, func(s *v1alpha1.EventStore) { s.Spec.Retention.MaxAge = "1s" })
		Eventually(read(ctx, store)).WithContext(ctx).Should(held)
	}
	deleteBinding := func(ctx context.Context) {
		GinkgoHelper()
		Expect(k8s.Delete(ctx, bindingOf(ctx, store))).To(Succeed())
	}
	bound := func(ctx context.Context) {
		GinkgoHelper()
		Eventually(func() error {
			return k8s.Get(ctx, client.ObjectKey{Namespace: store.Namespace, Name: v1alpha1.BindingName(store.Name)}, &corev1.Secret{})
		}).Should(Succeed())
	}

	It("keeps its binding, and gets one when it is applied anew", func(ctx context.Context) {
		hold(ctx)
		deleteBinding(ctx)
		bound(ctx)
		changeClass(ctx, class, func(c *v1alpha1.EventStoreClass) {
			c.Spec.Workloads.Servers = []v1alpha1.ServerURL{"nats://elsewhere:4222"}
		})
		Eventually(func() map[string][]byte { return bindingOf(ctx, store).Data }).Should(HaveKeyWithValue("servers", []byte("nats://elsewhere:4222")))
		Expect(read(ctx, store)(Default)).To(held)

		deleteStore(ctx, store)
		deleteBinding(ctx)
		store = create(ctx, newStore(store.Namespace, class.Name, func(s *v1alpha1.EventStore) { s.Name, s.Spec.Retention.MaxAge = store.Name, "1s" }))
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(held, HaveField("Status.Binding", Not(BeNil()))))
		bound(ctx)
	})

	It("with an impossible change keeps its binding", func(ctx context.Context) {
		deleteStore(ctx, store)
		store = create(ctx, newStore(store.Namespace, class.Name, func(s *v1alpha1.EventStore) { s.Name, s.Spec.Storage = store.Name, v1alpha1.StorageMemory }))
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(beStalled(v1alpha1.ReasonImpossibleChange), HaveField("Status.Binding", Not(BeNil()))))
		deleteBinding(ctx)
		bound(ctx)
	})

	It("with a spec that cannot be keeps its binding, and tells of a loss", func(ctx context.Context) {
		publish(ctx, api, store, 3)
		recordedMessages(ctx, store, 3)
		change(ctx, store, func(s *v1alpha1.EventStore) { s.Spec.DeletionPolicy = v1alpha1.DeletionPolicyDelete })
		Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())
		By("making it immutable by hand")
		config := streamInfo(ctx, api, store.EventsStreamName()).Config
		config.DenyDelete, config.DenyPurge = true, true
		_, err := api.UpdateStream(ctx, config)
		Expect(err).NotTo(HaveOccurred())
		Eventually(read(ctx, store)).WithContext(ctx).Should(beStalled(v1alpha1.ReasonInvalidSpec))
		deleteBinding(ctx)
		bound(ctx)
		Expect(read(ctx, store)(Default)).To(beStalled(v1alpha1.ReasonInvalidSpec))
		Expect(api.DeleteStream(ctx, store.EventsStreamName())).To(Succeed())
		Eventually(read(ctx, store)).WithContext(ctx).Should(haveCondition(v1alpha1.ConditionDataLoss, metav1.ConditionTrue, v1alpha1.ReasonStreamMissing))
	})

	It("for a loss keeps its binding, also where both streams are gone", func(ctx context.Context) {
		publish(ctx, api, store, 3)
		recordedMessages(ctx, store, 3)
		for _, name := range []string{store.SnapshotsStreamName(), store.EventsStreamName()} {
			Expect(api.DeleteStream(ctx, name)).To(Succeed())
		}
		Eventually(read(ctx, store)).WithContext(ctx).Should(beStalled(v1alpha1.ReasonStreamMissing))
		deleteBinding(ctx)
		bound(ctx)
		Expect(read(ctx, store)(Default)).To(beStalled(v1alpha1.ReasonStreamMissing))
	})

	It("has live figures, and is guarded by them", func(ctx context.Context) {
		hold(ctx)
		publish(ctx, api, store, 5)
		recordedMessages(ctx, store, 8)
		Expect(read(ctx, store)(Default)).To(And(held, sayWhy(ContainSubstring("of 8 messages"))))
		Expect(api.DeleteStream(ctx, store.EventsStreamName())).To(Succeed())
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(
			beStalled(v1alpha1.ReasonStreamMissing), sayWhy(ContainSubstring("8 messages up to sequence 8"))))
	})

	It("says no more that it is, once it may only look", func(ctx context.Context) {
		hold(ctx)
		change(ctx, store, func(s *v1alpha1.EventStore) { s.Spec.ManagementPolicy = v1alpha1.ManagementObserve })
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(beStalled(v1alpha1.ReasonObserved), haveNoCondition(v1alpha1.ConditionDataLossPrevented)))
		change(ctx, store, func(s *v1alpha1.EventStore) { s.Spec.Retention.MaxAge = "365d" })
		Eventually(read(ctx, store)).WithContext(ctx).Should(haveCondition(v1alpha1.ConditionReady, metav1.ConditionTrue, v1alpha1.ReasonObserved))
	})

	It("does not write its status for each event", func(ctx context.Context) {
		hold(ctx)
		publish(ctx, api, store, 97)
		recordedMessages(ctx, store, 100)
		before := annotate(ctx, store, "before")
		Eventually(func(g Gomega) string { return read(ctx, store)(g).ResourceVersion }).Should(Equal(before))
		publish(ctx, api, store, 1)
		version := annotate(ctx, store, "1")
		Consistently(func(g Gomega) string { return read(ctx, store)(g).ResourceVersion }).WithTimeout(consistentTime).Should(Equal(version))
	})

	It("after it was applied anew tells that it took its streams back when it has, and not before", func(ctx context.Context) {
		publish(ctx, api, store, 3)
		olderThanASecond(ctx, api, store.EventsStreamName())
		deleteStore(ctx, store)
		store = create(ctx, newStore(store.Namespace, class.Name, func(s *v1alpha1.EventStore) { s.Name, s.Spec.Retention.MaxAge = store.Name, "1s" }))
		Eventually(read(ctx, store)).WithContext(ctx).Should(held)
		takenBack := anEvent("Normal", "EventsStreamTakenBack", ContainSubstring("with its 3 messages"))
		Eventually(toldOf(ctx, store)).Should(ContainElement(HaveField("Reason", v1alpha1.ReasonWouldDestroyEvents)))
		annotate(ctx, store, "1")
		Consistently(toldOf(ctx, store)).WithTimeout(consistentTime).ShouldNot(ContainElement(takenBack))
		change(ctx, store, func(s *v1alpha1.EventStore) { s.Spec.Retention.MaxAge = "365d" })
		Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())
		Eventually(toldOf(ctx, store)).Should(ContainElement(takenBack))
	})
})

var _ = Describe("Events of Kubernetes lose no text", func() {
	var class *v1alpha1.EventStoreClass
	var api jetstream.JetStream
	BeforeEach(func(ctx context.Context) { class, api = newClass(ctx, single.URLs()), js(single) })
	edit := func(ctx context.Context, name string, edit func(*jetstream.StreamConfig)) {
		GinkgoHelper()
		config := streamInfo(ctx, api, name).Config
		want := streamInfo(ctx, api, name).Config
		edit(&config)
		_, err := api.UpdateStream(ctx, config)
		Expect(err).NotTo(HaveOccurred())
		Eventually(func() jetstream.StreamConfig { return streamInfo(ctx, api, name).Config }).Should(Equal(want))
	}
	count := func(events []eventsv1.Event, reason, note string) int {
		found := 0
		for _, e := range events {
			if e.Reason == reason && strings.Contains(e.Note, note) {
				found++
			}
		}
		return found
	}

	It("about what others change, one after the other and together", func(ctx context.Context) {
		store := create(ctx, newStore(newNamespace(ctx), class.Name))
		Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())
		name := store.EventsStreamName()
		edit(ctx, name, func(c *jetstream.StreamConfig) { c.Description = "edited" })
		edit(ctx, name, func(c *jetstream.StreamConfig) { c.MaxAge = 400 * 24 * time.Hour })
		edit(ctx, name, func(c *jetstream.StreamConfig) { c.MaxAge = 500 * 24 * time.Hour })
		edit(ctx, name, func(c *jetstream.StreamConfig) { c.MaxMsgs, c.MaxConsumers = 7, 7 })
		edit(ctx, store.SnapshotsStreamName(), func(c *jetstream.StreamConfig) { c.Description = "edited" })
		Eventually(toldOf(ctx, store)).Should(ContainElements(
			anEvent("Normal", "EventsStreamUpdated", ContainSubstring("description from edited")),
			anEvent("Normal", "EventsStreamUpdated", ContainSubstring("maxAge from 400d to 365d")),
			anEvent("Normal", "EventsStreamUpdated", ContainSubstring("maxAge from 500d to 365d")),
			anEvent("Normal", "EventsStreamUpdated", And(ContainSubstring("maxMessages from 7"), ContainSubstring("maxConsumers from 7"))),
			anEvent("Normal", "SnapshotsStreamUpdated", ContainSubstring("description from edited"))))

		By("the same again, which makes no further Event")
		edit(ctx, name, func(c *jetstream.StreamConfig) { c.Description = "edited" })
		Consistently(func(g Gomega) int {
			return count(toldOf(ctx, store)(g), "EventsStreamUpdated", "description from edited")
		}).WithTimeout(consistentTime).Should(Equal(1))
	})

	It("about both streams that are deleted", func(ctx context.Context) {
		store := create(ctx, newStore(newNamespace(ctx), class.Name, func(s *v1alpha1.EventStore) { s.Spec.DeletionPolicy = v1alpha1.DeletionPolicyDelete }))
		Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())
		publish(ctx, api, store, 3)
		deleteStore(ctx, store)
		Eventually(toldOf(ctx, store)).Should(ContainElements(
			anEvent("Warning", "EventsStreamDeleted", ContainSubstring("with 3 messages")),
			anEvent("Normal", "SnapshotsStreamDeleted", ContainSubstring("with 0 messages"))))
	})
})

var _ = Describe("A stream that is adopted", func() {
	It("keeps its subjects until a person accepts that others are reached", func(ctx context.Context) {
		api := js(single)
		store := newStore(newNamespace(ctx), newClass(ctx, single.URLs(), func(c *v1alpha1.EventStoreClass) {
			c.Spec.Tenancy.Adoption = v1alpha1.AdoptionAllowed
		}).Name, func(s *v1alpha1.EventStore) { s.Spec.AdoptionPolicy = v1alpha1.AdoptionAdopt })
		billing := unique("billing")
		foreign, err := api.CreateStream(ctx, jetstream.StreamConfig{Name: store.EventsStreamName(), Subjects: []string{billing + ".>"}})
		Expect(err).NotTo(HaveOccurred())
		for range 3 {
			_, err := api.Publish(ctx, billing+".tx", []byte("{}"))
			Expect(err).NotTo(HaveOccurred())
		}
		create(ctx, store)
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(
			beStalled(v1alpha1.ReasonWouldReachOthers), sayWhy(ContainSubstring("subjects from "+billing+".>")),
			haveCondition(v1alpha1.ConditionDataLossPrevented, metav1.ConditionTrue, v1alpha1.ReasonWouldReachOthers),
			HaveField("Status.Binding", BeNil()), HaveField("Status.Streams", BeEmpty()),
			HaveField("Status.Plan", ContainElement(And(HaveField("Field", "subjects"), HaveField("Effect", v1alpha1.EffectReachesOthers))))))
		Expect(streamInfo(ctx, api, store.EventsStreamName()).Config).To(Equal(foreign.CachedInfo().Config))
		_, err = api.Publish(ctx, billing+".tx", []byte("{}"))
		Expect(err).NotTo(HaveOccurred(), "who publishes there is not cut off")

		change(ctx, store, accept)
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(beReady(),
			HaveField("Status.Acceptances", HaveExactElements(HaveField("Reason", v1alpha1.ReasonWouldReachOthers)))))
		Expect(streamInfo(ctx, api, store.EventsStreamName())).To(And(
			HaveField("State.Msgs", BeEquivalentTo(4)), HaveField("Config.Subjects", ConsistOf(store.EventsStreamName()+".events.>"))))
		Eventually(toldOf(ctx, store)).Should(ContainElements(
			anEvent("Warning", "ReachingOthersAccepted", ContainSubstring("subjects from "+billing+".>")),
			anEvent("Warning", "OthersReached", ContainSubstring("subjects from "+billing+".>")),
			anEvent("Normal", "EventsStreamAdopted", ContainSubstring("with its 4 messages"))))
	})
})

var _ = Describe("deletionPolicy Delete that deletes nothing", func() {
	deletes := func(s *v1alpha1.EventStore) { s.Spec.DeletionPolicy = v1alpha1.DeletionPolicyDelete }
	notDeleted := func(note string) OmegaMatcher {
		return ContainElement(anEvent("Warning", v1alpha1.ReasonStreamsNotDeleted, ContainSubstring(note)))
	}

	It("since the class leads elsewhere is told, and waits", func(ctx context.Context) {
		class, api := newClass(ctx, single.URLs()), js(single)
		store := create(ctx, newStore(newNamespace(ctx), class.Name, deletes))
		Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())
		publish(ctx, api, store, 3)
		recordedMessages(ctx, store, 3)
		changeClass(ctx, class, func(c *v1alpha1.EventStoreClass) {
			c.Spec.Servers = []v1alpha1.ServerURL{v1alpha1.ServerURL(cluster.URLs()[0])}
		})
		Eventually(read(ctx, store)).WithContext(ctx).Should(beStalled(v1alpha1.ReasonStreamMissing))
		Expect(k8s.Delete(ctx, store)).To(Succeed())
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(beStalled(v1alpha1.ReasonStreamsNotDeleted), sayWhy(And(
			ContainSubstring("held 3 messages when last seen"), ContainSubstring("kubectl patch eventstore "+store.Name)))))
		Eventually(toldOf(ctx, store)).Should(notDeleted("held 3 messages"))

		By("leading back: the streams go, and the resource with them")
		changeClass(ctx, class, func(c *v1alpha1.EventStoreClass) {
			c.Spec.Servers = []v1alpha1.ServerURL{v1alpha1.ServerURL(single.URL())}
		})
		Eventually(func() error { return k8s.Get(ctx, client.ObjectKeyFromObject(store), &v1alpha1.EventStore{}) }).ShouldNot(Succeed())
		_, err := api.Stream(ctx, store.EventsStreamName())
		Expect(err).To(MatchError(jetstream.ErrStreamNotFound))
	})

	It("since it only looks is told", func(ctx context.Context) {
		api := js(single)
		store := create(ctx, newStore(newNamespace(ctx), newClass(ctx, single.URLs()).Name, deletes))
		Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())
		publish(ctx, api, store, 3)
		change(ctx, store, func(s *v1alpha1.EventStore) { s.Spec.ManagementPolicy = v1alpha1.ManagementObserve })
		deleteStore(ctx, store)
		Eventually(toldOf(ctx, store)).Should(notDeleted("spec.managementPolicy is Observe"))
		Expect(streamInfo(ctx, api, store.EventsStreamName()).State.Msgs).To(BeEquivalentTo(3))
	})

	It("since they are another's is told", func(ctx context.Context) {
		api := js(single)
		store := create(ctx, newStore(newNamespace(ctx), newClass(ctx, single.URLs()).Name, deletes))
		Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())
		config := streamInfo(ctx, api, store.EventsStreamName()).Config
		config.Metadata = map[string]string{v1alpha1.MetadataUID: "other", v1alpha1.MetadataNamespace: "other", v1alpha1.MetadataName: "other"}
		_, err := api.UpdateStream(ctx, config)
		Expect(err).NotTo(HaveOccurred())
		Eventually(read(ctx, store)).WithContext(ctx).Should(beStalled(v1alpha1.ReasonConflict))
		deleteStore(ctx, store)
		Eventually(toldOf(ctx, store)).Should(notDeleted("does not carry the uid of this EventStore"))
		streamInfo(ctx, api, store.EventsStreamName())
	})

	It("happens not where the class has come to allow the namespace no more", func(ctx context.Context) {
		class, api := newClass(ctx, single.URLs()), js(single)
		store := create(ctx, newStore(newNamespace(ctx), class.Name))
		Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())
		changeClass(ctx, class, func(c *v1alpha1.EventStoreClass) {
			c.Spec.AllowedNamespaces = &v1alpha1.AllowedNamespaces{Selector: metav1.LabelSelector{MatchLabels: map[string]string{"team": "a"}}}
		})
		Eventually(read(ctx, store)).WithContext(ctx).Should(beStalled(v1alpha1.ReasonClassNotAllowed))
		change(ctx, store, deletes)
		Eventually(read(ctx, store)).WithContext(ctx).Should(HaveField("Finalizers", ConsistOf(v1alpha1.Finalizer)))
		deleteStore(ctx, store)
		_, err := api.Stream(ctx, store.EventsStreamName())
		Expect(err).To(MatchError(jetstream.ErrStreamNotFound))
	})
})

var _ = Describe("An Immutable EventStore", func() {
	It("keeps its events as long as was promised, whatever the class says and whoever accepts", func(ctx context.Context) {
		api := js(single)
		class := newClass(ctx, single.URLs(), func(c *v1alpha1.EventStoreClass) { c.Spec.Defaults.Retention.MaxAge = "30d" })
		store := create(ctx, newStore(newNamespace(ctx), class.Name, func(s *v1alpha1.EventStore) { s.Spec.Protection = v1alpha1.ProtectionImmutable }))
		Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())
		publish(ctx, api, store, 3)
		olderThanASecond(ctx, api, store.EventsStreamName())
		changeClass(ctx, class, func(c *v1alpha1.EventStoreClass) { c.Spec.Defaults.Retention.MaxAge = "1s" })
		impossible := And(beStalled(v1alpha1.ReasonImpossibleChange), haveNoCondition(v1alpha1.ConditionDataLossPrevented),
			sayWhy(And(ContainSubstring("maxAge from 30d to 1s"), ContainSubstring("set spec.retention.maxAge"))))
		Eventually(read(ctx, store)).WithContext(ctx).Should(impossible)
		change(ctx, store, acceptWith("1"))
		Consistently(read(ctx, store)).WithContext(ctx).WithTimeout(consistentTime).Should(impossible)
		Expect(streamInfo(ctx, api, store.EventsStreamName()).State.Msgs).To(BeEquivalentTo(3))

		By("taking the way out that the condition tells")
		change(ctx, store, func(s *v1alpha1.EventStore) { s.Spec.Retention.MaxAge = "30d" })
		Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())
	})

	It("is not deleted, though its stream was made so by hand", func(ctx context.Context) {
		api := js(single)
		store := create(ctx, newStore(newNamespace(ctx), newClass(ctx, single.URLs()).Name, func(s *v1alpha1.EventStore) { s.Spec.DeletionPolicy = v1alpha1.DeletionPolicyDelete }))
		Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())
		publish(ctx, api, store, 3)
		config := streamInfo(ctx, api, store.EventsStreamName()).Config
		config.DenyDelete, config.DenyPurge = true, true
		_, err := api.UpdateStream(ctx, config)
		Expect(err).NotTo(HaveOccurred())
		deleteStore(ctx, store)
		Eventually(toldOf(ctx, store)).Should(ContainElement(anEvent("Warning", v1alpha1.ReasonStreamsNotDeleted, ContainSubstring("Immutable"))))
		Expect(streamInfo(ctx, api, store.EventsStreamName()).State.Msgs).To(BeEquivalentTo(3))
		streamInfo(ctx, api, store.SnapshotsStreamName())
	})
})
