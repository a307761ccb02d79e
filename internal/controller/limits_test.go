package controller_test

import (
	"context"
	"slices"

	"github.com/nats-io/nats.go/jetstream"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
)

func quantity(s string) *resource.Quantity {
	q := resource.MustParse(s)
	return &q
}

// eventsAbout are the Events about a store.
func eventsAbout(ctx context.Context, store *v1alpha1.EventStore) func(Gomega) []eventsv1.Event {
	return func(g Gomega) []eventsv1.Event {
		var events eventsv1.EventList
		g.Expect(k8s.List(ctx, &events, client.InNamespace(store.Namespace))).To(Succeed())
		return slices.DeleteFunc(events.Items, func(e eventsv1.Event) bool { return e.Regarding.UID != store.UID })
	}
}

var _ = Describe("Limits of a class", func() {
	var api jetstream.JetStream
	BeforeEach(func() { api = js(single) })
	limited := func(limits v1alpha1.Limits) classOption {
		return func(c *v1alpha1.EventStoreClass) { c.Spec.Limits = limits }
	}
	takes := func(events, snapshots string) func(*v1alpha1.EventStore) {
		return func(s *v1alpha1.EventStore) {
			s.Spec.Retention.MaxBytes, s.Spec.Snapshots.MaxBytes = quantity(events), quantity(snapshots)
		}
	}
	absent := func(ctx context.Context, store *v1alpha1.EventStore) {
		GinkgoHelper()
		for _, name := range []string{store.EventsStreamName(), store.SnapshotsStreamName()} {
			_, err := api.Stream(ctx, name)
			Expect(err).To(MatchError(jetstream.ErrStreamNotFound))
		}
		Expect(read(ctx, store)(Default).Finalizers).To(BeEmpty())
	}

	It("keep a new store from being made, and hold the change of one that exists", func(ctx context.Context) {
		class := newClass(ctx, single.URLs(), limited(v1alpha1.Limits{
			MaxAge: "30d", RequireMaxBytes: true, DeletionPolicies: []v1alpha1.DeletionPolicy{v1alpha1.DeletionPolicyRetain},
		}))
		store := create(ctx, newStore(newNamespace(ctx), class.Name, func(s *v1alpha1.EventStore) { s.Spec.DeletionPolicy = v1alpha1.DeletionPolicyDelete }))
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(beStalled(v1alpha1.ReasonLimitExceeded), sayWhy(And(
			ContainSubstring("retention.maxAge is 365d and the limit 30d"), ContainSubstring("retention.maxBytes is not set"), ContainSubstring("deletionPolicy is Delete")))))
		absent(ctx, store)

		change(ctx, store, takes("1Mi", "1Mi"))
		change(ctx, store, func(s *v1alpha1.EventStore) { s.Spec.Retention.MaxAge, s.Spec.DeletionPolicy = "30d", "" })
		Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())
		publish(ctx, api, store, 1)

		By("asking for more than it has")
		change(ctx, store, func(s *v1alpha1.EventStore) {
			s.Spec.Retention.MaxAge, s.Spec.Compression = "31d", v1alpha1.CompressionNone
		})
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(beStalled(v1alpha1.ReasonLimitExceeded), HaveField("Status.Plan", Not(BeEmpty()))))
		Expect(streamInfo(ctx, api, store.EventsStreamName())).To(And(HaveField("State.Msgs", BeEquivalentTo(1)),
			HaveField("Config.Compression", jetstream.S2Compression)))
		change(ctx, store, func(s *v1alpha1.EventStore) { s.Spec.Retention.MaxAge = "30d" })
		Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())

		By("asking for the deletion of the streams: it is held, and they stay")
		change(ctx, store, func(s *v1alpha1.EventStore) { s.Spec.DeletionPolicy = v1alpha1.DeletionPolicyDelete })
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(beStalled(v1alpha1.ReasonLimitExceeded), HaveField("Finalizers", BeEmpty())))
		annotate(ctx, store, "again")
		Consistently(read(ctx, store)).WithContext(ctx).WithTimeout(consistentTime).Should(And(beStalled(v1alpha1.ReasonLimitExceeded), HaveField("Finalizers", BeEmpty())))
		change(ctx, store, func(s *v1alpha1.EventStore) { s.Spec.DeletionPolicy = "" })
		Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())

		By("making the limit smaller: what there is goes on")
		changeClass(ctx, class, limited(v1alpha1.Limits{MaxAge: "1d", MaxBytes: quantity("1Ki")}))
		change(ctx, store, func(s *v1alpha1.EventStore) { s.Spec.Compression = v1alpha1.CompressionS2 })
		Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())
		Expect(streamInfo(ctx, api, store.EventsStreamName()).State.Msgs).To(BeEquivalentTo(1))
	})

	It("count for what becomes of the streams, whatever finalizer somebody sets", func(ctx context.Context) {
		api := js(single)
		class := newClass(ctx, single.URLs(), limited(v1alpha1.Limits{DeletionPolicies: []v1alpha1.DeletionPolicy{v1alpha1.DeletionPolicyRetain}}))
		store := create(ctx, newStore(newNamespace(ctx), class.Name))
		Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())
		publish(ctx, api, store, 3)
		byHand := func(s *v1alpha1.EventStore) {
			s.Spec.DeletionPolicy, s.Finalizers = v1alpha1.DeletionPolicyDelete, []string{v1alpha1.Finalizer}
		}
		change(ctx, store, byHand)
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(beStalled(v1alpha1.ReasonLimitExceeded), HaveField("Finalizers", BeEmpty()),
			HaveField("Status.Effective.DeletionPolicy", v1alpha1.DeletionPolicyRetain)))
		change(ctx, store, byHand)
		deleteStore(ctx, store)
		Expect(streamInfo(ctx, api, store.EventsStreamName()).State.Msgs).To(BeEquivalentTo(3))

		By("taking them back, made with the finalizer")
		again := create(ctx, newStore(store.Namespace, class.Name, byHand, func(s *v1alpha1.EventStore) { s.Name = store.Name }))
		Eventually(read(ctx, again)).WithContext(ctx).Should(beStalled(v1alpha1.ReasonLimitExceeded))
		deleteStore(ctx, again)
		Expect(streamInfo(ctx, api, store.EventsStreamName()).State.Msgs).To(BeEquivalentTo(3))
	})

	It("count for what becomes of the streams also while the class is away, and after", func(ctx context.Context) {
		api := js(single)
		retainAlone := limited(v1alpha1.Limits{DeletionPolicies: []v1alpha1.DeletionPolicy{v1alpha1.DeletionPolicyRetain}})
		class := newClass(ctx, single.URLs(), retainAlone)
		store := create(ctx, newStore(newNamespace(ctx), class.Name))
		Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())
		publish(ctx, api, store, 3)
		refused := And(beStalled(v1alpha1.ReasonLimitExceeded), HaveField("Finalizers", BeEmpty()))
		change(ctx, store, func(s *v1alpha1.EventStore) { s.Spec.DeletionPolicy = v1alpha1.DeletionPolicyDelete })
		Eventually(read(ctx, store)).WithContext(ctx).Should(refused)

		Expect(k8s.Delete(ctx, class)).To(Succeed())
		Eventually(read(ctx, store)).WithContext(ctx).Should(beStalled(v1alpha1.ReasonClassNotFound))
		change(ctx, store, func(s *v1alpha1.EventStore) { s.Spec.Retention.MaxAge = "364d" })
		Eventually(read(ctx, store)).WithContext(ctx).Should(HaveField("Status.ObservedGeneration", BeEquivalentTo(3)))
		Expect(read(ctx, store)(Default)).To(And(beStalled(v1alpha1.ReasonClassNotFound), HaveField("Finalizers", BeEmpty())))

		newClass(ctx, single.URLs(), retainAlone, func(c *v1alpha1.EventStoreClass) { c.Name = class.Name })
		Eventually(read(ctx, store)).WithContext(ctx).Should(refused)
		deleteStore(ctx, store)
		Expect(streamInfo(ctx, api, store.EventsStreamName()).State.Msgs).To(BeEquivalentTo(3))
	})

	It("of a namespace let the oldest in, and the next when there is room", func(ctx context.Context) {
		class := newClass(ctx, single.URLs(), limited(v1alpha1.Limits{PerNamespace: v1alpha1.NamespaceLimits{Stores: 1}}))
		ns := newNamespace(ctx)
		first := create(ctx, newStore(ns, class.Name))
		Eventually(read(ctx, first)).WithContext(ctx).Should(beReady())
		second := create(ctx, newStore(ns, class.Name))
		Eventually(read(ctx, second)).WithContext(ctx).Should(And(beStalled(v1alpha1.ReasonLimitExceeded), sayWhy(ContainSubstring("stores is 1, and 1 are there"))))
		absent(ctx, second)
		elsewhere := create(ctx, newStore(newNamespace(ctx), class.Name))
		Eventually(read(ctx, elsewhere)).WithContext(ctx).Should(beReady())
		deleteStore(ctx, first)
		Eventually(read(ctx, second)).WithContext(ctx).Should(beReady())
	})

	It("of the bytes of a namespace count what JetStream reserves, and let no two slip through", func(ctx context.Context) {
		class := newClass(ctx, single.URLs(), limited(v1alpha1.Limits{PerNamespace: v1alpha1.NamespaceLimits{Bytes: quantity("10Mi")}}))
		ns := newNamespace(ctx)
		endless := create(ctx, newStore(ns, class.Name))
		Eventually(read(ctx, endless)).WithContext(ctx).Should(And(beStalled(v1alpha1.ReasonLimitExceeded), sayWhy(ContainSubstring("a maxBytes is not set"))))
		stores := make([]*v1alpha1.EventStore, 6)
		for i := range stores {
			stores[i] = create(ctx, newStore(ns, class.Name, takes("3Mi", "1Mi")))
		}
		split := func(g Gomega) (ready, waiting []*v1alpha1.EventStore) {
			for _, s := range stores {
				switch current := read(ctx, s)(g); readyReasonOf(current) {
				case v1alpha1.ReasonReady:
					ready = append(ready, current)
				case v1alpha1.ReasonLimitExceeded:
					waiting = append(waiting, current)
				}
			}
			return ready, waiting
		}
		two := func(g Gomega) {
			ready, waiting := split(g)
			g.Expect(ready).To(HaveLen(2))
			g.Expect(waiting).To(HaveLen(4))
		}
		Eventually(two).Should(Succeed())
		Consistently(two).WithTimeout(consistentTime).Should(Succeed())
		ready, waiting := split(Default)
		for _, s := range waiting {
			absent(ctx, s)
		}

		By("asking for less, which makes room for one of two bytes more")
		change(ctx, ready[0], takes("1Mi", "1Mi"))
		Eventually(func(g Gomega) {
			ready, _ := split(g)
			g.Expect(ready).To(HaveLen(3))
		}).Should(Succeed())

		By("asking for more than there is")
		change(ctx, ready[1], takes("9Mi", "1Mi"))
		Eventually(read(ctx, ready[1])).WithContext(ctx).Should(beStalled(v1alpha1.ReasonLimitExceeded))
		Expect(streamInfo(ctx, api, ready[1].EventsStreamName()).Config.MaxBytes).To(BeEquivalentTo(3 << 20))
	})
})

var _ = Describe("An EventStore that is nearly full", func() {
	fill := func(ctx context.Context, api jetstream.JetStream, subject string) (stored int) {
		GinkgoHelper()
		for {
			if _, err := api.Publish(ctx, subject, make([]byte, 4<<10)); err != nil {
				Expect(err).To(MatchError(ContainSubstring("maximum bytes exceeded")))
				return stored
			}
			stored++
		}
	}

	It("says so with figures, in a condition and an Event, and no more when it is not", func(ctx context.Context) {
		api := js(single)
		store := create(ctx, newStore(newNamespace(ctx), newClass(ctx, single.URLs()).Name, func(s *v1alpha1.EventStore) {
			s.Spec.Retention.MaxBytes, s.Spec.Snapshots.MaxBytes = quantity("64Ki"), quantity("1Mi")
		}))
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(beReady(), haveNoCondition(v1alpha1.ConditionFull)))
		stored := fill(ctx, api, store.EventsStreamName()+".events.order.order-1")
		annotate(ctx, store, "full")
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(beReady(),
			haveCondition(v1alpha1.ConditionFull, metav1.ConditionTrue, v1alpha1.ReasonNearlyFull),
			HaveField("Status.Streams", ContainElement(And(HaveField("MaxBytes", BeEquivalentTo(64<<10)), HaveField("Size", HaveSuffix(" of 64Ki")))))))
		Eventually(eventsAbout(ctx, store)).Should(ContainElement(And(HaveField("Reason", "NearlyFull"), HaveField("Type", "Warning"),
			HaveField("Note", And(ContainSubstring(store.EventsStreamName()), ContainSubstring("of 64Ki"))))))
		Expect(streamInfo(ctx, api, store.EventsStreamName()).State.Msgs).To(BeEquivalentTo(stored))

		change(ctx, store, func(s *v1alpha1.EventStore) { s.Spec.Retention.MaxBytes = quantity("1Mi") })
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(beReady(), haveNoCondition(v1alpha1.ConditionFull)))

		By("filling the snapshots")
		actor := 0
		for full := false; !full; actor++ {
			_, err := api.Publish(ctx, store.EventsStreamName()+".snapshots.order."+unique("order"), make([]byte, 64<<10))
			full = err != nil
		}
		annotate(ctx, store, "full again")
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(beReady(), haveCondition(v1alpha1.ConditionFull, metav1.ConditionTrue, v1alpha1.ReasonNearlyFull)))
		Expect(streamInfo(ctx, api, store.SnapshotsStreamName()).State.Msgs).To(BeEquivalentTo(actor-1), "none was dropped")
	})
})

var _ = Describe("Defaults of a class", func() {
	It("decide what is left out, are shown, and delete nothing when the class is gone", func(ctx context.Context) {
		api := js(single)
		class := newClass(ctx, single.URLs(), func(c *v1alpha1.EventStoreClass) {
			c.Spec.Defaults = v1alpha1.Defaults{
				DuplicateWindow: "5m", Snapshots: v1alpha1.Snapshots{History: 3, MaxBytes: quantity("1Mi")}, DeletionPolicy: v1alpha1.DeletionPolicyDelete,
			}
		})
		ns := newNamespace(ctx)
		store, goes := create(ctx, newStore(ns, class.Name)), create(ctx, newStore(ns, class.Name))
		for _, s := range []*v1alpha1.EventStore{store, goes} {
			Eventually(read(ctx, s)).WithContext(ctx).Should(And(beReady(), HaveField("Finalizers", ConsistOf(v1alpha1.Finalizer)),
				HaveField("Status.Effective", HaveValue(And(
					HaveField("DuplicateWindow", "5m"), HaveField("Snapshots.History", BeEquivalentTo(3)), HaveField("DeletionPolicy", v1alpha1.DeletionPolicyDelete),
					HaveField("Retention.MaxAge", "365d"), HaveField("Replicas", BeEquivalentTo(1)), HaveField("Storage", v1alpha1.StorageFile),
					HaveField("Protection", v1alpha1.ProtectionErasable), HaveField("ManagementPolicy", v1alpha1.ManagementFull))))))
			publish(ctx, api, s, 3)
		}
		Expect(read(ctx, store)(Default).Spec.DeletionPolicy).To(BeEmpty())
		deleteStore(ctx, goes)
		_, err := api.Stream(ctx, goes.EventsStreamName())
		Expect(err).To(MatchError(jetstream.ErrStreamNotFound))

		Expect(k8s.Delete(ctx, class)).To(Succeed())
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(beStalled(v1alpha1.ReasonClassNotFound), HaveField("Finalizers", BeEmpty())))
		Eventually(eventsAbout(ctx, store)).WithContext(ctx).Should(ContainElement(And(
			HaveField("Type", "Warning"), HaveField("Reason", v1alpha1.ReasonStreamsNotDeleted), HaveField("Note", ContainSubstring(class.Name+" is gone")))))
		deleteStore(ctx, store)
		Expect(streamInfo(ctx, api, store.EventsStreamName()).State.Msgs).To(BeEquivalentTo(3))
	})

	It("that come later make no store delete what it retains, and none immutable", func(ctx context.Context) {
		api := js(single)
		class := newClass(ctx, single.URLs())
		store := create(ctx, newStore(newNamespace(ctx), class.Name))
		Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())
		publish(ctx, api, store, 3)
		changeClass(ctx, class, func(c *v1alpha1.EventStoreClass) {
			c.Spec.Defaults.DeletionPolicy, c.Spec.Defaults.DuplicateWindow = v1alpha1.DeletionPolicyDelete, "5m"
		})
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(beReady(), HaveField("Status.Effective.DuplicateWindow", "5m")))
		Expect(read(ctx, store)(Default)).To(And(HaveField("Finalizers", BeEmpty()), HaveField("Status.Effective.DeletionPolicy", v1alpha1.DeletionPolicyRetain)))
		changeClass(ctx, class, func(c *v1alpha1.EventStoreClass) {
			c.Spec.Defaults.DeletionPolicy, c.Spec.Defaults.Protection, c.Spec.Defaults.DuplicateWindow = "", v1alpha1.ProtectionImmutable, "6m"
		})
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(beReady(), HaveField("Status.Effective.DuplicateWindow", "6m")))
		Expect(streamInfo(ctx, api, store.EventsStreamName()).Config.DenyPurge).To(BeFalse())
		made := create(ctx, newStore(store.Namespace, class.Name))
		Eventually(read(ctx, made)).WithContext(ctx).Should(And(beReady(), HaveField("Status.Effective.Protection", v1alpha1.ProtectionImmutable)))
		Expect(streamInfo(ctx, api, made.EventsStreamName()).Config.DenyPurge).To(BeTrue())
		deleteStore(ctx, store)
		Expect(streamInfo(ctx, api, store.EventsStreamName()).State.Msgs).To(BeEquivalentTo(3))
	})
})

func readyReasonOf(store *v1alpha1.EventStore) string {
	for _, c := range store.Status.Conditions {
		if c.Type == v1alpha1.ConditionReady {
			return c.Reason
		}
	}
	return ""
}
