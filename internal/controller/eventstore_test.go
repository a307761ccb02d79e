package controller_test

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv/natsserver"
)

var _ = Describe("An EventStore", func() {
	systems := []TableEntry{
		Entry("on one server", func() *natsserver.Cluster { return single }, int32(1)),
		Entry("on three servers", func() *natsserver.Cluster { return cluster }, int32(3)),
	}

	DescribeTable("becomes Ready with both streams as designed", func(ctx context.Context, system func() *natsserver.Cluster, replicas int32) {
		class := newClass(ctx, system().URLs())
		store := create(ctx, newStore(newNamespace(ctx), class.Name, func(s *v1alpha1.EventStore) { s.Spec.Replicas = replicas }))
		Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())

		api := js(system())
		name := store.EventsStreamName()
		owned := And(
			HaveKeyWithValue(v1alpha1.MetadataUID, string(store.UID)),
			HaveKeyWithValue(v1alpha1.MetadataNamespace, store.Namespace),
			HaveKeyWithValue(v1alpha1.MetadataName, store.Name),
			HaveKeyWithValue(v1alpha1.MetadataSchema, "1"))

		events := streamInfo(ctx, api, name).Config
		Expect(events.Metadata).To(owned)
		events.Metadata, events.Description = nil, ""
		Expect(events).To(Equal(jetstream.StreamConfig{
			Name: name, Subjects: []string{name + ".events.>"},
			Retention: jetstream.LimitsPolicy, Discard: jetstream.DiscardNew, Storage: jetstream.FileStorage, Compression: jetstream.S2Compression,
			MaxConsumers: 100_000, MaxMsgs: -1, MaxBytes: -1, MaxMsgsPerSubject: -1, MaxMsgSize: -1,
			MaxAge: 365 * 24 * time.Hour, Duplicates: 2 * time.Minute, Replicas: int(replicas),
			AllowDirect: true, AllowAtomicPublish: true,
			RePublish: &jetstream.RePublish{Source: name + ".events.>", Destination: name + ".stored.>", HeadersOnly: true},
		}))

		snapshots := streamInfo(ctx, api, name+"_snapshots").Config
		Expect(snapshots.Metadata).To(owned)
		snapshots.Metadata, snapshots.Description = nil, ""
		Expect(snapshots).To(Equal(jetstream.StreamConfig{
			Name: name + "_snapshots", Subjects: []string{name + ".snapshots.>"},
			Retention: jetstream.LimitsPolicy, Discard: jetstream.DiscardNew, Storage: jetstream.FileStorage, Compression: jetstream.S2Compression,
			MaxConsumers: 100_000, MaxMsgs: -1, MaxBytes: -1, MaxMsgsPerSubject: 1, MaxMsgSize: -1,
			Duplicates: 2 * time.Minute, Replicas: int(replicas), AllowDirect: true,
		}))

		status := read(ctx, store)(Default).Status
		Expect(status.ClassName).To(Equal(class.Name))
		Expect(status.Namespace).To(Equal(store.Namespace))
		Expect(status.Streams).To(HaveLen(2))
		Expect(status.Streams[0].Role).To(Equal(v1alpha1.StreamRoleEvents))
		Expect(status.Streams[0].Name).To(Equal(name))
		Expect(status.Streams[0].Created).NotTo(BeNil())
		Expect(status.Streams[0].MaxAge).To(Equal("365d"))
		Expect(status.Streams[0].ReplicaCount).To(Equal(replicas))
		if replicas > 1 {
			Expect(status.Streams[0].Leader).NotTo(BeEmpty())
			Expect(status.Streams[0].Replicas).To(HaveLen(int(replicas)))
			Expect(status.Streams[0].Replicas).To(HaveEach(HaveField("Current", true)))
		}
		Expect(status.Streams[1].Role).To(Equal(v1alpha1.StreamRoleSnapshots))
		Expect(status.Binding.Name).To(Equal(store.Name + "-eventstore"))
	}, systems)

	It("takes its streams' name from spec.namespace", func(ctx context.Context) {
		class := newClass(ctx, single.URLs(), anyEventNamespace)
		eventNamespace := unique("events")
		store := create(ctx, newStore(newNamespace(ctx), class.Name, func(s *v1alpha1.EventStore) { s.Spec.Namespace = eventNamespace }))
		Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())
		streamInfo(ctx, js(single), eventNamespace+"_"+store.Name)
		Expect(read(ctx, store)(Default).Status.Namespace).To(Equal(eventNamespace))
	})

	It("keeps the default class that it was given first", func(ctx context.Context) {
		store := create(ctx, newStore(newNamespace(ctx), ""))
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(beStalled(v1alpha1.ReasonNoDefaultClass), sayWhy(ContainSubstring(v1alpha1.AnnotationDefaultClass))))

		asDefault := func(c *v1alpha1.EventStoreClass) {
			c.Annotations = map[string]string{v1alpha1.AnnotationDefaultClass: "true"}
		}
		first := newClass(ctx, single.URLs(), asDefault)
		Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())
		Expect(read(ctx, store)(Default).Status.ClassName).To(Equal(first.Name))

		second := newClass(ctx, cluster.URLs(), asDefault)
		// The operator sees classes and stores in no order.
		Eventually(readClass(ctx, second)).WithContext(ctx).Should(beReady())
		other := create(ctx, newStore(store.Namespace, ""))
		Eventually(read(ctx, other)).WithContext(ctx).Should(And(
			beStalled(v1alpha1.ReasonSeveralDefaultClasses), sayWhy(And(ContainSubstring(first.Name), ContainSubstring(second.Name)))))
		Expect(client.IgnoreNotFound(k8s.Delete(ctx, first))).To(Succeed())
		// The class event reaches both stores; only the one that was never given a
		// class takes the new default.
		Eventually(read(ctx, other)).WithContext(ctx).Should(beReady())
		Expect(read(ctx, other)(Default).Status.ClassName).To(Equal(second.Name))
		Eventually(func(g Gomega) {
			change(ctx, store, func(s *v1alpha1.EventStore) { s.Spec.Retention.MaxAge = "400d" })
			g.Expect(read(ctx, store)(g)).To(beStalled(v1alpha1.ReasonClassNotFound))
		}).Should(Succeed())
		Expect(read(ctx, store)(Default).Status.ClassName).To(Equal(first.Name))
	})

	It("follows a changed retention", func(ctx context.Context) {
		class := newClass(ctx, single.URLs())
		store := create(ctx, newStore(newNamespace(ctx), class.Name))
		Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())
		api := js(single)
		for age, want := range map[string]time.Duration{"1d12h": 36 * time.Hour, "0": 0, "1s": time.Second} {
			change(ctx, store, func(s *v1alpha1.EventStore) { s.Spec.Retention.MaxAge = age })
			Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())
			Expect(streamInfo(ctx, api, store.EventsStreamName()).Config.MaxAge).To(Equal(want))
			Expect(streamInfo(ctx, api, store.SnapshotsStreamName()).Config.MaxAge).To(BeZero())
		}
	})

	It("follows changed replicas up and down, with its data", func(ctx context.Context) {
		class := newClass(ctx, cluster.URLs())
		store := create(ctx, newStore(newNamespace(ctx), class.Name))
		Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())
		api := js(cluster)
		publish(ctx, api, store, 10)
		for _, replicas := range []int32{3, 1} {
			change(ctx, store, func(s *v1alpha1.EventStore) { s.Spec.Replicas = replicas })
			Eventually(read(ctx, store)).WithContext(ctx).Should(And(beReady(),
				haveCondition(v1alpha1.ConditionReplicasCurrent, metav1.ConditionTrue, v1alpha1.ReasonReplicasCurrent)))
			for _, name := range []string{store.EventsStreamName(), store.SnapshotsStreamName()} {
				info := streamInfo(ctx, api, name)
				Expect(info.Config.Replicas).To(Equal(int(replicas)))
				Expect(info.Cluster.Replicas).To(HaveLen(int(replicas) - 1))
			}
			Expect(streamInfo(ctx, api, store.EventsStreamName()).State.Msgs).To(BeEquivalentTo(10))
		}
	})

	It("heals every field of its streams that is edited by hand", func(ctx context.Context) {
		class := newClass(ctx, single.URLs())
		store := create(ctx, newStore(newNamespace(ctx), class.Name))
		Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())
		api := js(single)
		name := store.EventsStreamName()
		for _, stream := range []string{name, name + "_snapshots"} {
			want := streamInfo(ctx, api, stream).Config
			// It counts at the moment in which the stream is made.
			delete(want.Metadata, v1alpha1.MetadataCreation)
			edits := []func(*jetstream.StreamConfig){
				func(c *jetstream.StreamConfig) { c.Description = "edited" },
				func(c *jetstream.StreamConfig) { c.Subjects = append(c.Subjects, stream+".more") },
				func(c *jetstream.StreamConfig) { c.Retention = jetstream.InterestPolicy },
				func(c *jetstream.StreamConfig) { c.MaxConsumers = 7 },
				func(c *jetstream.StreamConfig) { c.MaxMsgs = 7 },
				func(c *jetstream.StreamConfig) { c.MaxBytes = 7000 },
				func(c *jetstream.StreamConfig) { c.MaxMsgsPerSubject = 7 },
				func(c *jetstream.StreamConfig) { c.MaxMsgSize = 7000 },
				func(c *jetstream.StreamConfig) { c.Discard = 1 - c.Discard },
				func(c *jetstream.StreamConfig) { c.MaxAge = time.Hour },
				func(c *jetstream.StreamConfig) { c.Duplicates = time.Minute },
				func(c *jetstream.StreamConfig) { c.Compression = jetstream.NoCompression },
				func(c *jetstream.StreamConfig) { c.AllowDirect = false },
				func(c *jetstream.StreamConfig) { c.AllowRollup = true },
				func(c *jetstream.StreamConfig) { c.AllowAtomicPublish = !c.AllowAtomicPublish },
				func(c *jetstream.StreamConfig) { c.AllowBatchPublish = true },
				func(c *jetstream.StreamConfig) { c.NoAck, c.AllowAtomicPublish = true, false },
				func(c *jetstream.StreamConfig) {
					c.RePublish = &jetstream.RePublish{Source: ">", Destination: "elsewhere.>"}
				},
				func(c *jetstream.StreamConfig) { c.ConsumerLimits.MaxAckPending = 7 },
				func(c *jetstream.StreamConfig) {
					c.SubjectTransform = &jetstream.SubjectTransformConfig{Source: c.Subjects[0], Destination: "t." + c.Subjects[0]}
				},
				func(c *jetstream.StreamConfig) { c.Metadata = nil },
				func(c *jetstream.StreamConfig) { c.Metadata[v1alpha1.MetadataUID] = "edited" },
				func(c *jetstream.StreamConfig) { delete(c.Metadata, v1alpha1.MetadataSchema) },
			}
			for i, edit := range edits {
				By(stream + " edit")
				config := streamInfo(ctx, api, stream).Config
				edit(&config)
				_, err := api.UpdateStream(ctx, config)
				if !errors.Is(err, jetstream.ErrStreamSubjectTransformNotSupported) {
					// The operator can be quicker than the answer, in which the client looks for it.
					Expect(err).NotTo(HaveOccurred(), "edit %d", i)
				}
				Eventually(func(g Gomega) {
					info, err := api.Stream(ctx, stream)
					g.Expect(err).NotTo(HaveOccurred())
					healed := info.CachedInfo().Config
					delete(healed.Metadata, v1alpha1.MetadataCreation)
					g.Expect(healed).To(Equal(want), "edit %d", i)
				}).Should(Succeed())
			}
		}
		Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())
	})

	It("leaves alone what others add to a stream's metadata", func(ctx context.Context) {
		class := newClass(ctx, single.URLs())
		store := create(ctx, newStore(newNamespace(ctx), class.Name))
		Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())
		api := js(single)
		config := streamInfo(ctx, api, store.EventsStreamName()).Config
		config.Metadata["example.com/team"] = "sales"
		config.Description = "edited"
		_, err := api.UpdateStream(ctx, config)
		Expect(err).NotTo(HaveOccurred())
		Eventually(func() jetstream.StreamConfig { return streamInfo(ctx, api, store.EventsStreamName()).Config }).Should(And(
			HaveField("Description", Not(Equal("edited"))),
			HaveField("Metadata", HaveKeyWithValue("example.com/team", "sales"))))
	})

	It("never writes what is a user's", func(ctx context.Context) {
		class := newClass(ctx, single.URLs())
		before := newStore(newNamespace(ctx), class.Name, func(s *v1alpha1.EventStore) {
			s.Labels, s.Annotations = map[string]string{"team": "sales"}, map[string]string{"note": "ours"}
			s.Spec.DeletionPolicy = v1alpha1.DeletionPolicyDelete
		})
		store := create(ctx, before.DeepCopy())
		spec := store.Spec
		Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())
		Expect(read(ctx, store)(Default)).To(And(
			HaveField("Spec", spec), HaveField("Labels", before.Labels), HaveField("Annotations", before.Annotations),
			HaveField("Generation", BeEquivalentTo(1))))
	})

	It("writes nothing while nothing changes", func(ctx context.Context) {
		class := newClass(ctx, cluster.URLs())
		store := create(ctx, newStore(newNamespace(ctx), class.Name, func(s *v1alpha1.EventStore) { s.Spec.Replicas = 3 }))
		Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())
		settled := func(g Gomega) []string {
			binding := &corev1.Secret{}
			g.Expect(k8s.Get(ctx, client.ObjectKey{Namespace: store.Namespace, Name: store.Name + "-eventstore"}, binding)).To(Succeed())
			return []string{read(ctx, store)(g).ResourceVersion, binding.ResourceVersion}
		}
		before := settled(Default)
		// Each of these wakes the reconciler and changes nothing that it looks at.
		for _, value := range []string{"1", "2", "3", "4"} {
			before[0] = annotate(ctx, store, value)
			Consistently(settled).WithContext(ctx).WithTimeout(consistentTime).Should(Equal(before))
		}
	})
})

// annotate writes an annotation that means nothing to Aether, and gives the
// version of the object after it.
func annotate(ctx context.Context, store *v1alpha1.EventStore, value string) string {
	GinkgoHelper()
	change(ctx, store, func(s *v1alpha1.EventStore) {
		if s.Annotations == nil {
			s.Annotations = map[string]string{}
		}
		s.Annotations["example.com/poke"] = value
	})
	return read(ctx, store)(Default).ResourceVersion
}
