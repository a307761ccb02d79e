package controller_test

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/onsi/gomega/types"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
)

// refuseAge has the API server refuse statuses that tell of events which expire after an
// age, as if the operator ended before it wrote the status.
func refuseAge(ctx context.Context, namespace, age string) (again func()) {
	GinkgoHelper()
	expression := fmt.Sprintf("has(object.status.streams) && object.status.streams.exists(s, has(s.maxAge) && s.maxAge == '%s')", age)
	return refuseStatusesIf(ctx, namespace, expression, func(s *v1alpha1.EventStoreStatus) {
		s.Streams = []v1alpha1.StreamStatus{{Role: v1alpha1.StreamRoleEvents, Name: "x", MaxAge: age}}
	})
}

var _ = Describe("A shorter age of events", func() {
	var api jetstream.JetStream
	var store *v1alpha1.EventStore
	BeforeEach(func(ctx context.Context) {
		api = js(single)
		store = create(ctx, newStore(newNamespace(ctx), newClass(ctx, single.URLs()).Name))
		Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())
		publish(ctx, api, store, 4)
		recordedMessages(ctx, store, 4)
	})
	held := beStalled(v1alpha1.ReasonWouldDestroyEvents)
	age := func(age string) func(*v1alpha1.EventStore) {
		return func(s *v1alpha1.EventStore) { s.Spec.Retention.MaxAge = age }
	}
	pending := func(yes bool) types.GomegaMatcher {
		return HaveField("Status.Acceptances", HaveExactElements(HaveField("Pending", yes)))
	}
	messages := func(ctx context.Context) func() uint64 {
		return func() uint64 { return streamInfo(ctx, api, store.EventsStreamName()).State.Msgs }
	}
	isNotNext := HaveField("Status.Streams", HaveEach(HaveField("NextMaxAge", BeEmpty())))
	noLoss := And(beReady(), haveNoCondition(v1alpha1.ConditionDataLoss), isNotNext)
	// destroyed carries out what is accepted, and nothing says so in the status.
	destroyed := func(ctx context.Context) (again func()) {
		GinkgoHelper()
		olderThanASecond(ctx, api, store.EventsStreamName())
		change(ctx, store, age("1s"))
		Eventually(read(ctx, store)).WithContext(ctx).Should(held)
		again = refuseAge(ctx, store.Namespace, "1s")
		change(ctx, store, accept)
		Eventually(messages(ctx)).Should(BeZero())
		annotate(ctx, store, unique("poke"))
		return again
	}

	It("that has destroyed events is no loss, though nothing could be written after it", func(ctx context.Context) {
		again := destroyed(ctx)
		Consistently(read(ctx, store)).WithContext(ctx).WithTimeout(consistentTime).Should(haveNoCondition(v1alpha1.ConditionDataLoss))
		again()
		annotate(ctx, store, unique("poke"))
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(noLoss, pending(false)))
	})

	It("that has destroyed events is no loss, if it is taken back then", func(ctx context.Context) {
		destroyed(ctx)
		change(ctx, store, age("365d"))
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(noLoss, pending(false)))
	})

	It("is on record before the stream has it, also one that nobody had to accept", func(ctx context.Context) {
		again := refuseAge(ctx, store.Namespace, "1h")
		change(ctx, store, age("1h"))
		Eventually(func() time.Duration { return streamInfo(ctx, api, store.EventsStreamName()).Config.MaxAge }).Should(Equal(time.Hour))
		Expect(read(ctx, store)(Default).Status.Streams).To(ContainElement(And(HaveField("MaxAge", "365d"), HaveField("NextMaxAge", "1h"))))
		again()
		annotate(ctx, store, unique("poke"))
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(noLoss, HaveField("Status.Streams", ContainElement(HaveField("MaxAge", "1h")))))
	})

	It("that is not set yet lets no loss go untold", func(ctx context.Context) {
		olderThanASecond(ctx, api, store.EventsStreamName())
		change(ctx, store, func(s *v1alpha1.EventStore) {
			s.Spec.Retention.MaxAge, s.Spec.Retention.MaxBytes = "1s", quantity("7Ei")
		})
		Eventually(read(ctx, store)).WithContext(ctx).Should(held)
		change(ctx, store, accept)
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(beStalled(v1alpha1.ReasonOutOfStorage), pending(true),
			HaveField("Status.Streams", ContainElement(HaveField("NextMaxAge", "1s")))))
		s, err := api.Stream(ctx, store.EventsStreamName())
		Expect(err).NotTo(HaveOccurred())
		Expect(s.Purge(ctx)).To(Succeed())
		annotate(ctx, store, unique("poke"))
		lost := And(beStalled(v1alpha1.ReasonStreamPurged), haveCondition(v1alpha1.ConditionDataLoss, metav1.ConditionTrue, v1alpha1.ReasonStreamPurged),
			pending(false), isNotNext)
		Eventually(read(ctx, store)).WithContext(ctx).Should(lost)

		By("setting that age by hand")
		config := streamInfo(ctx, api, store.EventsStreamName()).Config
		config.MaxAge, config.Duplicates = time.Second, time.Second
		_, err = api.UpdateStream(ctx, config)
		Expect(err).NotTo(HaveOccurred())
		annotate(ctx, store, unique("poke"))
		Consistently(read(ctx, store)).WithContext(ctx).WithTimeout(consistentTime).Should(lost)
	})
})

var _ = Describe("A lower history of snapshots", func() {
	It("that has destroyed snapshots is no loss, though nothing could be written after it", func(ctx context.Context) {
		api := js(single)
		history := func(count int32) func(*v1alpha1.EventStore) {
			return func(s *v1alpha1.EventStore) { s.Spec.Snapshots.History = count }
		}
		store := create(ctx, newStore(newNamespace(ctx), newClass(ctx, single.URLs()).Name, history(3)))
		Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())
		put := func(count int) {
			GinkgoHelper()
			for range count {
				_, err := api.Publish(ctx, store.EventsStreamName()+".snapshots.order.order-1", []byte("{}"))
				Expect(err).NotTo(HaveOccurred())
			}
		}
		state := func() jetstream.StreamState { return streamInfo(ctx, api, store.SnapshotsStreamName()).State }
		put(3)
		change(ctx, store, history(1))
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(beStalled(v1alpha1.ReasonWouldDestroyEvents),
			HaveField("Status.Streams", ContainElement(And(HaveField("Role", v1alpha1.StreamRoleSnapshots), HaveField("LastSequence", BeEquivalentTo(3)))))))
		again := refuseStatusesIf(ctx, store.Namespace, "has(object.status.streams) && object.status.streams.exists(s, s.role == 'Snapshots' && s.messages == 1)",
			func(s *v1alpha1.EventStoreStatus) {
				s.Streams = []v1alpha1.StreamStatus{{Role: v1alpha1.StreamRoleSnapshots, Name: "x", Messages: 1}}
			})
		change(ctx, store, accept)
		Eventually(state).Should(HaveField("Msgs", BeEquivalentTo(1)))
		put(1)
		Expect(state()).To(HaveField("FirstSeq", BeEquivalentTo(4)), "nothing is left of what was on record")
		annotate(ctx, store, unique("poke"))
		Consistently(read(ctx, store)).WithContext(ctx).WithTimeout(consistentTime).Should(haveNoCondition(v1alpha1.ConditionDataLoss))
		again()
		annotate(ctx, store, unique("poke"))
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(beReady(), haveNoCondition(v1alpha1.ConditionDataLoss)))
	})
})
