package controller_test

import (
	"context"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/onsi/gomega/types"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/controller"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv/natsserver"
)

// Two clusters share a NATS system, as after a restore of manifests, and in a change
// from one cluster to the next. The first has an API server and an operator of its
// own here; the second is that of the suite.
var _ = Describe("Two clusters on one NATS system", Ordered, func() {
	var first *testenv.Kubernetes
	var servers *natsserver.Cluster
	stop := func() {}
	start := func() {
		GinkgoHelper()
		stop = startOperator(first, controller.Options{ResyncInterval: time.Second})
	}
	// Users of the operators: one has all rights, the others lack what operators ask
	// each other with.
	const all, mute, deaf = "all", "mute", "deaf"
	BeforeAll(func(ctx context.Context) {
		var err error
		first, err = testenv.Start()
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(func() {
			stop()
			Expect(first.Stop()).To(Succeed())
		})
		watched.watch(first)
		start()
		question := &server.SubjectPermission{Deny: []string{"aether.owner.*"}}
		servers = startNATS(1, func(o *server.Options) {
			o.Users = []*server.User{
				{Username: all, Password: "p"},
				{Username: mute, Password: "p", Permissions: &server.Permissions{Publish: question, Subscribe: question}},
				{Username: deaf, Password: "p", Permissions: &server.Permissions{Subscribe: question}},
			}
		})
		for _, in := range []client.Client{first.Client, k8s} {
			for _, user := range []string{all, mute, deaf} {
				secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "aether-system", Name: "nats-" + user}, StringData: map[string]string{"username": user, "password": "p"}}
				Expect(in.Create(ctx, secret)).To(Succeed())
			}
		}
	})

	readFirst := func(ctx context.Context, store *v1alpha1.EventStore) func(Gomega) *v1alpha1.EventStore {
		return func(g Gomega) *v1alpha1.EventStore {
			current := &v1alpha1.EventStore{}
			g.Expect(first.Client.Get(ctx, client.ObjectKeyFromObject(store), current)).To(Succeed())
			return current
		}
	}
	deletes := func(s *v1alpha1.EventStore) { s.Spec.DeletionPolicy = v1alpha1.DeletionPolicyDelete }
	as := func(user string) classOption { return withCredentials("aether-system", "nats-"+user) }
	byName := func(c *v1alpha1.EventStoreClass) { c.Spec.Tenancy.TakeBack = v1alpha1.TakeBackByName }
	classOfFirst := func(ctx context.Context, options ...classOption) *v1alpha1.EventStoreClass {
		GinkgoHelper()
		class := &v1alpha1.EventStoreClass{ObjectMeta: metav1.ObjectMeta{Name: unique("class")}}
		class.Spec.Servers = []v1alpha1.ServerURL{v1alpha1.ServerURL(servers.URL())}
		for _, option := range options {
			option(class)
		}
		Expect(first.Client.Create(ctx, class)).To(Succeed())
		DeferCleanup(func(ctx context.Context) { Expect(first.Client.Delete(ctx, class)).To(Succeed()) })
		return class
	}
	// No operator answers for the class of an earlier spec.
	BeforeEach(func() {
		Eventually(func() []string {
			connections, err := servers.Node(0).Connz(&server.ConnzOptions{})
			Expect(err).NotTo(HaveOccurred())
			var names []string
			for _, c := range connections.Conns {
				names = append(names, c.Name)
			}
			return names
		}).ShouldNot(ContainElement("aether-operator"))
	})
	var api jetstream.JetStream
	// inFirst is a store of the first cluster with three events.
	inFirst := func(ctx context.Context, class *v1alpha1.EventStoreClass, change ...func(*v1alpha1.EventStore)) *v1alpha1.EventStore {
		GinkgoHelper()
		api = js(servers, nats.UserInfo(all, "p"))
		store := newStore("default", class.Name, change...)
		Expect(first.Client.Create(ctx, store)).To(Succeed())
		Eventually(readFirst(ctx, store)).WithContext(ctx).Should(beReady())
		publish(ctx, api, store, 3)
		return store
	}
	// inSecond applies the same manifest in the second cluster.
	inSecond := func(ctx context.Context, store *v1alpha1.EventStore, class *v1alpha1.EventStoreClass, change ...func(*v1alpha1.EventStore)) *v1alpha1.EventStore {
		GinkgoHelper()
		return create(ctx, newStore(store.Namespace, class.Name, append(change, func(s *v1alpha1.EventStore) { s.Name = store.Name })...))
	}
	// holds matches a stream with so many events that names a store as its owner.
	holds := func(count int, owner *v1alpha1.EventStore) types.GomegaMatcher {
		return And(HaveField("State.Msgs", BeEquivalentTo(count)), HaveField("Config.Metadata", HaveKeyWithValue(v1alpha1.MetadataUID, string(owner.UID))))
	}
	// retried pokes the operator of the suite, whose resync is far away. It is to be
	// polled with a pause in which a pass can ask others and end.
	const asking = 3 * time.Second
	retried := func(ctx context.Context, store *v1alpha1.EventStore) func(Gomega) *v1alpha1.EventStore {
		return func(g Gomega) *v1alpha1.EventStore {
			annotate(ctx, store, unique("poke"))
			return read(ctx, store)(g)
		}
	}

	DescribeTable("leave a stream to the one that made it, and delete none of the other's",
		func(ctx context.Context, user string, there bool) {
			store := inFirst(ctx, classOfFirst(ctx, as(user)), deletes)
			if !there {
				stop()
				DeferCleanup(start)
			}
			copied := inSecond(ctx, store, newClass(ctx, servers.URLs(), as(user)), deletes)
			Eventually(read(ctx, copied)).WithContext(ctx).Should(And(beStalled(v1alpha1.ReasonNotGivenBack), sayWhy(ContainSubstring(string(store.UID)))))
			config := streamInfo(ctx, api, store.EventsStreamName()).Config
			Consistently(retried(ctx, copied)).WithContext(ctx).WithTimeout(consistentTime).Should(beStalled(v1alpha1.ReasonNotGivenBack))
			deleteStore(ctx, copied)
			Expect(streamInfo(ctx, api, store.EventsStreamName())).To(And(holds(3, store), HaveField("Config", config)))
			Expect(readFirst(ctx, store)(Default)).To(beReady())
		},
		Entry("while both hear each other", all, true),
		Entry("without the right to ask", mute, true),
		Entry("without the right to hear", deaf, true),
		Entry("while the other is away", all, false),
	)

	It("take back by name only what the other says is gone", func(ctx context.Context) {
		store := inFirst(ctx, classOfFirst(ctx, as(all)))
		restored := inSecond(ctx, store, newClass(ctx, servers.URLs(), as(all), byName))
		Eventually(read(ctx, restored)).WithContext(ctx).Should(And(
			beStalled(v1alpha1.ReasonConflict), sayWhy(And(ContainSubstring("of another cluster"), ContainSubstring(string(store.UID))))))

		By("asking while nobody answers, though it is gone by then")
		stop()
		Expect(first.Client.Delete(ctx, store)).To(Succeed())
		Eventually(retried(ctx, restored)).WithContext(ctx).WithPolling(asking).Should(And(beStalled(v1alpha1.ReasonNotGivenBack), sayWhy(ContainSubstring("counts as there"))))
		Expect(streamInfo(ctx, api, store.EventsStreamName())).To(holds(3, store))

		By("asking again when the other is back")
		start()
		Eventually(retried(ctx, restored)).WithContext(ctx).WithPolling(asking).Should(beReady())
		Expect(streamInfo(ctx, api, store.EventsStreamName())).To(holds(3, restored))
	})

	It("take over by the platform's word what a dead cluster had, and the one that comes back does not fight", func(ctx context.Context) {
		class := classOfFirst(ctx, as(all))
		store := inFirst(ctx, class)
		pair := newClass(ctx, servers.URLs(), as(all), giveBack(store))
		restored := inSecond(ctx, store, pair)
		Eventually(read(ctx, restored)).WithContext(ctx).Should(beStalled(v1alpha1.ReasonConflict), "the first lives")
		stop()
		Eventually(retried(ctx, restored)).WithContext(ctx).WithPolling(asking).Should(And(beReady(), HaveField("Status.Streams", ContainElement(HaveField("Messages", BeEquivalentTo(3))))))

		By("coming back")
		start()
		Eventually(readFirst(ctx, store)).WithContext(ctx).Should(And(beStalled(v1alpha1.ReasonNotGivenBack), sayWhy(ContainSubstring(string(restored.UID)))))
		before := class.DeepCopy()
		giveBack(store)(class)
		Expect(first.Client.Patch(ctx, class, client.MergeFrom(before))).To(Succeed())
		Eventually(readFirst(ctx, store)).WithContext(ctx).Should(beStalled(v1alpha1.ReasonConflict), "the second lives")
		Consistently(read(ctx, restored)).WithContext(ctx).WithTimeout(consistentTime).Should(beReady())
		Expect(streamInfo(ctx, api, store.EventsStreamName())).To(holds(3, restored))
	})

	DescribeTable("take over nothing, also by the platform's word, where they cannot ask", func(ctx context.Context, user string) {
		store := inFirst(ctx, classOfFirst(ctx, as(user), func(c *v1alpha1.EventStoreClass) {
			c.Spec.Tenancy.GiveBack = []v1alpha1.StoreReference{{Namespace: "default", Name: "any"}}
		}))
		restored := inSecond(ctx, store, newClass(ctx, servers.URLs(), as(user), giveBack(store)))
		Eventually(read(ctx, restored)).WithContext(ctx).Should(And(beStalled(v1alpha1.ReasonPermissionDenied), sayWhy(ContainSubstring("aether.owner."))))
		Expect(streamInfo(ctx, api, store.EventsStreamName())).To(holds(3, store))
	},
		Entry("for lack of the right to publish", mute),
		Entry("for lack of the right to subscribe", deaf),
	)
})
