package controller_test

import (
	"context"
	"regexp"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/onsi/gomega/types"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
)

// accept accepts what the conditions of a store ask about, the loss first.
func accept(s *v1alpha1.EventStore) {
	GinkgoHelper()
	token := tokenOf(s, v1alpha1.ConditionDataLoss)
	if token == "" {
		token = tokenOf(s, v1alpha1.ConditionDataLossPrevented)
	}
	Expect(token).NotTo(BeEmpty(), "no condition asks for anything: %+v", s.Status.Conditions)
	acceptWith(token)(s)
}

// acceptWith sets the annotation to a value.
func acceptWith(value string) func(*v1alpha1.EventStore) {
	return func(s *v1alpha1.EventStore) {
		if s.Annotations == nil {
			s.Annotations = map[string]string{}
		}
		s.Annotations[v1alpha1.AnnotationAcceptDataLoss] = value
	}
}

var printedToken = regexp.MustCompile(v1alpha1.AnnotationAcceptDataLoss + "=([0-9a-f]{16})$")

// tokenOf is the token that a condition prints, "" for none.
func tokenOf(s *v1alpha1.EventStore, condition string) string {
	told := meta.FindStatusCondition(s.Status.Conditions, condition)
	if told == nil {
		return ""
	}
	found := printedToken.FindStringSubmatch(told.Message)
	if found == nil {
		return ""
	}
	return found[1]
}

// consistentTime is how long what must not happen is waited for: many times what
// a pass takes.
const consistentTime = 500 * time.Millisecond

var _ = Describe("Data", func() {
	var class *v1alpha1.EventStoreClass
	var store *v1alpha1.EventStore
	var api jetstream.JetStream
	BeforeEach(func(ctx context.Context) {
		class = newClass(ctx, single.URLs())
		api = js(single)
		store = create(ctx, newStore(newNamespace(ctx), class.Name))
		Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())
	})
	// hold saves events and waits until the status knows.
	hold := func(ctx context.Context, count int) {
		GinkgoHelper()
		publish(ctx, api, store, count)
		Eventually(read(ctx, store)).WithContext(ctx).Should(HaveField("Status.Streams", ContainElement(HaveField("LastSequence", BeNumerically(">", 0)))))
	}
	// olderThan waits until every event is older than a number of seconds, which
	// only time can bring about.
	olderThan := func(ctx context.Context, seconds float64) {
		GinkgoHelper()
		Eventually(func() float64 {
			info := streamInfo(ctx, api, store.EventsStreamName())
			return info.TimeStamp.Sub(info.State.LastTime).Seconds()
		}).Should(BeNumerically(">", seconds))
	}
	lost := func(reason string) types.GomegaMatcher {
		return And(beStalled(reason), haveCondition(v1alpha1.ConditionDataLoss, metav1.ConditionTrue, reason))
	}

	It("is kept from a shorter retention until a person accepts the loss", func(ctx context.Context) {
		hold(ctx, 10)
		olderThan(ctx, 2)
		publish(ctx, api, store, 5)
		change(ctx, store, func(s *v1alpha1.EventStore) { s.Spec.Retention.MaxAge = "2s" })
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(
			beStalled(v1alpha1.ReasonWouldDestroyEvents),
			haveCondition(v1alpha1.ConditionDataLossPrevented, metav1.ConditionTrue, v1alpha1.ReasonWouldDestroyEvents),
			sayWhy(And(MatchRegexp(`1[0-5] of 15 messages`), MatchRegexp(v1alpha1.AnnotationAcceptDataLoss+"=[0-9a-f]{16}$")))))
		Expect(streamInfo(ctx, api, store.EventsStreamName())).To(And(
			HaveField("State.Msgs", BeEquivalentTo(15)), HaveField("Config.MaxAge", 365*24*time.Hour)))

		By("accepting something else")
		change(ctx, store, acceptWith("2"))
		Consistently(read(ctx, store)).WithContext(ctx).WithTimeout(consistentTime).Should(beStalled(v1alpha1.ReasonWouldDestroyEvents))

		By("accepting the loss that is told")
		change(ctx, store, accept)
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(beReady(), haveNoCondition(v1alpha1.ConditionDataLossPrevented)))
		Eventually(func() uint64 { return streamInfo(ctx, api, store.EventsStreamName()).State.Msgs }).Should(BeZero())
	})

	It("that is kept from a shorter retention is free again when the change is taken back", func(ctx context.Context) {
		hold(ctx, 1)
		olderThan(ctx, 1)
		change(ctx, store, func(s *v1alpha1.EventStore) { s.Spec.Retention.MaxAge = "1s" })
		Eventually(read(ctx, store)).WithContext(ctx).Should(beStalled(v1alpha1.ReasonWouldDestroyEvents))
		change(ctx, store, func(s *v1alpha1.EventStore) { s.Spec.Retention.MaxAge = "365d" })
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(beReady(), haveNoCondition(v1alpha1.ConditionDataLossPrevented)))
	})

	It("that never was: an empty stream that is deleted comes back at once", func(ctx context.Context) {
		before := read(ctx, store)(Default).Status.Streams
		for _, name := range []string{store.EventsStreamName(), store.SnapshotsStreamName()} {
			Expect(api.DeleteStream(ctx, name)).To(Succeed())
		}
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(beReady(), haveNoCondition(v1alpha1.ConditionDataLoss),
			HaveField("Status.Streams", HaveExactElements(
				HaveField("Created", Not(Equal(before[0].Created))), HaveField("Created", Not(Equal(before[1].Created)))))))
		streamInfo(ctx, api, store.EventsStreamName())
		streamInfo(ctx, api, store.SnapshotsStreamName())
	})

	It("that is gone with its stream is told, and the stream made again only when a person accepts it", func(ctx context.Context) {
		hold(ctx, 3)
		before := read(ctx, store)(Default).Status.Streams
		Expect(api.DeleteStream(ctx, store.EventsStreamName())).To(Succeed())
		Eventually(read(ctx, store)).WithContext(ctx).Should(lost(v1alpha1.ReasonStreamMissing))
		annotate(ctx, store, "1")
		Consistently(read(ctx, store)).WithContext(ctx).WithTimeout(consistentTime).Should(lost(v1alpha1.ReasonStreamMissing))
		_, err := api.Stream(ctx, store.EventsStreamName())
		Expect(err).To(MatchError(jetstream.ErrStreamNotFound))
		Expect(read(ctx, store)(Default).Status.Streams).To(Equal(before), "what was there stays on record")

		change(ctx, store, accept)
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(beReady(), haveNoCondition(v1alpha1.ConditionDataLoss)))

		By("losing it once more: what was accepted was one loss")
		hold(ctx, 3)
		Expect(api.DeleteStream(ctx, store.EventsStreamName())).To(Succeed())
		Eventually(read(ctx, store)).WithContext(ctx).Should(lost(v1alpha1.ReasonStreamMissing))
		change(ctx, store, accept)
		Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())
	})

	It("of a stream that was made again is told", func(ctx context.Context) {
		hold(ctx, 3)
		config := streamInfo(ctx, api, store.EventsStreamName()).Config
		Expect(api.DeleteStream(ctx, store.EventsStreamName())).To(Succeed())
		Eventually(read(ctx, store)).WithContext(ctx).Should(lost(v1alpha1.ReasonStreamMissing))
		_, err := api.CreateStream(ctx, config)
		Expect(err).NotTo(HaveOccurred())
		Eventually(read(ctx, store)).WithContext(ctx).Should(lost(v1alpha1.ReasonStreamRecreated))
		change(ctx, store, accept)
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(beReady(), haveNoCondition(v1alpha1.ConditionDataLoss)))
	})

	It("that waits keeps no edit of the stream that lets go of what is saved meanwhile", func(ctx context.Context) {
		hold(ctx, 3)
		s, err := api.Stream(ctx, store.EventsStreamName())
		Expect(err).NotTo(HaveOccurred())
		Expect(s.Purge(ctx)).To(Succeed())
		Eventually(func(g Gomega) {
			annotate(ctx, store, unique("poke"))
			g.Expect(read(ctx, store)(g)).To(lost(v1alpha1.ReasonStreamPurged))
		}).WithContext(ctx).Should(Succeed())
		config := streamInfo(ctx, api, store.EventsStreamName()).Config
		asked := config.MaxAge
		config.MaxAge, config.Duplicates = time.Second, time.Second
		_, err = api.UpdateStream(ctx, config)
		Expect(err).NotTo(HaveOccurred())
		Eventually(func() time.Duration { return streamInfo(ctx, api, store.EventsStreamName()).Config.MaxAge }).Should(Equal(asked))
		Expect(read(ctx, store)(Default)).To(lost(v1alpha1.ReasonStreamPurged))
		change(ctx, store, accept)
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(beReady(), haveNoCondition(v1alpha1.ConditionDataLoss)))
	})

	It("that is lost is begun anew as the store was, whatever the class has for new stores", func(ctx context.Context) {
		changeClass(ctx, class, func(c *v1alpha1.EventStoreClass) { c.Spec.Defaults.Protection = v1alpha1.ProtectionImmutable })
		store = create(ctx, newStore(store.Namespace, class.Name))
		Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())
		hold(ctx, 3)
		Expect(api.DeleteStream(ctx, store.EventsStreamName())).To(Succeed())
		Eventually(read(ctx, store)).WithContext(ctx).Should(lost(v1alpha1.ReasonStreamMissing))
		changeClass(ctx, class, func(c *v1alpha1.EventStoreClass) {
			c.Spec.Defaults.Protection, c.Spec.Defaults.Storage = "", v1alpha1.StorageMemory
		})
		change(ctx, store, accept)
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(beReady(),
			HaveField("Status.Effective.Storage", v1alpha1.StorageFile), HaveField("Status.Effective.Protection", v1alpha1.ProtectionImmutable)))
		Expect(streamInfo(ctx, api, store.EventsStreamName()).Config).To(And(
			HaveField("Storage", jetstream.FileStorage), HaveField("DenyDelete", true), HaveField("DenyPurge", true)))
	})

	It("is told of a stream that is deleted right after its first event", func(ctx context.Context) {
		class, api, namespace := newClass(ctx, single.URLs()), js(single), newNamespace(ctx)
		for range 6 {
			store := create(ctx, newStore(namespace, class.Name))
			Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())
			publish(ctx, api, store, 1)
			Expect(api.DeleteStream(ctx, store.EventsStreamName())).To(Succeed())
			Eventually(read(ctx, store)).WithContext(ctx).Should(And(beStalled(v1alpha1.ReasonStreamMissing),
				haveCondition(v1alpha1.ConditionDataLoss, metav1.ConditionTrue, v1alpha1.ReasonStreamMissing)))
		}
	})
})
