package controller_test

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/controller"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv/callout"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv/natsserver"
)

// In a cluster of its own an operator can be stopped and started, and take part
// with that of the suite in one NATS system.
var _ = Describe("An operator", Ordered, func() {
	var other *testenv.Kubernetes
	var servers *natsserver.Cluster
	var class *v1alpha1.EventStoreClass
	var registry *prometheus.Registry
	stop := func() {}

	// resync is what a spec waits for that nobody tells the operator of.
	const resync = time.Second
	start := func() {
		GinkgoHelper()
		registry = prometheus.NewRegistry()
		stop = startOperator(other, controller.Options{ResyncInterval: resync, StoreMetricsLimit: 1000, Registerer: registry})
	}
	BeforeAll(func(ctx context.Context) {
		var err error
		other, err = testenv.Start()
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(func() {
			stop()
			Expect(other.Stop()).To(Succeed())
		})
		watched.watch(other)
		servers = startNATS(1)
		class = &v1alpha1.EventStoreClass{ObjectMeta: metav1.ObjectMeta{Name: "standard"}}
		class.Spec.Servers = []v1alpha1.ServerURL{v1alpha1.ServerURL(servers.URL())}
		Expect(other.Client.Create(ctx, class)).To(Succeed())
		start()
	})

	readOther := func(ctx context.Context, store *v1alpha1.EventStore) func(Gomega) *v1alpha1.EventStore {
		return func(g Gomega) *v1alpha1.EventStore {
			current := &v1alpha1.EventStore{}
			g.Expect(other.Client.Get(ctx, client.ObjectKeyFromObject(store), current)).To(Succeed())
			return current
		}
	}
	createReady := func(ctx context.Context, change ...func(*v1alpha1.EventStore)) *v1alpha1.EventStore {
		GinkgoHelper()
		store := newStore("default", class.Name, change...)
		Expect(other.Client.Create(ctx, store)).To(Succeed())
		Eventually(readOther(ctx, store)).WithContext(ctx).Should(beReady())
		return store
	}
	patch := func(ctx context.Context, store *v1alpha1.EventStore, edit func(*v1alpha1.EventStore)) {
		GinkgoHelper()
		current := readOther(ctx, store)(Default)
		before := current.DeepCopy()
		edit(current)
		Expect(other.Client.Patch(ctx, current, client.MergeFrom(before))).To(Succeed())
	}
	lostAs := func(reason string) OmegaMatcher {
		return And(beStalled(reason), haveCondition(v1alpha1.ConditionDataLoss, metav1.ConditionTrue, reason))
	}
	// recorded waits until the status tells of so many events.
	recorded := func(ctx context.Context, store *v1alpha1.EventStore, last int64) {
		GinkgoHelper()
		Eventually(readOther(ctx, store)).WithContext(ctx).Should(HaveField("Status.Streams", ContainElement(HaveField("LastSequence", last))))
	}
	metric := func(name string, labels ...string) float64 {
		families, err := registry.Gather()
		Expect(err).NotTo(HaveOccurred())
		return sum(families, name, labels)
	}

	// harm is what becomes of a stream of ten events that the status knows, and five
	// more that it does not.
	harms := []struct {
		name, reason string
		harm         func(context.Context, jetstream.JetStream, *v1alpha1.EventStore)
	}{
		{"is gone", v1alpha1.ReasonStreamMissing, func(ctx context.Context, api jetstream.JetStream, store *v1alpha1.EventStore) {
			Expect(api.DeleteStream(ctx, store.EventsStreamName())).To(Succeed())
		}},
		{"was made again", v1alpha1.ReasonStreamRecreated, func(ctx context.Context, api jetstream.JetStream, store *v1alpha1.EventStore) {
			config := streamInfo(ctx, api, store.EventsStreamName()).Config
			Expect(api.DeleteStream(ctx, store.EventsStreamName())).To(Succeed())
			_, err := api.CreateStream(ctx, config)
			Expect(err).NotTo(HaveOccurred())
		}},
		{"was purged", v1alpha1.ReasonStreamPurged, func(ctx context.Context, api jetstream.JetStream, store *v1alpha1.EventStore) {
			s, err := api.Stream(ctx, store.EventsStreamName())
			Expect(err).NotTo(HaveOccurred())
			Expect(s.Purge(ctx)).To(Succeed())
		}},
	}
	for _, restarted := range []bool{false, true} {
		for _, h := range harms {
			It(fmt.Sprintf("tells of a stream that %s, restarted meanwhile: %t", h.name, restarted), func(ctx context.Context) {
				api := js(servers)
				store := createReady(ctx)
				publish(ctx, api, store, 10)
				recorded(ctx, store, 10)
				if restarted {
					stop()
				}
				h.harm(ctx, api, store)
				if restarted {
					start()
				}
				Eventually(readOther(ctx, store)).WithContext(ctx).Should(lostAs(h.reason))
				patch(ctx, store, accept)
				Eventually(readOther(ctx, store)).WithContext(ctx).Should(And(beReady(), haveNoCondition(v1alpha1.ConditionDataLoss)))
				if !restarted {
					Expect(metric("aether_operator_data_losses_total", "reason", h.reason)).To(BeNumerically(">=", 1))
				}
			})
		}
	}

	It("tells of a stream that went back by less than the status would be written for, also after a restart", func(ctx context.Context) {
		store := createReady(ctx)
		publish(ctx, js(servers), store, 100)
		recorded(ctx, store, 100)
		lose := rememberDataOf(servers, 0)
		// A sweep sees two more, and does not write them down; every tenth does. Two, since
		// one is saved after the loss, perhaps before the operator looks.
		last := int64(100)
		Eventually(func(g Gomega) {
			publish(ctx, js(servers), store, 2)
			last += 2
			g.Eventually(func() float64 { return metric("aether_eventstore_last_sequence", "name", store.Name, "role", "Events") }).Should(BeEquivalentTo(last))
			g.Expect(readOther(ctx, store)(g).Status.Streams[0].LastSequence).To(BeNumerically("<", last))
		}).Should(Succeed())
		lose()
		Eventually(readOther(ctx, store)).WithContext(ctx).Should(And(lostAs(v1alpha1.ReasonStreamRolledBack), sayWhy(ContainSubstring("went back to sequence 100"))))
		stop()
		start()
		publish(ctx, js(servers), store, 1)
		Consistently(readOther(ctx, store)).WithContext(ctx).WithTimeout(2 * resync).Should(lostAs(v1alpha1.ReasonStreamRolledBack))

		By("saving until the stream is beyond where it was: what was lost stays lost")
		publish(ctx, js(servers), store, int(last))
		Eventually(readOther(ctx, store)).WithContext(ctx).Should(And(lostAs(v1alpha1.ReasonStreamRolledBack), sayWhy(ContainSubstring("was written to since"))))
		Consistently(readOther(ctx, store)).WithContext(ctx).WithTimeout(2 * resync).Should(lostAs(v1alpha1.ReasonStreamRolledBack))
		patch(ctx, store, accept)
		Eventually(readOther(ctx, store)).WithContext(ctx).Should(And(beReady(), haveNoCondition(v1alpha1.ConditionDataLoss)))
	})

	It("tells of a stream that went back while no operator was there", func(ctx context.Context) {
		store := createReady(ctx)
		publish(ctx, js(servers), store, 5)
		lose := rememberDataOf(servers, 0)
		publish(ctx, js(servers), store, 5)
		recorded(ctx, store, 10)
		stop()
		lose()
		start()
		Eventually(readOther(ctx, store)).WithContext(ctx).Should(And(lostAs(v1alpha1.ReasonStreamRolledBack), sayWhy(ContainSubstring("went back to sequence 5"))))
	})

	It("tells of a stream that went back while no operator was there, and was written to until it was beyond that", func(ctx context.Context) {
		store := createReady(ctx)
		publish(ctx, js(servers), store, 5)
		lose := rememberDataOf(servers, 0)
		publish(ctx, js(servers), store, 5)
		recorded(ctx, store, 10)
		stop()
		lose()
		publish(ctx, js(servers), store, 6)
		start()
		Eventually(readOther(ctx, store)).WithContext(ctx).Should(And(lostAs(v1alpha1.ReasonStreamRolledBack), sayWhy(ContainSubstring("was written to since up to sequence 11"))))
		Consistently(readOther(ctx, store)).WithContext(ctx).WithTimeout(2 * resync).Should(lostAs(v1alpha1.ReasonStreamRolledBack))
		patch(ctx, store, accept)
		Eventually(readOther(ctx, store)).WithContext(ctx).Should(And(beReady(), haveNoCondition(v1alpha1.ConditionDataLoss)))
	})

	It("has live metrics and figures of a store that is held back", func(ctx context.Context) {
		store := createReady(ctx)
		api := js(servers)
		publish(ctx, api, store, 3)
		recorded(ctx, store, 3)
		olderThanASecond(ctx, api, store.EventsStreamName())
		patch(ctx, store, func(s *v1alpha1.EventStore) { s.Spec.Retention.MaxAge = "1s" })
		Eventually(readOther(ctx, store)).WithContext(ctx).Should(beStalled(v1alpha1.ReasonWouldDestroyEvents))
		publish(ctx, api, store, 5)
		Eventually(func() float64 { return metric("aether_eventstore_messages", "name", store.Name, "role", "Events") }).Should(BeEquivalentTo(8))
		recorded(ctx, store, 8)
		Expect(readOther(ctx, store)(Default)).To(And(beStalled(v1alpha1.ReasonWouldDestroyEvents), sayWhy(ContainSubstring("of 8 messages"))))
	})

	It("heals drift that nobody tells it of within one resync", func(ctx context.Context) {
		deaf := startNATS(1, func(o *server.Options) {
			o.Users = []*server.User{
				{Username: "operator", Password: "p", Permissions: &server.Permissions{Subscribe: &server.SubjectPermission{Deny: []string{"$JS.EVENT.>"}}}},
				{Username: "admin", Password: "p"},
			}
		})
		secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "aether-system", Name: unique("nats")}, StringData: map[string]string{"username": "operator", "password": "p"}}
		Expect(other.Client.Create(ctx, secret)).To(Succeed())
		quiet := &v1alpha1.EventStoreClass{ObjectMeta: metav1.ObjectMeta{Name: unique("deaf")}}
		quiet.Spec.Servers = []v1alpha1.ServerURL{v1alpha1.ServerURL(deaf.URL())}
		withCredentials("aether-system", secret.Name)(quiet)
		Expect(other.Client.Create(ctx, quiet)).To(Succeed())
		store := createReady(ctx, func(s *v1alpha1.EventStore) { s.Spec.ClassName = quiet.Name })
		api := js(deaf, nats.UserInfo("admin", "p"))
		config := streamInfo(ctx, api, store.EventsStreamName()).Config
		config.MaxAge = time.Hour
		_, err := api.UpdateStream(ctx, config)
		Expect(err).NotTo(HaveOccurred())
		Eventually(func() time.Duration { return streamInfo(ctx, api, store.EventsStreamName()).Config.MaxAge }).Should(Equal(365 * 24 * time.Hour))
		// It is counted when the answer to the change has come, a moment after the change.
		Eventually(func() float64 { return metric("aether_operator_drift_healed_total", "field", "maxAge") }).Should(BeNumerically(">=", 1))
	})

	It("looks at its stores also while the callout of their class has a fault", func(ctx context.Context) {
		setup, err := callout.New()
		Expect(err).NotTo(HaveOccurred())
		documented, err := natsserver.WithConfig(setup.Config)
		Expect(err).NotTo(HaveOccurred())
		asked := startNATS(1, documented, func(o *server.Options) {
			for _, user := range o.Users {
				if user.Username == setup.Operator["username"] {
					user.Permissions.Subscribe.Deny = []string{"$JS.EVENT.>"}
				}
			}
		})
		objects := setup.Class(unique("class"), asked)
		broken, faulty := objects[1].(*corev1.Secret), objects[2].(*v1alpha1.EventStoreClass)
		objects[0].SetNamespace("aether-system")
		broken.Namespace = "aether-system"
		faulty.Spec.Credentials.SecretRef.Namespace, faulty.Spec.Workloads.Callout.SecretRef.Namespace = "aether-system", "aether-system"
		for _, object := range objects {
			Expect(other.Client.Create(ctx, object)).To(Succeed())
		}
		store := createReady(ctx, func(s *v1alpha1.EventStore) { s.Spec.ClassName = faulty.Name })
		broken.StringData = map[string]string{"issuer.nk": "broken"}
		Expect(other.Client.Update(ctx, broken)).To(Succeed())
		Eventually(func(g Gomega) *v1alpha1.EventStoreClass {
			current := &v1alpha1.EventStoreClass{}
			g.Expect(other.Client.Get(ctx, client.ObjectKeyFromObject(faulty), current)).To(Succeed())
			return current
		}).WithContext(ctx).Should(And(
			// Two things are wrong, and both are told.
			beStalled(v1alpha1.ReasonPermissionDenied), sayWhy(And(ContainSubstring("$JS.EVENT.ADVISORY"), ContainSubstring("issuer.nk")))))
		api := js(asked, nats.UserInfo("aether-operator", setup.Operator["password"]))
		config := streamInfo(ctx, api, store.EventsStreamName()).Config
		config.MaxAge = time.Hour
		_, err = api.UpdateStream(ctx, config)
		Expect(err).NotTo(HaveOccurred())
		Eventually(func() time.Duration { return streamInfo(ctx, api, store.EventsStreamName()).Config.MaxAge }).Should(Equal(365 * 24 * time.Hour))
	})

	It("uses a Secret that was rotated, and no more the one before, without a restart", func(ctx context.Context) {
		rotating := startNATS(1, func(o *server.Options) {
			o.Users = []*server.User{{Username: "old", Password: "p"}, {Username: "new", Password: "p"}}
		})
		secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "aether-system", Name: unique("nats")}, StringData: map[string]string{"username": "old", "password": "p"}}
		Expect(other.Client.Create(ctx, secret)).To(Succeed())
		rotated := &v1alpha1.EventStoreClass{ObjectMeta: metav1.ObjectMeta{Name: unique("rotated")}}
		rotated.Spec.Servers = []v1alpha1.ServerURL{v1alpha1.ServerURL(rotating.URL())}
		withCredentials("aether-system", secret.Name)(rotated)
		Expect(other.Client.Create(ctx, rotated)).To(Succeed())
		createReady(ctx, func(s *v1alpha1.EventStore) { s.Spec.ClassName = rotated.Name })
		users := func() []string {
			connections, err := rotating.Node(0).Connz(&server.ConnzOptions{Username: true})
			Expect(err).NotTo(HaveOccurred())
			var users []string
			for _, c := range connections.Conns {
				users = append(users, c.AuthorizedUser)
			}
			return users
		}
		Expect(users()).To(ConsistOf("old"))
		secret.StringData = map[string]string{"username": "new"}
		Expect(other.Client.Update(ctx, secret)).To(Succeed())
		Eventually(users).Should(ConsistOf("new"))
		createReady(ctx, func(s *v1alpha1.EventStore) { s.Spec.ClassName = rotated.Name })
	})

	It("leaves a stream alone for a while that another changes again and again, and tells", func(ctx context.Context) {
		store := createReady(ctx)
		api := js(servers)
		name := store.EventsStreamName()
		config := streamInfo(ctx, api, name).Config
		// Another operator that is as fast as ours.
		Eventually(func(g Gomega) {
			if streamInfo(ctx, api, name).Config.Description != "theirs" {
				config.Description = "theirs"
				_, err := api.UpdateStream(ctx, config)
				g.Expect(err).NotTo(HaveOccurred())
			}
			g.Expect(readOther(ctx, store)(g)).To(And(
				haveCondition(v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonContested),
				haveCondition(v1alpha1.ConditionReconciling, metav1.ConditionTrue, v1alpha1.ReasonProgressingWithRetry),
				sayWhy(And(ContainSubstring("another writer"), ContainSubstring("description from theirs")))))
		}).WithPolling(time.Millisecond).Should(Succeed())
		Eventually(func(g Gomega) []eventsv1.Event {
			var events eventsv1.EventList
			g.Expect(other.Client.List(ctx, &events, client.InNamespace("default"))).To(Succeed())
			return events.Items
		}).Should(ContainElement(And(HaveField("Reason", "StreamContested"), HaveField("Regarding.Name", store.Name))))
		Expect(metric("aether_operator_contests_total")).To(BeNumerically(">=", 1))
		Expect(streamInfo(ctx, api, name).Config.Description).To(Equal("theirs"), "it is left alone")

		By("asking for something new, which is not held up")
		patch(ctx, store, func(s *v1alpha1.EventStore) { s.Spec.Retention.MaxAge = "400d" })
		Eventually(func() time.Duration { return streamInfo(ctx, api, name).Config.MaxAge }).Should(Equal(400 * 24 * time.Hour))
	})

	It("of a newer version takes over what an older one made, and touches no data", func(ctx context.Context) {
		store := createReady(ctx)
		api := js(servers)
		publish(ctx, api, store, 10)
		recorded(ctx, store, 10)
		created := streamInfo(ctx, api, store.EventsStreamName()).Created
		stop()
		// The first version knew no schema: neither in a stream nor in a status.
		for _, name := range []string{store.EventsStreamName(), store.SnapshotsStreamName()} {
			config := streamInfo(ctx, api, name).Config
			delete(config.Metadata, v1alpha1.MetadataSchema)
			_, err := api.UpdateStream(ctx, config)
			Expect(err).NotTo(HaveOccurred())
		}
		current := readOther(ctx, store)(Default)
		current.Status.Schema, current.Status.ObservedGeneration, current.Status.Conditions = "", -1, nil
		Expect(other.Client.Status().Update(ctx, current)).To(Succeed())
		start()
		Eventually(readOther(ctx, store)).WithContext(ctx).Should(And(beReady(), HaveField("Status.Schema", "1"), haveNoCondition(v1alpha1.ConditionDataLoss)))
		Eventually(func() *jetstream.StreamInfo { return streamInfo(ctx, api, store.EventsStreamName()) }).Should(And(
			HaveField("Created", created), HaveField("State.Msgs", BeEquivalentTo(10)),
			HaveField("Config.Metadata", HaveKeyWithValue(v1alpha1.MetadataSchema, "1"))))
	})

	It("writes a status again that was taken away, of which nobody tells", func(ctx context.Context) {
		store := createReady(ctx)
		current := readOther(ctx, store)(Default)
		current.Status = v1alpha1.EventStoreStatus{}
		Expect(other.Client.Status().Update(ctx, current)).To(Succeed())
		Eventually(readOther(ctx, store)).WithContext(ctx).Should(And(beReady(), HaveField("Status.Streams", HaveLen(2))))
	})

	It("of an older version leaves what a newer one made alone, and says so", func(ctx context.Context) {
		store := createReady(ctx)
		api := js(servers)
		config := streamInfo(ctx, api, store.SnapshotsStreamName()).Config
		config.Metadata[v1alpha1.MetadataSchema], config.Description = "2", "of the next version"
		_, err := api.UpdateStream(ctx, config)
		Expect(err).NotTo(HaveOccurred())
		Eventually(readOther(ctx, store)).WithContext(ctx).Should(And(beStalled(v1alpha1.ReasonNewerSchema), sayWhy(ContainSubstring("upgrade the operator"))))
		Expect(streamInfo(ctx, api, store.SnapshotsStreamName()).Config.Description).To(Equal("of the next version"))
	})
})

// sum adds up the values of a metric whose labels have these names and values.
func sum(families []*dto.MetricFamily, name string, labels []string) float64 {
	total := 0.0
	for _, family := range families {
		if family.GetName() != name {
			continue
		}
		for _, m := range family.GetMetric() {
			have := ""
			for _, l := range m.GetLabel() {
				have += l.GetName() + "=" + l.GetValue() + ";"
			}
			matches := true
			for i := 0; i < len(labels); i += 2 {
				matches = matches && strings.Contains(have, labels[i]+"="+labels[i+1]+";")
			}
			if matches {
				total += m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
			}
		}
	}
	return total
}
