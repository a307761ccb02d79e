package controller_test

import (
	"context"
	"net"
	"net/url"
	"os"
	"strconv"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv/natsserver"
)

// The operator is connected to a server that runs all the time, so that nothing of its
// connection tells of others that come back with less than they had.
var _ = Describe("A stream on servers to which the operator is not connected", func() {
	rolledBack := func(up string) OmegaMatcher {
		return And(beStalled(v1alpha1.ReasonStreamRolledBack), sayWhy(ContainSubstring(up)),
			haveCondition(v1alpha1.ConditionDataLoss, metav1.ConditionTrue, v1alpha1.ReasonStreamRolledBack))
	}
	// looked waits until the operator has looked at the store, as it is then. A pass takes
	// seconds while a stream of several replicas seems to have gone back, and cannot write a
	// status that is out of date, so that the store is left alone meanwhile.
	looked := func(ctx context.Context, store *v1alpha1.EventStore, matcher OmegaMatcher) {
		GinkgoHelper()
		Eventually(func(g Gomega) {
			annotate(ctx, store, unique("poke"))
			g.Eventually(read(ctx, store)).WithContext(ctx).WithTimeout(10 * time.Second).Should(matcher)
		}).WithContext(ctx).Should(Succeed())
	}
	// goesBack saves ten events of which the servers lose half, and more since.
	goesBack := func(ctx context.Context, api jetstream.JetStream, store *v1alpha1.EventStore, servers *natsserver.Cluster, nodes []int, left int) {
		GinkgoHelper()
		publish(ctx, api, store, 5)
		lose := rememberDataOf(servers, nodes...)
		awaitLast(ctx, api, store, 5)
		publish(ctx, api, store, 5)
		recordedMessages(ctx, store, 10)
		Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())
		lose()
		awaitLast(ctx, api, store, left)
		publish(ctx, api, store, 6)
	}

	It("is told as a loss, if it went back and was written to beyond where it was", func(ctx context.Context) {
		servers := startNATS(3)
		api, class, ns := js(servers), newClass(ctx, servers.URLs()[:1]), newNamespace(ctx)
		store, at := storeElsewhere(ctx, servers, ns, class.Name)
		goesBack(ctx, api, store, servers, []int{at}, 5)
		looked(ctx, store, rolledBack("was written to since up to sequence 11"))
		change(ctx, store, accept)
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(beReady(), haveNoCondition(v1alpha1.ConditionDataLoss)))
		publish(ctx, api, store, 1)
		looked(ctx, store, And(beReady(), haveNoCondition(v1alpha1.ConditionDataLoss),
			HaveField("Status.Streams", ContainElement(HaveField("LastSequence", BeEquivalentTo(12))))))
	})

	It("is told as a loss in the domain of a hub, beyond a leaf node", func(ctx context.Context) {
		hub, leaf := startHubAndLeaf()
		api := js(hub)
		class := newClass(ctx, leaf.URLs(), func(c *v1alpha1.EventStoreClass) { c.Spec.Domain = "hub" })
		store := create(ctx, newStore(newNamespace(ctx), class.Name))
		Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())
		goesBack(ctx, api, store, hub, []int{0}, 5)
		looked(ctx, store, rolledBack("was written to since up to sequence 11"))
	})

	// Four servers, of which three hold streams.
	onThree := func(ctx context.Context) (*natsserver.Cluster, *v1alpha1.EventStore) {
		GinkgoHelper()
		servers := startNATS(4, func(o *server.Options) {
			if o.ServerName != "nats-0" {
				o.Tags.Add("data")
			}
		})
		class := newClass(ctx, servers.URLs()[:1])
		store := create(ctx, newStore(newNamespace(ctx), class.Name, func(s *v1alpha1.EventStore) {
			s.Spec.Replicas = 3
			s.Spec.Placement = &v1alpha1.Placement{Tags: []string{"data"}}
		}))
		Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())
		return servers, store
	}

	It("is told as a loss, if all its replicas went back", func(ctx context.Context) {
		servers, store := onThree(ctx)
		goesBack(ctx, js(servers), store, servers, []int{1, 2, 3}, 5)
		looked(ctx, store, rolledBack("was written to since up to sequence 11"))
	})

	It("is no loss, if one replica of three went back, which the others fill again", func(ctx context.Context) {
		servers, store := onThree(ctx)
		api := js(servers)
		goesBack(ctx, api, store, servers, []int{2}, 10)
		Expect(servers.WaitCurrent(ctx)).To(Succeed())
		looked(ctx, store, And(beReady(), haveNoCondition(v1alpha1.ConditionDataLoss),
			HaveField("Status.Streams", ContainElement(HaveField("LastSequence", BeEquivalentTo(16))))))
	})
})

// storeElsewhere makes a store whose events are not on the first server, and says where.
func storeElsewhere(ctx context.Context, servers *natsserver.Cluster, namespace, class string) (*v1alpha1.EventStore, int) {
	GinkgoHelper()
	for {
		store := create(ctx, newStore(namespace, class))
		Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())
		leader := streamInfo(ctx, js(servers), store.EventsStreamName()).Cluster.Leader
		for i := 1; i < servers.Size(); i++ {
			if servers.Node(i).Name() == leader {
				return store, i
			}
		}
	}
}

// startHubAndLeaf starts a server with the domain hub, and a leaf node of it.
func startHubAndLeaf() (hub, leaf *natsserver.Cluster) {
	GinkgoHelper()
	ports, err := natsserver.ReservePorts(1)
	Expect(err).NotTo(HaveOccurred())
	hub = startNATS(1, func(o *server.Options) {
		o.JetStreamDomain, o.LeafNode.Host, o.LeafNode.Port = "hub", "127.0.0.1", ports[0]
	})
	leaf = startNATS(1, func(o *server.Options) {
		o.ServerName, o.JetStreamDomain = "leaf-0", "leaf"
		o.LeafNode.ReconnectInterval = 50 * time.Millisecond
		o.LeafNode.Remotes = []*server.RemoteLeafOpts{{URLs: []*url.URL{{Scheme: "nats", Host: net.JoinHostPort("127.0.0.1", strconv.Itoa(ports[0]))}}}}
	})
	return hub, leaf
}

// awaitLast waits until the servers tell of a stream of events that goes to a sequence.
func awaitLast(ctx context.Context, api jetstream.JetStream, store *v1alpha1.EventStore, last int) {
	GinkgoHelper()
	Eventually(func(g Gomega) {
		s, err := api.Stream(ctx, store.EventsStreamName())
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(s.CachedInfo().State.LastSeq).To(BeEquivalentTo(last))
		g.Expect(s.CachedInfo().Cluster).To(Or(BeNil(), HaveField("Leader", Not(BeEmpty()))))
	}).WithContext(ctx).Should(Succeed())
}

// rememberDataOf gives what makes servers, all at the same time, lose all that is written
// from now on, as those do whose last writes never reached the disk.
func rememberDataOf(servers *natsserver.Cluster, nodes ...int) (lose func()) {
	GinkgoHelper()
	kept := make([]string, servers.Size())
	restart := func(meanwhile func(node int)) {
		GinkgoHelper()
		for _, node := range nodes {
			servers.StopNode(node)
		}
		for _, node := range nodes {
			meanwhile(node)
		}
		for _, node := range nodes {
			Expect(servers.StartNode(node)).To(Succeed())
		}
	}
	restart(func(node int) {
		kept[node] = GinkgoT().TempDir()
		Expect(os.CopyFS(kept[node], os.DirFS(servers.DataDir(node)))).To(Succeed())
	})
	return func() {
		GinkgoHelper()
		restart(func(node int) {
			Expect(os.RemoveAll(servers.DataDir(node))).To(Succeed())
			Expect(os.CopyFS(servers.DataDir(node), os.DirFS(kept[node]))).To(Succeed())
		})
	}
}
