package controller_test

import (
	"context"
	"net"
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv/natsserver"
)

// withCredentials makes a class read its credentials from a Secret.
func withCredentials(namespace, name string) classOption {
	return func(c *v1alpha1.EventStoreClass) {
		c.Spec.Credentials = &v1alpha1.Credentials{SecretRef: v1alpha1.SecretReference{Namespace: namespace, Name: name}}
	}
}

// newSecret makes a Secret that the operator may read.
func newSecret(ctx context.Context, namespace string, data map[string]string) *corev1.Secret {
	GinkgoHelper()
	letReadSecrets(ctx, namespace)
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: unique("secret")}, StringData: data}
	Expect(k8s.Create(ctx, secret)).To(Succeed())
	return secret
}

func readClass(ctx context.Context, class *v1alpha1.EventStoreClass) func(Gomega) *v1alpha1.EventStoreClass {
	return func(g Gomega) *v1alpha1.EventStoreClass {
		current := &v1alpha1.EventStoreClass{}
		g.Expect(k8s.Get(ctx, client.ObjectKeyFromObject(class), current)).To(Succeed())
		return current
	}
}

// unusedURL is the address of a server that does not run.
func unusedURL() string {
	GinkgoHelper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	Expect(err).NotTo(HaveOccurred())
	defer func() { _ = listener.Close() }()
	return "nats://" + listener.Addr().String()
}

var _ = Describe("A fault", func() {
	It("of the class: it does not exist", func(ctx context.Context) {
		other := newClass(ctx, single.URLs())
		name := unique("late")
		store := create(ctx, newStore(newNamespace(ctx), name))
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(
			beStalled(v1alpha1.ReasonClassNotFound), sayWhy(And(ContainSubstring(name), ContainSubstring(other.Name))),
			haveCondition(v1alpha1.ConditionConnected, metav1.ConditionFalse, v1alpha1.ReasonClassNotFound)))

		By("creating it")
		newClass(ctx, single.URLs(), func(c *v1alpha1.EventStoreClass) { c.Name = name })
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(beReady(), haveNoCondition(v1alpha1.ConditionStalled)))
	})

	It("of the network: no server answers", func(ctx context.Context) {
		class := newClass(ctx, []string{unusedURL()})
		store := create(ctx, newStore(newNamespace(ctx), class.Name, func(s *v1alpha1.EventStore) { s.Spec.DeletionPolicy = v1alpha1.DeletionPolicyDelete }))
		unreachable := And(
			haveCondition(v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonUnreachable),
			haveCondition(v1alpha1.ConditionReconciling, metav1.ConditionTrue, v1alpha1.ReasonProgressingWithRetry))
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(unreachable,
			haveCondition(v1alpha1.ConditionConnected, metav1.ConditionFalse, v1alpha1.ReasonUnreachable)))
		Eventually(readClass(ctx, class)).WithContext(ctx).Should(unreachable)
		// Nothing was made, so nothing holds the resource.
		Expect(read(ctx, store)(Default)).To(And(HaveField("Finalizers", BeEmpty()), HaveField("Status.Binding", BeNil())))

		By("correcting the servers of the class")
		before := class.DeepCopy()
		class.Spec.Servers = []v1alpha1.ServerURL{v1alpha1.ServerURL(single.URL())}
		Expect(k8s.Patch(ctx, class, client.MergeFrom(before))).To(Succeed())
		Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())
		Eventually(readClass(ctx, class)).WithContext(ctx).Should(beReady())
	})

	It("of the credentials: missing, empty, wrong, then right", func(ctx context.Context) {
		servers := startNATS(1, natsserver.WithUser("operator", "right"))
		ns := newNamespace(ctx)
		letReadSecrets(ctx, ns)
		const name = "nats"
		class := newClass(ctx, servers.URLs(), withCredentials(ns, name))
		store := create(ctx, newStore(ns, class.Name))
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(
			beStalled(v1alpha1.ReasonCredentialsInvalid), sayWhy(ContainSubstring(ns+"/"+name))))
		Eventually(readClass(ctx, class)).WithContext(ctx).Should(beStalled(v1alpha1.ReasonCredentialsInvalid))

		secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}, StringData: map[string]string{"user": "operator"}}
		Expect(k8s.Create(ctx, secret)).To(Succeed())
		annotate(ctx, store, "1")
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(
			beStalled(v1alpha1.ReasonCredentialsInvalid), sayWhy(ContainSubstring("none of the keys"))))

		secret.StringData = map[string]string{"username": "operator", "password": "not-to-be-told"}
		Expect(k8s.Update(ctx, secret)).To(Succeed())
		annotate(ctx, store, "2")
		refused := And(beStalled(v1alpha1.ReasonAuthenticationFailed), sayWhy(Not(ContainSubstring("not-to-be-told"))))
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(refused,
			haveCondition(v1alpha1.ConditionConnected, metav1.ConditionFalse, v1alpha1.ReasonAuthenticationFailed)))
		Eventually(readClass(ctx, class)).WithContext(ctx).Should(refused)

		By("correcting the Secret, which wakes nobody")
		secret.StringData = map[string]string{"username": "operator", "password": "right"}
		Expect(k8s.Update(ctx, secret)).To(Succeed())
		Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())
		Eventually(readClass(ctx, class)).WithContext(ctx).Should(beReady())
		binding := bindingOf(ctx, store)
		Expect(binding.Data).NotTo(HaveKey("username"), "the operator's own credentials")
		Expect(binding.Data).NotTo(HaveKey("password"), "the operator's own credentials")
		Expect(js(servers, nats.UserInfo("operator", "right")).AccountInfo(ctx)).To(HaveField("Streams", 2))
	})

	It("of JetStream: it is off", func(ctx context.Context) {
		core, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, NoLog: true})
		Expect(err).NotTo(HaveOccurred())
		core.Start()
		DeferCleanup(func() { core.Shutdown(); core.WaitForShutdown() })
		class := newClass(ctx, []string{core.ClientURL()})
		store := create(ctx, newStore(newNamespace(ctx), class.Name))
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(
			beStalled(v1alpha1.ReasonJetStreamUnavailable),
			haveCondition(v1alpha1.ConditionConnected, metav1.ConditionFalse, v1alpha1.ReasonJetStreamUnavailable)))
	})

	It("of permissions: the account lacks one", func(ctx context.Context) {
		servers := startNATS(1, func(o *server.Options) {
			o.Users = []*server.User{{Username: "u", Password: "p", Permissions: &server.Permissions{
				Publish: &server.SubjectPermission{Deny: []string{"$JS.API.STREAM.CREATE.>"}},
			}}}
		})
		ns := newNamespace(ctx)
		secret := newSecret(ctx, ns, map[string]string{"username": "u", "password": "p"})
		class := newClass(ctx, servers.URLs(), withCredentials(ns, secret.Name))
		store := create(ctx, newStore(ns, class.Name))
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(
			beStalled(v1alpha1.ReasonPermissionDenied), sayWhy(ContainSubstring("$JS.API.STREAM.CREATE."+store.EventsStreamName()))))
		By("looking at the class, which says what to add")
		Eventually(readClass(ctx, class)).WithContext(ctx).Should(And(
			beStalled(v1alpha1.ReasonPermissionDenied), sayWhy(And(ContainSubstring("may not publish to $JS.API.STREAM.CREATE.*: give it"), ContainSubstring("section Credentials")))))
	})

	It("of permissions: what is told only to who listens, or who answers others", func(ctx context.Context) {
		servers := startNATS(1, func(o *server.Options) {
			o.Users = []*server.User{{Username: "u", Password: "p", Permissions: &server.Permissions{
				Publish:   &server.SubjectPermission{Deny: []string{"$JS.API.STREAM.LIST", "aether.owner.*"}},
				Subscribe: &server.SubjectPermission{Deny: []string{"aether.owner.*"}},
			}}}
		})
		ns := newNamespace(ctx)
		secret := newSecret(ctx, ns, map[string]string{"username": "u", "password": "p"})
		class := newClass(ctx, servers.URLs(), withCredentials(ns, secret.Name))
		store := create(ctx, newStore(ns, class.Name))
		Eventually(readClass(ctx, class)).WithContext(ctx).Should(And(
			beStalled(v1alpha1.ReasonPermissionDenied),
			sayWhy(ContainSubstring("may not publish to $JS.API.STREAM.LIST, aether.owner.* and not subscribe to aether.owner.*: give it"))))
		// What needs none of them goes on.
		Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())
	})

	It("of permissions is none with those that the documentation lists", func(ctx context.Context) {
		page, err := os.ReadFile("../../docs/eventstoreclass.md")
		Expect(err).NotTo(HaveOccurred())
		allowed := func(verb string) []string {
			list := regexp.MustCompile(`(?s)` + verb + `: \[(.*?)\]`).FindSubmatch(page)
			Expect(list).To(HaveLen(2), "docs/eventstoreclass.md has no list of what the operator may "+verb)
			return strings.FieldsFunc(string(list[1]), func(r rune) bool { return strings.ContainsRune(", \n\"", r) })
		}
		servers := startNATS(3, func(o *server.Options) {
			o.Users = []*server.User{
				{Username: "operator", Password: "p", Permissions: &server.Permissions{
					Publish:   &server.SubjectPermission{Allow: allowed("publish")},
					Subscribe: &server.SubjectPermission{Allow: allowed("subscribe")},
				}},
				{Username: "admin", Password: "p"},
			}
		})
		ns := newNamespace(ctx)
		secret := newSecret(ctx, ns, map[string]string{"username": "operator", "password": "p"})
		class := newClass(ctx, servers.URLs(), withCredentials(ns, secret.Name))
		store := create(ctx, newStore(ns, class.Name, func(s *v1alpha1.EventStore) {
			s.Spec.Replicas, s.Spec.DeletionPolicy = 3, v1alpha1.DeletionPolicyDelete
		}))
		Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())
		Eventually(readClass(ctx, class)).WithContext(ctx).Should(And(beReady(), HaveField("Status.Peers", BeEquivalentTo(3))))

		api := js(servers, nats.UserInfo("admin", "p"))
		config := streamInfo(ctx, api, store.EventsStreamName()).Config
		config.Description = "edited"
		_, err = api.UpdateStream(ctx, config)
		Expect(err).NotTo(HaveOccurred())
		Eventually(func() string { return streamInfo(ctx, api, store.EventsStreamName()).Config.Description }).ShouldNot(Equal("edited"))

		publish(ctx, api, store, 1)
		Eventually(read(ctx, store)).WithContext(ctx).Should(HaveField("Status.Streams", ContainElement(HaveField("LastSequence", BeEquivalentTo(1)))))
		Eventually(func() time.Duration {
			info := streamInfo(ctx, api, store.EventsStreamName())
			return info.TimeStamp.Sub(info.State.LastTime)
		}).Should(BeNumerically(">", time.Second))
		change(ctx, store, func(s *v1alpha1.EventStore) { s.Spec.Retention.MaxAge = "1s" })
		Eventually(read(ctx, store)).WithContext(ctx).Should(beStalled(v1alpha1.ReasonWouldDestroyEvents))
		deleteStore(ctx, store)
		_, err = api.Stream(ctx, store.EventsStreamName())
		Expect(err).To(MatchError(jetstream.ErrStreamNotFound))
	})

	DescribeTable("of replicas: more than there are servers", func(ctx context.Context, system func() *natsserver.Cluster, replicas int32) {
		class := newClass(ctx, system().URLs())
		api := js(system())
		tooMany := func(s *v1alpha1.EventStore) { s.Spec.Replicas = replicas }
		store := create(ctx, newStore(newNamespace(ctx), class.Name, tooMany))
		Eventually(read(ctx, store)).WithContext(ctx).Should(beStalled(v1alpha1.ReasonInsufficientPeers))
		_, err := api.Stream(ctx, store.EventsStreamName())
		Expect(err).To(MatchError(jetstream.ErrStreamNotFound))

		By("taking the way out that the condition tells")
		change(ctx, store, func(s *v1alpha1.EventStore) { s.Spec.Replicas = 1 })
		Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())

		By("asking for too many again")
		change(ctx, store, tooMany)
		Eventually(read(ctx, store)).WithContext(ctx).Should(beStalled(v1alpha1.ReasonInsufficientPeers))
		Expect(streamInfo(ctx, api, store.EventsStreamName()).Config.Replicas).To(Equal(1))
	},
		Entry("one", func() *natsserver.Cluster { return single }, int32(3)),
		Entry("three", func() *natsserver.Cluster { return cluster }, int32(5)),
	)

	It("of the spec: an impossible change", func(ctx context.Context) {
		class := newClass(ctx, single.URLs())
		store := create(ctx, newStore(newNamespace(ctx), class.Name))
		Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())
		deleteStore(ctx, store)
		again := create(ctx, newStore(store.Namespace, class.Name, func(s *v1alpha1.EventStore) {
			s.Name, s.Spec.Storage, s.Spec.Retention.MaxAge = store.Name, v1alpha1.StorageMemory, "7d"
		}))
		Eventually(read(ctx, again)).WithContext(ctx).Should(And(
			beStalled(v1alpha1.ReasonImpossibleChange), sayWhy(ContainSubstring("storage from File to Memory"))))
		// Nothing half done: the age is as it was.
		Expect(streamInfo(ctx, js(single), store.EventsStreamName()).Config).To(And(
			HaveField("MaxAge", 365*24*time.Hour),
			HaveField("Metadata", HaveKeyWithValue(v1alpha1.MetadataUID, string(store.UID)))))
	})

	It("of one server of three passes by itself", func(ctx context.Context) {
		servers := startNATS(3)
		class := newClass(ctx, servers.URLs())
		store := create(ctx, newStore(newNamespace(ctx), class.Name, func(s *v1alpha1.EventStore) { s.Spec.Replicas = 3 }))
		Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())
		// The one that does not lead, so that the stream goes on.
		down := 0
		if read(ctx, store)(Default).Status.Streams[0].Leader == "nats-0" {
			down = 1
		}
		servers.StopNode(down)
		Eventually(func(g Gomega) {
			annotate(ctx, store, unique("poke"))
			g.Expect(read(ctx, store)(g)).To(And(
				haveCondition(v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonReplicasCatchingUp),
				haveCondition(v1alpha1.ConditionReplicasCurrent, metav1.ConditionFalse, v1alpha1.ReasonReplicasCatchingUp),
				haveCondition(v1alpha1.ConditionConnected, metav1.ConditionTrue, v1alpha1.ReasonConnected)))
		}).Should(Succeed())
		Expect(servers.StartNode(down)).To(Succeed())
		Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())
	})
})

var _ = Describe("An EventStoreClass", func() {
	It("tells what the NATS system is and who uses it", func(ctx context.Context) {
		class := newClass(ctx, cluster.URLs())
		Eventually(readClass(ctx, class)).WithContext(ctx).Should(And(beReady(), HaveField("Status", And(
			HaveField("Peers", BeEquivalentTo(3)),
			HaveField("ServerVersion", HavePrefix("2.")),
			HaveField("APILevel", BeNumerically(">", 0)),
			HaveField("EventStores", BeZero())))))
		ns := newNamespace(ctx)
		stores := []*v1alpha1.EventStore{create(ctx, newStore(ns, class.Name)), create(ctx, newStore(ns, class.Name))}
		Eventually(readClass(ctx, class)).WithContext(ctx).Should(HaveField("Status.EventStores", BeEquivalentTo(2)))
		deleteStore(ctx, stores[0])
		Eventually(readClass(ctx, class)).WithContext(ctx).Should(HaveField("Status.EventStores", BeEquivalentTo(1)))
	})

	It("counts one server that is alone", func(ctx context.Context) {
		class := newClass(ctx, single.URLs())
		Eventually(readClass(ctx, class)).WithContext(ctx).Should(And(beReady(), HaveField("Status.Peers", BeEquivalentTo(1))))
	})
})
