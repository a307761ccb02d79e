package controller_test

import (
	"context"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/onsi/gomega/types"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
)

var _ = Describe("A status that says the same again", func() {
	It("is not written, though a pass connects before it fails", func(ctx context.Context) {
		servers := startNATS(1, func(o *server.Options) {
			deaf := &server.Permissions{Subscribe: &server.SubjectPermission{Deny: []string{"aether.owner.*"}}}
			o.Users = []*server.User{{Username: "u", Password: "p", Permissions: deaf}}
		})
		ns := newNamespace(ctx)
		secret := newSecret(ctx, ns, map[string]string{"username": "u", "password": "p"})
		class := newClass(ctx, servers.URLs(), withCredentials(ns, secret.Name))
		store := create(ctx, newStore(ns, class.Name))
		Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())
		deleteStore(ctx, store)
		By("taking its streams back, which takes a question that it may not ask")
		store = create(ctx, newStore(ns, class.Name, func(s *v1alpha1.EventStore) { s.Name = store.Name }))
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(beStalled(v1alpha1.ReasonPermissionDenied),
			haveCondition(v1alpha1.ConditionConnected, metav1.ConditionFalse, v1alpha1.ReasonPermissionDenied)))
		since := func(g Gomega) time.Time {
			return meta.FindStatusCondition(read(ctx, store)(g).Status.Conditions, v1alpha1.ConditionConnected).LastTransitionTime.Time
		}
		before := since(Default)
		// Times of conditions are whole seconds.
		Eventually(func() time.Duration { return time.Since(before) }).Should(BeNumerically(">", 2*time.Second))
		Consistently(func(g Gomega) time.Time {
			annotate(ctx, store, unique("poke"))
			return since(g)
		}).WithTimeout(4 * consistentTime).Should(BeTemporally("==", before))
	})
})

var _ = Describe("StreamsOwned", func() {
	var class *v1alpha1.EventStoreClass
	var api jetstream.JetStream
	var store *v1alpha1.EventStore
	BeforeEach(func(ctx context.Context) {
		class, api = newClass(ctx, single.URLs()), js(single)
		store = create(ctx, newStore(newNamespace(ctx), class.Name))
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(beReady(), says(HavePrefix("The streams name this EventStore"))))
		publish(ctx, api, store, 3)
		olderThanASecond(ctx, api, store.EventsStreamName())
		deleteStore(ctx, store)
	})
	// again applies the store anew, which is held back: it asks for an age that destroys.
	again := func(ctx context.Context) {
		GinkgoHelper()
		store = create(ctx, newStore(store.Namespace, class.Name, func(s *v1alpha1.EventStore) { s.Name, s.Spec.Retention.MaxAge = store.Name, "1s" }))
		Eventually(read(ctx, store)).WithContext(ctx).Should(beStalled(v1alpha1.ReasonWouldDestroyEvents))
	}
	notTold := haveCondition(v1alpha1.ConditionStreamsOwned, metav1.ConditionUnknown, v1alpha1.ReasonUnknown)
	owned := haveCondition(v1alpha1.ConditionStreamsOwned, metav1.ConditionTrue, v1alpha1.ReasonOwned)

	It("says of streams that are taken back, and wait for that, whose name they carry", func(ctx context.Context) {
		again(ctx)
		Expect(read(ctx, store)(Default)).To(And(owned, says(ContainSubstring("is to be taken back"))))
		change(ctx, store, accept)
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(beReady(), owned, says(HavePrefix("The streams name this EventStore"))))
	})

	It("is not True of streams that are given back until they are the store's", func(ctx context.Context) {
		changeClass(ctx, class, giveBack(store))
		for _, name := range []string{store.EventsStreamName(), store.SnapshotsStreamName()} {
			config := streamInfo(ctx, api, name).Config
			config.Metadata[v1alpha1.MetadataNamespaceUID] = "of-an-earlier-namespace"
			_, err := api.UpdateStream(ctx, config)
			Expect(err).NotTo(HaveOccurred())
		}
		again(ctx)
		Expect(read(ctx, store)(Default)).To(notTold)
		change(ctx, store, accept)
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(beReady(), owned))
	})

	It("is not True while one of the streams is not there", func(ctx context.Context) {
		Expect(api.DeleteStream(ctx, store.SnapshotsStreamName())).To(Succeed())
		again(ctx)
		Expect(read(ctx, store)(Default)).To(notTold)
		change(ctx, store, accept)
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(beReady(), owned))
	})
})

// says matches the message of StreamsOwned.
func says(message types.GomegaMatcher) types.GomegaMatcher {
	return WithTransform(func(store *v1alpha1.EventStore) string {
		return meta.FindStatusCondition(store.Status.Conditions, v1alpha1.ConditionStreamsOwned).Message
	}, message)
}
