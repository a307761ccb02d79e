package controller_test

import (
	"context"
	"os"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/access"
	"git.flowmade.one/flowmade-one/aether-operator/internal/controller"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv/callout"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv/natsserver"
)

// withAdmin adds an administrator of the streams to servers that ask the operator.
func withAdmin(o *server.Options) {
	for _, account := range o.Accounts {
		if account.Name == "AETHER" {
			o.Users = append(o.Users, &server.User{Username: "admin", Password: "p", Account: account})
		}
	}
	o.AuthCallout.AuthUsers = append(o.AuthCallout.AuthUsers, "admin")
}

var asAdmin = nats.UserInfo("admin", "p")

// A class is led to servers that have a stream of another cluster in the place of a
// store's. Whatever becomes of the store after that, no pod reads it.
var _ = Describe("A stream of another cluster in the place of a store's", func() {
	var class *v1alpha1.EventStoreClass
	var store *v1alpha1.EventStore
	var here, there *natsserver.Cluster
	var pod *corev1.Pod
	var token string

	servers := func(setup *callout.Setup) *natsserver.Cluster {
		GinkgoHelper()
		dir, err := os.MkdirTemp("", "nats-")
		Expect(err).NotTo(HaveOccurred())
		started, err := setup.Start(dir, 1, withAdmin)
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(func() { started.Stop(); Expect(os.RemoveAll(dir)).To(Succeed()) })
		return started
	}
	BeforeEach(func(ctx context.Context) {
		setup, err := callout.New()
		Expect(err).NotTo(HaveOccurred())
		here, there = servers(setup), servers(setup)
		objects := setup.Class(unique("class"), here)
		class = objects[2].(*v1alpha1.EventStoreClass)
		letReadSecrets(ctx, "default")
		for _, o := range objects {
			Expect(k8s.Create(ctx, o)).To(Succeed())
			DeferCleanup(func(ctx context.Context) { Expect(client.IgnoreNotFound(k8s.Delete(ctx, o))).To(Succeed()) })
		}
		store = create(ctx, newStore(newNamespace(ctx), class.Name))
		Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())
		api := js(here, asAdmin)
		_, err = api.Publish(ctx, store.EventsStreamName()+".events.order.order-1", []byte("ours"))
		Expect(err).NotTo(HaveOccurred())
		config := streamInfo(ctx, api, store.EventsStreamName()).Config
		config.Metadata[v1alpha1.MetadataUID], config.Metadata[v1alpha1.MetadataClusterUID], config.Metadata[v1alpha1.MetadataNamespaceUID] = "of-another", "another-cluster", "another-namespace"
		api = js(there, asAdmin)
		_, err = api.CreateStream(ctx, config)
		Expect(err).NotTo(HaveOccurred())
		_, err = api.Publish(ctx, store.EventsStreamName()+".events.order.order-1", []byte("theirs"))
		Expect(err).NotTo(HaveOccurred())
		pod, err = kube.NewPod(ctx, store.Namespace, unique("pod"), "app")
		Expect(err).NotTo(HaveOccurred())
		token, err = kube.Token(ctx, pod)
		Expect(err).NotTo(HaveOccurred())
	})

	// led leads the class to servers, and waits until pods are answered there.
	led := func(ctx context.Context, to *natsserver.Cluster) {
		GinkgoHelper()
		changeClass(ctx, class, func(c *v1alpha1.EventStoreClass) { c.Spec.Servers = []v1alpha1.ServerURL{v1alpha1.ServerURL(to.URL())} })
		Eventually(func(g Gomega) *v1alpha1.EventStoreClass {
			current := readClass(ctx, class)(g)
			g.Expect(current.Status.ObservedGeneration).To(Equal(current.Generation))
			return current
		}).Should(beReady())
	}
	login := func(at *natsserver.Cluster) (*nats.Conn, error) {
		return nats.Connect(at.URL(), nats.UserInfo(store.EventsStreamName(), ""), nats.TokenHandler(func() string { return token }),
			nats.CustomInboxPrefix(access.InboxPrefix(string(pod.UID))), nats.NoReconnect(), nats.Timeout(5*time.Second))
	}
	// reads is what a pod reads of the first event, and else why it reads none.
	reads := func(at *natsserver.Cluster) func() string {
		return func() string {
			nc, err := login(at)
			if err != nil {
				return "refused: " + err.Error()
			}
			defer nc.Close()
			answer, err := nc.Request("$JS."+callout.Domain+".API.DIRECT.GET."+store.EventsStreamName(), []byte(`{"seq":1}`), 2*time.Second)
			if err != nil {
				return "no answer: " + err.Error()
			}
			return string(answer.Data)
		}
	}
	letsNobodyIn := func() {
		GinkgoHelper()
		Consistently(reads(there)).WithTimeout(4 * consistentTime).WithPolling(consistentTime / 2).Should(HavePrefix("refused"))
	}
	ready := func(status metav1.ConditionStatus, reason string) OmegaMatcher {
		return haveCondition(v1alpha1.ConditionReady, status, reason)
	}
	paused := ready(metav1.ConditionUnknown, v1alpha1.ReasonPaused)
	unreachable := ready(metav1.ConditionFalse, v1alpha1.ReasonUnreachable)
	disowned := haveCondition(v1alpha1.ConditionStreamsOwned, metav1.ConditionFalse, v1alpha1.ReasonNotGivenBack)
	owned := haveCondition(v1alpha1.ConditionStreamsOwned, metav1.ConditionTrue, v1alpha1.ReasonOwned)
	manage := func(policy v1alpha1.ManagementPolicy) func(*v1alpha1.EventStore) {
		return func(s *v1alpha1.EventStore) { s.Spec.ManagementPolicy = policy }
	}
	refused := func(ctx context.Context) {
		GinkgoHelper()
		Expect(reads(here)()).To(Equal("ours"))
		led(ctx, there)
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(beStalled(v1alpha1.ReasonNotGivenBack), disowned))
		letsNobodyIn()
	}

	It("is read by no pod, also when the store is paused after that, or observed", func(ctx context.Context) {
		refused(ctx)
		change(ctx, store, manage(v1alpha1.ManagementPaused))
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(paused, disowned))
		letsNobodyIn()
		change(ctx, store, manage(v1alpha1.ManagementObserve))
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(beStalled(v1alpha1.ReasonNotGivenBack), disowned))
		letsNobodyIn()
	})

	It("is read by no pod when the store was paused before that", func(ctx context.Context) {
		change(ctx, store, manage(v1alpha1.ManagementPaused))
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(paused, owned))
		Expect(reads(here)()).To(Equal("ours"))
		led(ctx, there)
		letsNobodyIn()
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(paused, disowned))
		Expect(streamInfo(ctx, js(there, asAdmin), store.EventsStreamName()).Config.Metadata).To(HaveKeyWithValue(v1alpha1.MetadataUID, "of-another"))

		By("leading the class back: what is the store's own is used again, though it is paused")
		led(ctx, here)
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(paused, owned))
		Eventually(reads(here)).Should(Equal("ours"))
	})

	It("is read by no pod after an outage, whichever operator tells of it", func(ctx context.Context) {
		refused(ctx)
		there.StopNode(0)
		poke := func(want OmegaMatcher) {
			GinkgoHelper()
			Eventually(func(g Gomega) {
				annotate(ctx, store, unique("poke"))
				g.Expect(read(ctx, store)(g)).To(want)
			}).WithContext(ctx).Should(Succeed())
		}
		poke(And(unreachable, disowned))
		stop := startOperator(kube, controller.Options{ResyncInterval: time.Hour})
		DeferCleanup(stop)
		poke(And(unreachable, disowned))
		Expect(there.StartNode(0)).To(Succeed())
		letsNobodyIn()
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(beStalled(v1alpha1.ReasonNotGivenBack), disowned))
	})

	It("is read by no pod when the status was taken away", func(ctx context.Context) {
		refused(ctx)
		current := read(ctx, store)(Default)
		current.Status = v1alpha1.EventStoreStatus{}
		Expect(k8s.Status().Update(ctx, current)).To(Succeed())
		letsNobodyIn()
		annotate(ctx, store, unique("poke"))
		Eventually(read(ctx, store)).WithContext(ctx).Should(disowned)
		letsNobodyIn()
	})

	It("is read by no pod when the servers were out of reach when the class was led there, and the store's own is when it is led back", func(ctx context.Context) {
		there.StopNode(0)
		changeClass(ctx, class, func(c *v1alpha1.EventStoreClass) {
			c.Spec.Servers = []v1alpha1.ServerURL{v1alpha1.ServerURL(there.URL())}
		})
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(unreachable, owned))
		Expect(there.StartNode(0)).To(Succeed())
		letsNobodyIn()
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(beStalled(v1alpha1.ReasonNotGivenBack), disowned))
		led(ctx, here)
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(beReady(), owned))
		Eventually(reads(here)).Should(Equal("ours"))
	})

	It("does not end the connections of pods while it is not known whose the store's own is", func(ctx context.Context) {
		nc, err := login(here)
		Expect(err).NotTo(HaveOccurred())
		defer nc.Close()
		current := read(ctx, store)(Default)
		current.Status = v1alpha1.EventStoreStatus{}
		Expect(k8s.Status().Update(ctx, current)).To(Succeed())
		changeClass(ctx, class, func(c *v1alpha1.EventStoreClass) {
			c.Spec.Servers = append(c.Spec.Servers, v1alpha1.ServerURL(here.URL()+"/"))
		})
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(beReady(), owned))
		Consistently(nc.IsConnected).WithTimeout(4 * consistentTime).Should(BeTrue())
		Expect(reads(here)()).To(Equal("ours"))
	})
})
