package controller_test

import (
	"context"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	gomegatypes "github.com/onsi/gomega/types"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
)

func changeClass(ctx context.Context, class *v1alpha1.EventStoreClass, edit func(*v1alpha1.EventStoreClass)) {
	GinkgoHelper()
	current := &v1alpha1.EventStoreClass{}
	Expect(k8s.Get(ctx, client.ObjectKeyFromObject(class), current)).To(Succeed())
	before := current.DeepCopy()
	edit(current)
	Expect(k8s.Patch(ctx, current, client.MergeFrom(before))).To(Succeed())
}

// haveStreams matches the configurations of both streams on the server.
func haveStreams(ctx context.Context, api jetstream.JetStream, store *v1alpha1.EventStore, events, snapshots gomegatypes.GomegaMatcher) {
	GinkgoHelper()
	Expect(streamInfo(ctx, api, store.EventsStreamName()).Config).To(events)
	Expect(streamInfo(ctx, api, store.SnapshotsStreamName()).Config).To(snapshots)
}

var _ = Describe("The fields of an EventStore", func() {
	quantity := func(s string) *resource.Quantity {
		q := resource.MustParse(s)
		return &q
	}
	defaults := And(
		HaveField("MaxAge", 365*24*time.Hour), HaveField("MaxBytes", BeEquivalentTo(-1)), HaveField("Compression", jetstream.S2Compression),
		HaveField("Duplicates", 2*time.Minute), HaveField("Replicas", 1), HaveField("Placement", BeNil()),
		HaveField("DenyDelete", false), HaveField("DenyPurge", false), HaveField("Storage", jetstream.FileStorage))

	It("reach the server, and go back to their defaults when they are removed", func(ctx context.Context) {
		api := js(single)
		store := create(ctx, newStore(newNamespace(ctx), newClass(ctx, single.URLs()).Name, func(s *v1alpha1.EventStore) {
			s.Spec.Retention = v1alpha1.Retention{MaxAge: "7d", MaxBytes: quantity("1.5Gi")}
			s.Spec.Compression, s.Spec.DuplicateWindow, s.Spec.Snapshots.History = v1alpha1.CompressionNone, "1h", 5
		}))
		Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())
		haveStreams(ctx, api, store, And(
			HaveField("MaxAge", 7*24*time.Hour), HaveField("MaxBytes", BeEquivalentTo(3<<29)), HaveField("Discard", jetstream.DiscardNew),
			HaveField("Compression", jetstream.NoCompression), HaveField("Duplicates", time.Hour)),
			And(HaveField("MaxMsgsPerSubject", BeEquivalentTo(5)), HaveField("MaxAge", BeZero()), HaveField("MaxBytes", BeEquivalentTo(-1)),
				HaveField("Compression", jetstream.NoCompression)))

		change(ctx, store, func(s *v1alpha1.EventStore) {
			s.Spec.Retention, s.Spec.Compression, s.Spec.DuplicateWindow, s.Spec.Snapshots = v1alpha1.Retention{}, "", "", v1alpha1.Snapshots{}
		})
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(beReady(), HaveField("Status.Streams", ContainElement(HaveField("MaxAge", "365d")))))
		haveStreams(ctx, api, store, defaults, HaveField("MaxMsgsPerSubject", BeEquivalentTo(1)))
	})

	It("come from the class where they are left out, and follow it", func(ctx context.Context) {
		api := js(cluster)
		class := newClass(ctx, cluster.URLs(), func(c *v1alpha1.EventStoreClass) {
			c.Spec.Defaults = v1alpha1.Defaults{
				Replicas: 3, Retention: v1alpha1.Retention{MaxAge: "30d", MaxBytes: quantity("1Gi")}, Storage: v1alpha1.StorageMemory,
			}
		})
		ns := newNamespace(ctx)
		store := create(ctx, newStore(ns, class.Name))
		own := create(ctx, newStore(ns, class.Name, func(s *v1alpha1.EventStore) {
			s.Spec.Replicas, s.Spec.Retention.MaxAge, s.Spec.Storage = 1, "1d", v1alpha1.StorageFile
		}))
		Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())
		Eventually(read(ctx, own)).WithContext(ctx).Should(beReady())
		of := And(HaveField("Replicas", 3), HaveField("Storage", jetstream.MemoryStorage))
		haveStreams(ctx, api, store, And(of, HaveField("MaxAge", 30*24*time.Hour), HaveField("MaxBytes", BeEquivalentTo(1<<30))), of)
		ofOwn := And(HaveField("Replicas", 1), HaveField("Storage", jetstream.FileStorage))
		haveStreams(ctx, api, own, And(ofOwn, HaveField("MaxAge", 24*time.Hour), HaveField("MaxBytes", BeEquivalentTo(1<<30))), ofOwn)

		By("changing the class: a stream that exists keeps its storage")
		changeClass(ctx, class, func(c *v1alpha1.EventStoreClass) {
			c.Spec.Defaults = v1alpha1.Defaults{Retention: v1alpha1.Retention{MaxAge: "60d"}, Storage: v1alpha1.StorageFile}
		})
		changed := And(HaveField("Replicas", 1), HaveField("Storage", jetstream.MemoryStorage))
		Eventually(func() jetstream.StreamConfig { return streamInfo(ctx, api, store.EventsStreamName()).Config }).Should(And(
			changed, HaveField("MaxAge", 60*24*time.Hour), HaveField("MaxBytes", BeEquivalentTo(-1))))
		Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())
		haveStreams(ctx, api, store, changed, changed)
	})

	It("make events immutable, for ever", func(ctx context.Context) {
		api := js(single)
		store := create(ctx, newStore(newNamespace(ctx), newClass(ctx, single.URLs()).Name))
		Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())
		change(ctx, store, func(s *v1alpha1.EventStore) { s.Spec.Protection = v1alpha1.ProtectionImmutable })
		Eventually(func() jetstream.StreamConfig { return streamInfo(ctx, api, store.EventsStreamName()).Config }).Should(And(
			HaveField("DenyDelete", true), HaveField("DenyPurge", true)))
		publish(ctx, api, store, 1)
		s, err := api.Stream(ctx, store.EventsStreamName())
		Expect(err).NotTo(HaveOccurred())
		Expect(s.Purge(ctx)).NotTo(Succeed())
		Expect(s.DeleteMsg(ctx, 1)).NotTo(Succeed())

		By("applying it anew with another: what the stream is it stays")
		deleteStore(ctx, store)
		again := create(ctx, newStore(store.Namespace, store.Spec.ClassName, func(s *v1alpha1.EventStore) {
			s.Name, s.Spec.Protection = store.Name, v1alpha1.ProtectionErasable
		}))
		Eventually(read(ctx, again)).WithContext(ctx).Should(And(
			beStalled(v1alpha1.ReasonImpossibleChange), sayWhy(ContainSubstring("set spec.protection to Immutable"))))

		By("applying it anew without: it is what the stream is")
		change(ctx, again, func(s *v1alpha1.EventStore) { s.Spec.Protection = "" })
		Eventually(read(ctx, again)).WithContext(ctx).Should(And(beReady(), HaveField("Status.Effective.Protection", v1alpha1.ProtectionImmutable)))
	})

	It("destroy nothing before a person accepts it", func(ctx context.Context) {
		api := js(single)
		store := create(ctx, newStore(newNamespace(ctx), newClass(ctx, single.URLs()).Name, func(s *v1alpha1.EventStore) { s.Spec.Snapshots.History = 3 }))
		Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())
		publish(ctx, api, store, 100)
		for range 3 {
			_, err := api.Publish(ctx, store.EventsStreamName()+".snapshots.order.order-1", []byte("{}"))
			Expect(err).NotTo(HaveOccurred())
		}
		held := And(beStalled(v1alpha1.ReasonWouldDestroyEvents), haveCondition(v1alpha1.ConditionDataLossPrevented, metav1.ConditionTrue, v1alpha1.ReasonWouldDestroyEvents))
		plan := func(field string) gomegatypes.GomegaMatcher {
			return HaveField("Status.Plan", ContainElement(And(HaveField("Field", field), HaveField("Effect", v1alpha1.EffectDestroysData))))
		}

		By("fewer bytes than are stored")
		bytes := streamInfo(ctx, api, store.EventsStreamName()).State.Bytes
		change(ctx, store, func(s *v1alpha1.EventStore) {
			s.Spec.Retention.MaxBytes = resource.NewQuantity(int64(bytes/2), resource.BinarySI)
		})
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(held, plan("maxBytes"), sayWhy(MatchRegexp("no room for (49|50|51) of 100 messages"))))
		Expect(streamInfo(ctx, api, store.EventsStreamName()).State.Msgs).To(BeEquivalentTo(100))
		change(ctx, store, accept)
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(beReady(), HaveField("Status.Plan", BeEmpty()), haveNoCondition(v1alpha1.ConditionDataLossPrevented)))
		Expect(streamInfo(ctx, api, store.EventsStreamName()).State.Msgs).To(BeEquivalentTo(100), "a full store drops nothing")
		_, err := api.Publish(ctx, store.EventsStreamName()+".events.order.order-1", make([]byte, 1000))
		Expect(err).To(MatchError(ContainSubstring("maximum bytes exceeded")))

		By("fewer snapshots than are stored")
		change(ctx, store, func(s *v1alpha1.EventStore) { s.Spec.Snapshots.History = 1 })
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(held, plan("maxMessagesPerSubject"), sayWhy(ContainSubstring("2 of 3 messages"))))
		Expect(streamInfo(ctx, api, store.SnapshotsStreamName()).State.Msgs).To(BeEquivalentTo(3))
		change(ctx, store, accept)
		Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())
		Expect(streamInfo(ctx, api, store.SnapshotsStreamName()).State.Msgs).To(BeEquivalentTo(1))
	})

	It("tell of events that were purged", func(ctx context.Context) {
		api := js(single)
		store := create(ctx, newStore(newNamespace(ctx), newClass(ctx, single.URLs()).Name))
		Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())
		publish(ctx, api, store, 3)
		annotate(ctx, store, "1")
		Eventually(read(ctx, store)).WithContext(ctx).Should(HaveField("Status.Streams", ContainElement(HaveField("Messages", BeEquivalentTo(3)))))
		s, err := api.Stream(ctx, store.EventsStreamName())
		Expect(err).NotTo(HaveOccurred())
		Expect(s.Purge(ctx)).To(Succeed())
		// JetStream tells nobody of a purge.
		annotate(ctx, store, "2")
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(
			beStalled(v1alpha1.ReasonStreamPurged), haveCondition(v1alpha1.ConditionDataLoss, metav1.ConditionTrue, v1alpha1.ReasonStreamPurged)))
		change(ctx, store, accept)
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(beReady(), haveNoCondition(v1alpha1.ConditionDataLoss)))
	})
})

var _ = Describe("What the operator may do", func() {
	It("is to look, and to tell what it would do, with Observe", func(ctx context.Context) {
		api := js(single)
		observe := func(s *v1alpha1.EventStore) {
			s.Spec.ManagementPolicy, s.Spec.DeletionPolicy = v1alpha1.ManagementObserve, v1alpha1.DeletionPolicyDelete
		}
		store := create(ctx, newStore(newNamespace(ctx), newClass(ctx, single.URLs()).Name, observe))
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(beStalled(v1alpha1.ReasonObserved),
			HaveField("Status.Plan", HaveExactElements(HaveField("Stream", store.EventsStreamName()), HaveField("Stream", store.SnapshotsStreamName())))))
		_, err := api.Stream(ctx, store.EventsStreamName())
		Expect(err).To(MatchError(jetstream.ErrStreamNotFound))
		Expect(read(ctx, store)(Default)).To(And(HaveField("Finalizers", BeEmpty()), HaveField("Status.Binding", BeNil())))

		By("letting it do all, and only look again")
		change(ctx, store, func(s *v1alpha1.EventStore) { s.Spec.ManagementPolicy = v1alpha1.ManagementFull })
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(beReady(), HaveField("Status.Plan", BeEmpty())))
		publish(ctx, api, store, 1)
		change(ctx, store, func(s *v1alpha1.EventStore) { s.Spec.ManagementPolicy = v1alpha1.ManagementObserve })
		Eventually(read(ctx, store)).WithContext(ctx).Should(haveCondition(v1alpha1.ConditionReady, metav1.ConditionTrue, v1alpha1.ReasonObserved))
		change(ctx, store, func(s *v1alpha1.EventStore) { s.Spec.Retention.MaxAge = "7d" })
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(beStalled(v1alpha1.ReasonObserved), HaveField("Status.Plan", ContainElement(v1alpha1.PlanStep{
			Stream: store.EventsStreamName(), Field: "maxAge", From: "365d", To: "7d", Effect: v1alpha1.EffectSafe,
		}))))
		Expect(streamInfo(ctx, api, store.EventsStreamName()).Config.MaxAge).To(Equal(365 * 24 * time.Hour))

		By("deleting it: who only looks deletes no stream")
		deleteStore(ctx, store)
		Expect(streamInfo(ctx, api, store.EventsStreamName()).State.Msgs).To(BeEquivalentTo(1))
	})

	It("is to look with Observe, and stalls for no mark that another version has left out", func(ctx context.Context) {
		api := js(single)
		store := create(ctx, newStore(newNamespace(ctx), newClass(ctx, single.URLs()).Name))
		Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())
		change(ctx, store, func(s *v1alpha1.EventStore) { s.Spec.ManagementPolicy = v1alpha1.ManagementObserve })
		observed := haveCondition(v1alpha1.ConditionReady, metav1.ConditionTrue, v1alpha1.ReasonObserved)
		Eventually(read(ctx, store)).WithContext(ctx).Should(observed)
		edit := func(keys ...string) {
			GinkgoHelper()
			config := streamInfo(ctx, api, store.EventsStreamName()).Config
			for _, key := range keys {
				delete(config.Metadata, key)
			}
			_, err := api.UpdateStream(ctx, config)
			Expect(err).NotTo(HaveOccurred())
		}
		edit(v1alpha1.MetadataSchema, v1alpha1.MetadataDeletionPolicy)
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(observed, sayWhy(ContainSubstring("in the metadata")),
			HaveField("Status.Plan", ConsistOf(HaveField("Field", "metadata")))))

		By("taking the name of the store away, which is more than a mark")
		edit(v1alpha1.MetadataUID)
		Eventually(read(ctx, store)).WithContext(ctx).Should(beStalled(v1alpha1.ReasonObserved))
	})

	It("is nothing with Paused", func(ctx context.Context) {
		api := js(single)
		store := create(ctx, newStore(newNamespace(ctx), newClass(ctx, single.URLs()).Name))
		Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())
		change(ctx, store, func(s *v1alpha1.EventStore) {
			s.Spec.ManagementPolicy, s.Spec.Retention.MaxAge = v1alpha1.ManagementPaused, "7d"
		})
		paused := And(haveCondition(v1alpha1.ConditionReady, metav1.ConditionUnknown, v1alpha1.ReasonPaused),
			haveNoCondition(v1alpha1.ConditionStalled), haveNoCondition(v1alpha1.ConditionReconciling))
		Eventually(read(ctx, store)).WithContext(ctx).Should(paused)
		config := streamInfo(ctx, api, store.EventsStreamName()).Config
		config.Description = "edited"
		_, err := api.UpdateStream(ctx, config)
		Expect(err).NotTo(HaveOccurred())
		Consistently(func() jetstream.StreamConfig { return streamInfo(ctx, api, store.EventsStreamName()).Config }).
			WithTimeout(consistentTime).Should(And(HaveField("MaxAge", 365*24*time.Hour), HaveField("Description", "edited")))
		change(ctx, store, func(s *v1alpha1.EventStore) { s.Spec.ManagementPolicy = v1alpha1.ManagementFull })
		Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())
		Expect(streamInfo(ctx, api, store.EventsStreamName()).Config).To(And(HaveField("MaxAge", 7*24*time.Hour), HaveField("Description", Not(Equal("edited")))))
	})

	It("is to adopt a stream that has no owner, where it is told to", func(ctx context.Context) {
		api := js(single)
		store := newStore(newNamespace(ctx), newClass(ctx, single.URLs(), anyEventNamespace, allowAdoption).Name, func(s *v1alpha1.EventStore) { s.Spec.AdoptionPolicy = v1alpha1.AdoptionAdopt })
		_, err := api.CreateStream(ctx, jetstream.StreamConfig{
			Name: store.EventsStreamName(), Subjects: []string{store.EventsStreamName() + ".events.>"}, Metadata: map[string]string{"team": "sales"},
		})
		Expect(err).NotTo(HaveOccurred())
		publish(ctx, api, store, 3)
		create(ctx, store)
		Eventually(read(ctx, store)).WithContext(ctx).Should(beStalled(v1alpha1.ReasonWouldReachOthers))
		change(ctx, store, accept)
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(beReady(), HaveField("Status.Streams", ContainElement(HaveField("Messages", BeEquivalentTo(3))))))
		Expect(streamInfo(ctx, api, store.EventsStreamName())).To(And(
			HaveField("State.Msgs", BeEquivalentTo(3)), HaveField("Config.AllowAtomicPublish", true),
			HaveField("Config.Metadata", And(HaveKeyWithValue("team", "sales"), HaveKeyWithValue(v1alpha1.MetadataUID, string(store.UID))))))

		By("leaving alone what belongs to another")
		other := create(ctx, newStore(newNamespace(ctx), store.Spec.ClassName, func(s *v1alpha1.EventStore) {
			s.Name, s.Spec.Namespace, s.Spec.AdoptionPolicy = store.Name, store.Namespace, v1alpha1.AdoptionAdopt
		}))
		Eventually(read(ctx, other)).WithContext(ctx).Should(beStalled(v1alpha1.ReasonConflict))
	})
})

var _ = Describe("A class", func() {
	It("is only for the namespaces that it allows", func(ctx context.Context) {
		class := newClass(ctx, single.URLs(), func(c *v1alpha1.EventStoreClass) {
			c.Spec.AllowedNamespaces = &v1alpha1.AllowedNamespaces{Selector: metav1.LabelSelector{MatchLabels: map[string]string{"team": "a"}}}
		})
		api := js(single)
		ns := newNamespace(ctx)
		store := create(ctx, newStore(ns, class.Name))
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(beStalled(v1alpha1.ReasonClassNotAllowed), sayWhy(ContainSubstring("team=a"))))
		_, err := api.Stream(ctx, store.EventsStreamName())
		Expect(err).To(MatchError(jetstream.ErrStreamNotFound))

		label := func(value string) {
			namespace := &corev1.Namespace{}
			Expect(k8s.Get(ctx, client.ObjectKey{Name: ns}, namespace)).To(Succeed())
			before := namespace.DeepCopy()
			namespace.Labels["team"] = value
			Expect(k8s.Patch(ctx, namespace, client.MergeFrom(before))).To(Succeed())
		}
		label("a")
		Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())

		By("taking it back: the streams stay as they are")
		label("b")
		Eventually(read(ctx, store)).WithContext(ctx).Should(beStalled(v1alpha1.ReasonClassNotAllowed))
		streamInfo(ctx, api, store.EventsStreamName())
		changeClass(ctx, class, func(c *v1alpha1.EventStoreClass) { c.Spec.AllowedNamespaces = nil })
		Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())
	})

	It("reaches a JetStream domain", func(ctx context.Context) {
		servers := startNATS(1, func(o *server.Options) { o.JetStreamDomain = "hub" })
		class := newClass(ctx, servers.URLs(), func(c *v1alpha1.EventStoreClass) { c.Spec.Domain = "hub" })
		store := create(ctx, newStore(newNamespace(ctx), class.Name))
		Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())
		Expect(bindingOf(ctx, store).Data).To(HaveKeyWithValue("domain", []byte("hub")))
		wrong := newClass(ctx, servers.URLs(), func(c *v1alpha1.EventStoreClass) { c.Spec.Domain = "elsewhere" })
		Eventually(readClass(ctx, wrong)).WithContext(ctx).Should(beStalled(v1alpha1.ReasonJetStreamUnavailable))
	})
})
