package controller_test

import (
	"context"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/onsi/gomega/types"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv/natsserver"
)

// A loss waits for a person, and pods go on to save meanwhile.
var _ = Describe("While a loss waits, what is saved since", func() {
	var servers *natsserver.Cluster
	var class *v1alpha1.EventStoreClass
	var api jetstream.JetStream
	var store *v1alpha1.EventStore
	begin := func(ctx context.Context, on *natsserver.Cluster, change ...func(*v1alpha1.EventStore)) {
		GinkgoHelper()
		servers, class, api = on, newClass(ctx, on.URLs()), js(on)
		store = create(ctx, newStore(newNamespace(ctx), class.Name, change...))
		Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())
	}
	lost := func(reason string, what ...types.GomegaMatcher) types.GomegaMatcher {
		return And(beStalled(reason), haveCondition(v1alpha1.ConditionDataLoss, metav1.ConditionTrue, reason), sayWhy(And(what...)))
	}
	// looked gives the store when the operator has looked at it, as it is then.
	looked := func(ctx context.Context, matcher types.GomegaMatcher) *v1alpha1.EventStore {
		GinkgoHelper()
		Eventually(func(g Gomega) {
			annotate(ctx, store, unique("poke"))
			g.Eventually(read(ctx, store)).WithContext(ctx).WithTimeout(5 * time.Second).Should(matcher)
		}).WithContext(ctx).Should(Succeed())
		return read(ctx, store)(Default)
	}
	// recordedSince waits until the status has that a stream goes to a sequence since.
	recordedSince := func(ctx context.Context, last int) {
		GinkgoHelper()
		looked(ctx, HaveField("Status.Streams", ContainElement(HaveField("Since", And(Not(BeNil()), HaveField("LastSequence", BeEquivalentTo(last)))))))
	}
	// first puts the token of a loss into the annotation that more was lost after, which
	// accepts nothing any more, and then accepts all that is told.
	first := func(ctx context.Context, token string, both types.GomegaMatcher) {
		GinkgoHelper()
		Expect(tokenOf(looked(ctx, both), v1alpha1.ConditionDataLoss)).NotTo(Equal(token), "what was lost since is accepted by the token of the first loss")
		change(ctx, store, acceptWith(token))
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(both, haveCondition(v1alpha1.ConditionAcceptanceUnmatched, metav1.ConditionTrue, v1alpha1.ReasonTokenUnknown)))
		change(ctx, store, accept)
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(beReady(), haveNoCondition(v1alpha1.ConditionDataLoss),
			HaveField("Status.Streams", HaveEach(HaveField("Since", BeNil())))))
	}

	It("is told as lost when the servers go back for a second time", func(ctx context.Context) {
		begin(ctx, startNATS(1))
		publish(ctx, api, store, 5)
		lose := rememberDataOf(servers, 0)
		awaitLast(ctx, api, store, 5)
		publish(ctx, api, store, 5)
		recordedMessages(ctx, store, 10)
		lose()
		awaitLast(ctx, api, store, 5)
		token := tokenOf(looked(ctx, lost(v1alpha1.ReasonStreamRolledBack, ContainSubstring("10 messages up to sequence 10"))), v1alpha1.ConditionDataLoss)
		publish(ctx, api, store, 15)
		lose = rememberDataOf(servers, 0)
		awaitLast(ctx, api, store, 20)
		publish(ctx, api, store, 30)
		recordedSince(ctx, 50)
		lose()
		awaitLast(ctx, api, store, 20)
		publish(ctx, api, store, 40)
		first(ctx, token, lost(v1alpha1.ReasonStreamRolledBack, ContainSubstring("10 messages up to sequence 10"), ContainSubstring("50 messages up to sequence 50")))
		Expect(read(ctx, store)(Default).Status.Acceptances).To(HaveExactElements(HaveField("Message", ContainSubstring("50 messages up to sequence 50"))))
		Eventually(toldOf(ctx, store)).Should(ContainElement(anEvent("Warning", v1alpha1.ReasonStreamRolledBack, ContainSubstring("more was lost: stream "+store.EventsStreamName()+" went back"))))
	})

	It("is told as lost when it is purged, each time anew", func(ctx context.Context) {
		begin(ctx, single)
		publish(ctx, api, store, 5)
		recordedMessages(ctx, store, 5)
		purge(ctx, api, store.EventsStreamName())
		token := tokenOf(looked(ctx, lost(v1alpha1.ReasonStreamPurged)), v1alpha1.ConditionDataLoss)
		for last, saved := 5, 0; saved < 2; saved++ {
			last += 100
			publish(ctx, api, store, 100)
			recordedSince(ctx, last)
			Expect(tokenOf(read(ctx, store)(Default), v1alpha1.ConditionDataLoss)).To(Equal(token), "what is saved makes no other token")
			purge(ctx, api, store.EventsStreamName())
			told := looked(ctx, lost(v1alpha1.ReasonStreamPurged, WithTransform(func(message string) int { return strings.Count(message, "held 100 messages") }, Equal(saved+1))))
			Expect(tokenOf(told, v1alpha1.ConditionDataLoss)).NotTo(Equal(token))
			token = tokenOf(told, v1alpha1.ConditionDataLoss)
		}
		change(ctx, store, accept)
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(beReady(), haveNoCondition(v1alpha1.ConditionDataLoss)))
	})

	It("is told as lost of snapshots", func(ctx context.Context) {
		begin(ctx, single)
		put := func(actors ...string) {
			GinkgoHelper()
			for _, actor := range actors {
				_, err := api.Publish(ctx, store.EventsStreamName()+".snapshots.order."+actor, []byte("{}"))
				Expect(err).NotTo(HaveOccurred())
			}
		}
		put("a", "b", "c")
		recordedSnapshots(ctx, api, store)
		purge(ctx, api, store.SnapshotsStreamName())
		token := tokenOf(looked(ctx, lost(v1alpha1.ReasonStreamPurged)), v1alpha1.ConditionDataLoss)
		put("a", "b", "c", "d")
		recordedSince(ctx, 7)
		purge(ctx, api, store.SnapshotsStreamName())
		put("a")
		first(ctx, token, lost(v1alpha1.ReasonStreamPurged, ContainSubstring("3 messages up to sequence 3"), ContainSubstring("4 messages up to sequence 7")))
	})

	It("is told as lost when the stream is deleted, that others made again", func(ctx context.Context) {
		begin(ctx, single)
		publish(ctx, api, store, 5)
		recordedMessages(ctx, store, 5)
		config := streamInfo(ctx, api, store.EventsStreamName()).Config
		Expect(api.DeleteStream(ctx, config.Name)).To(Succeed())
		looked(ctx, lost(v1alpha1.ReasonStreamMissing))
		_, err := api.CreateStream(ctx, config)
		Expect(err).NotTo(HaveOccurred())
		publish(ctx, api, store, 7)
		recordedSince(ctx, 7)
		token := tokenOf(looked(ctx, lost(v1alpha1.ReasonStreamRecreated)), v1alpha1.ConditionDataLoss)
		Expect(api.DeleteStream(ctx, config.Name)).To(Succeed())
		first(ctx, token, lost(v1alpha1.ReasonStreamMissing, ContainSubstring("5 messages up to sequence 5"), ContainSubstring("7 messages up to sequence 7")))
	})

	It("is told as lost, though the stream is restored to what it was first", func(ctx context.Context) {
		begin(ctx, single)
		publish(ctx, api, store, 5)
		recordedMessages(ctx, store, 5)
		backup, err := natsserver.TakeBackup(ctx, api.Conn(), store.EventsStreamName())
		Expect(err).NotTo(HaveOccurred())
		purge(ctx, api, store.EventsStreamName())
		looked(ctx, lost(v1alpha1.ReasonStreamPurged))
		publish(ctx, api, store, 2)
		recordedSince(ctx, 7)
		Expect(api.DeleteStream(ctx, store.EventsStreamName())).To(Succeed())
		looked(ctx, lost(v1alpha1.ReasonStreamMissing))
		Expect(backup.Restore(ctx, api.Conn())).To(Succeed())
		looked(ctx, lost(v1alpha1.ReasonStreamMissing, ContainSubstring("was lost and is back"), ContainSubstring("2 messages up to sequence 7")))
		change(ctx, store, accept)
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(beReady(), haveNoCondition(v1alpha1.ConditionDataLoss)))
		Expect(streamInfo(ctx, api, store.EventsStreamName()).State.Msgs).To(BeEquivalentTo(5))
	})

	It("does not end what was told, also when that would have expired by itself", func(ctx context.Context) {
		begin(ctx, single, func(s *v1alpha1.EventStore) { s.Spec.Retention.MaxAge = "10s" })
		publish(ctx, api, store, 5)
		recordedMessages(ctx, store, 5)
		purge(ctx, api, store.EventsStreamName())
		token := tokenOf(looked(ctx, lost(v1alpha1.ReasonStreamPurged)), v1alpha1.ConditionDataLoss)
		olderThan(ctx, api, store.EventsStreamName(), 10*time.Second)
		publish(ctx, api, store, 1)
		recordedSince(ctx, 6)
		Expect(tokenOf(looked(ctx, lost(v1alpha1.ReasonStreamPurged)), v1alpha1.ConditionDataLoss)).To(Equal(token))
		change(ctx, store, accept)
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(beReady(), haveNoCondition(v1alpha1.ConditionDataLoss)))
	})
})
