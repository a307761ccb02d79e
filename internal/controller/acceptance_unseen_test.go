package controller_test

import (
	"context"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/onsi/gomega/types"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/controller"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv/natsserver"
)

// operatorOfItsOwn has a spec use a cluster with an operator of its own, and gives what stops
// and what starts it.
func operatorOfItsOwn() (stop, start func()) {
	GinkgoHelper()
	other, err := testenv.Start()
	Expect(err).NotTo(HaveOccurred())
	running := func() {}
	kubeBefore, clientBefore := kube, k8s
	DeferCleanup(func() {
		running()
		kube, k8s = kubeBefore, clientBefore
		Expect(other.Stop()).To(Succeed())
	})
	kube, k8s = other, other.Client
	watched.watch(other)
	start = func() {
		GinkgoHelper()
		running = startOperator(other, controller.Options{ResyncInterval: time.Hour})
	}
	start()
	return func() { running() }, start
}

var _ = Describe("A change that was accepted, or taken back, while nobody looked", func() {
	var servers *natsserver.Cluster
	var api jetstream.JetStream
	var store *v1alpha1.EventStore
	held := And(beStalled(v1alpha1.ReasonWouldDestroyEvents), haveCondition(v1alpha1.ConditionDataLossPrevented, metav1.ConditionTrue, v1alpha1.ReasonWouldDestroyEvents))
	untold := haveNoCondition(v1alpha1.ConditionDataLossPrevented)
	unreachable := haveCondition(v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonUnreachable)
	age := func(age string) func(*v1alpha1.EventStore) {
		return func(s *v1alpha1.EventStore) { s.Spec.Retention.MaxAge = age }
	}
	policy := func(policy v1alpha1.ManagementPolicy) func(*v1alpha1.EventStore) {
		return func(s *v1alpha1.EventStore) { s.Spec.ManagementPolicy = policy }
	}
	// asked makes a store with a change that is held back, and gives the token that is told.
	asked := func(ctx context.Context, on *natsserver.Cluster) string {
		GinkgoHelper()
		servers, api = on, js(on)
		store = create(ctx, newStore(newNamespace(ctx), newClass(ctx, on.URLs()).Name))
		Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())
		publish(ctx, api, store, 4)
		olderThanASecond(ctx, api, store.EventsStreamName())
		change(ctx, store, age("1s"))
		Eventually(read(ctx, store)).WithContext(ctx).Should(held)
		return tokenOf(read(ctx, store)(Default), v1alpha1.ConditionDataLossPrevented)
	}
	// asksAgain wants nothing to go but for another token.
	asksAgain := func(ctx context.Context, first string, too types.GomegaMatcher) {
		GinkgoHelper()
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(held, too))
		Expect(tokenOf(read(ctx, store)(Default), v1alpha1.ConditionDataLossPrevented)).NotTo(Equal(first))
		Expect(streamInfo(ctx, api, store.EventsStreamName()).State.Msgs).To(BeEquivalentTo(4))
		change(ctx, store, accept)
		Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())
	}
	unmatched := haveCondition(v1alpha1.ConditionAcceptanceUnmatched, metav1.ConditionTrue, v1alpha1.ReasonTokenUnknown)

	It("needs another token, if the servers were away", func(ctx context.Context) {
		token := asked(ctx, startNATS(1))
		servers.StopNode(0)
		change(ctx, store, acceptWith(token))
		Eventually(read(ctx, store)).WithContext(ctx).Should(unreachable)
		Expect(read(ctx, store)(Default)).NotTo(untold, "nothing was edited yet")
		change(ctx, store, age("365d"))
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(unreachable, untold))
		change(ctx, store, age("1s"))
		Expect(servers.StartNode(0)).To(Succeed())
		asksAgain(ctx, token, unmatched)
	})

	It("needs another token, if the store was Paused", func(ctx context.Context) {
		token := asked(ctx, single)
		change(ctx, store, policy(v1alpha1.ManagementPaused))
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(haveCondition(v1alpha1.ConditionReady, metav1.ConditionUnknown, v1alpha1.ReasonPaused), untold))
		change(ctx, store, acceptWith(token))
		change(ctx, store, age("365d"))
		change(ctx, store, age("1s"))
		change(ctx, store, policy(v1alpha1.ManagementFull))
		asksAgain(ctx, token, unmatched)
	})

	It("needs another token, if the operator was away", func(ctx context.Context) {
		stop, start := operatorOfItsOwn()
		token := asked(ctx, single)
		stop()
		change(ctx, store, acceptWith(token))
		change(ctx, store, age("365d"))
		change(ctx, store, age("1s"))
		start()
		asksAgain(ctx, token, unmatched)
	})

	It("is carried out, if the operator was away and it was not edited", func(ctx context.Context) {
		stop, start := operatorOfItsOwn()
		token := asked(ctx, single)
		stop()
		change(ctx, store, acceptWith(token))
		start()
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(beReady(), HaveField("Status.Acceptances", HaveExactElements(HaveField("Token", token)))))
	})

	It("needs another token, if it was accepted before the operator was away", func(ctx context.Context) {
		stop, start := operatorOfItsOwn()
		token := asked(ctx, single)
		change(ctx, store, func(s *v1alpha1.EventStore) { s.Spec.Snapshots.MaxBytes = quantity("7Ei") })
		Eventually(read(ctx, store)).WithContext(ctx).Should(held)
		change(ctx, store, accept)
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(beStalled(v1alpha1.ReasonOutOfStorage), HaveField("Status.Acceptances", ContainElement(HaveField("Pending", true)))))
		stop()
		change(ctx, store, age("365d"))
		change(ctx, store, func(s *v1alpha1.EventStore) { s.Spec.Retention.MaxAge, s.Spec.Snapshots.MaxBytes = "1s", nil })
		start()
		asksAgain(ctx, token, HaveField("Status.Acceptances", HaveExactElements(HaveField("Pending", false))))
	})
})
