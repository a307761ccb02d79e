package controller_test

import (
	"context"
	"os"
	"path/filepath"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/controller"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv/natsserver"
)

// A backup of etcd is restored beside its cluster: both have the same uids, their API
// servers and operators are real, and the two come apart from then on. Each spec has a
// store of its own that was there when the backup was made.
var _ = Describe("A cluster and its copy", Ordered, func() {
	var original, copied *testenv.Kubernetes
	var servers *natsserver.Cluster
	var api jetstream.JetStream
	stopOriginal, stopCopy := func() {}, func() {}
	const specs = 7
	var stores []*v1alpha1.EventStore
	startCluster := func(dir string) *testenv.Kubernetes {
		GinkgoHelper()
		c, err := testenv.Start(func(e *envtest.Environment) { e.ControlPlane.Etcd.DataDir = dir })
		Expect(err).NotTo(HaveOccurred())
		return c
	}
	operate := func(in *testenv.Kubernetes) func() {
		GinkgoHelper()
		return startOperator(in, controller.Options{ResyncInterval: time.Second})
	}
	in := func(ctx context.Context, k *testenv.Kubernetes, store *v1alpha1.EventStore) func(Gomega) *v1alpha1.EventStore {
		return func(g Gomega) *v1alpha1.EventStore {
			current := &v1alpha1.EventStore{}
			g.Expect(k.Client.Get(ctx, client.ObjectKeyFromObject(store), current)).To(Succeed())
			return current
		}
	}
	BeforeAll(func(ctx context.Context) {
		servers = startNATS(1)
		dirs := GinkgoT().TempDir()
		first, second := filepath.Join(dirs, "original"), filepath.Join(dirs, "copy")
		Expect(os.MkdirAll(first, 0o700)).To(Succeed())
		original = startCluster(first)
		class := &v1alpha1.EventStoreClass{ObjectMeta: metav1.ObjectMeta{Name: "standard"}}
		class.Spec.Servers = []v1alpha1.ServerURL{v1alpha1.ServerURL(servers.URL())}
		Expect(original.Client.Create(ctx, class)).To(Succeed())
		stop := operate(original)
		api = js(servers)
		for range specs {
			store := newStore("default", class.Name, func(s *v1alpha1.EventStore) { s.Spec.DeletionPolicy = v1alpha1.DeletionPolicyDelete })
			Expect(original.Client.Create(ctx, store)).To(Succeed())
			Eventually(in(ctx, original, store)).WithContext(ctx).Should(beReady())
			publish(ctx, api, store, 3)
			Eventually(in(ctx, original, store)).WithContext(ctx).Should(HaveField("Status.Streams", ContainElement(HaveField("LastSequence", BeEquivalentTo(3)))))
			stores = append(stores, store)
		}
		stop()
		Expect(original.Stop()).To(Succeed())
		Expect(os.CopyFS(second, os.DirFS(first))).To(Succeed())
		original, copied = startCluster(first), startCluster(second)
		DeferCleanup(func() {
			stopOriginal()
			stopCopy()
			Expect(original.Stop()).To(Succeed())
			Expect(copied.Stop()).To(Succeed())
		})
		watched.watch(original)
		watched.watch(copied)
	})
	var store *v1alpha1.EventStore
	BeforeEach(func(ctx context.Context) {
		store, stores = stores[0], stores[1:]
		stopCopy()
		stopOriginal()
		stopOriginal = operate(original)
		Eventually(in(ctx, original, store)).WithContext(ctx).Should(beReady())
	})
	startCopy := func() {
		GinkgoHelper()
		stopCopy = operate(copied)
	}
	goes := func(ctx context.Context, from *testenv.Kubernetes) {
		GinkgoHelper()
		Eventually(func() bool {
			return apierrors.IsNotFound(from.Client.Get(ctx, client.ObjectKeyFromObject(store), &v1alpha1.EventStore{}))
		}).WithContext(ctx).Should(BeTrue())
	}
	edit := func(ctx context.Context, of *testenv.Kubernetes, change func(*v1alpha1.EventStore)) {
		GinkgoHelper()
		current := in(ctx, of, store)(Default)
		before := current.DeepCopy()
		change(current)
		Expect(of.Client.Patch(ctx, current, client.MergeFrom(before))).To(Succeed())
	}
	remove := func(ctx context.Context, from *testenv.Kubernetes) {
		GinkgoHelper()
		Expect(from.Client.Delete(ctx, store.DeepCopy())).To(Succeed())
	}
	// letGo deletes the resource in the original and keeps its streams.
	letGo := func(ctx context.Context) {
		GinkgoHelper()
		edit(ctx, original, func(s *v1alpha1.EventStore) { s.Spec.DeletionPolicy = v1alpha1.DeletionPolicyRetain })
		Eventually(in(ctx, original, store)).WithContext(ctx).Should(HaveField("Finalizers", BeEmpty()))
		remove(ctx, original)
		goes(ctx, original)
	}
	// applyAgain makes the resource anew in the original, which takes the streams back.
	applyAgain := func(ctx context.Context) *v1alpha1.EventStore {
		GinkgoHelper()
		again := newStore("default", "standard", func(s *v1alpha1.EventStore) { s.Name = store.Name })
		Expect(original.Client.Create(ctx, again)).To(Succeed())
		Eventually(in(ctx, original, store)).WithContext(ctx).Should(beReady())
		publish(ctx, api, store, 2)
		return again
	}
	isOf := func(ctx context.Context, count int, owner *v1alpha1.EventStore) func(Gomega) {
		return func(g Gomega) {
			for _, name := range []string{store.EventsStreamName(), store.SnapshotsStreamName()} {
				s, err := api.Stream(ctx, name)
				g.Expect(err).NotTo(HaveOccurred())
				g.Expect(s.CachedInfo().Config.Metadata).To(HaveKeyWithValue(v1alpha1.MetadataUID, string(owner.UID)))
				g.Expect(s.CachedInfo().State.Msgs).To(Or(BeZero(), BeEquivalentTo(count)))
			}
		}
	}
	holds := func(ctx context.Context, count int, owner *v1alpha1.EventStore) {
		GinkgoHelper()
		Eventually(isOf(ctx, count, owner)).WithContext(ctx).Should(Succeed())
		Expect(streamInfo(ctx, api, store.EventsStreamName()).State.Msgs).To(BeEquivalentTo(count))
	}
	// stays is holds, also when others were asked again.
	stays := func(ctx context.Context, count int, owner *v1alpha1.EventStore) {
		GinkgoHelper()
		holds(ctx, count, owner)
		Consistently(isOf(ctx, count, owner)).WithContext(ctx).WithTimeout(asked).Should(Succeed())
	}
	notDeleted := func(why string) OmegaMatcher {
		return And(beStalled(v1alpha1.ReasonStreamsNotDeleted), sayWhy(And(ContainSubstring(why), ContainSubstring(twins))))
	}

	It("keep the streams of a store that one deletes and the other has", func(ctx context.Context) {
		startCopy()
		Eventually(in(ctx, copied, store)).WithContext(ctx).Should(beReady())
		remove(ctx, copied)
		kept := notDeleted("does not delete it")
		Eventually(in(ctx, copied, store)).WithContext(ctx).Should(kept)
		stays(ctx, 3, store)

		By("keeping them in the original, which lets go of its resource only")
		edit(ctx, original, func(s *v1alpha1.EventStore) {
			s.Spec.DeletionPolicy, s.Finalizers = v1alpha1.DeletionPolicyRetain, append(s.Finalizers, "example.com/waits")
		})
		Eventually(in(ctx, original, store)).WithContext(ctx).Should(HaveField("Finalizers", ConsistOf("example.com/waits")))
		remove(ctx, original)
		stays(ctx, 3, store)
		Eventually(in(ctx, copied, store)).WithContext(ctx).Should(kept)
		edit(ctx, original, func(s *v1alpha1.EventStore) { s.Finalizers = nil })
		goes(ctx, original)
		Eventually(in(ctx, copied, store)).WithContext(ctx).Should(notDeleted("is gone there"))
		holds(ctx, 3, store)
	})

	It("delete the streams of a store that both delete", func(ctx context.Context) {
		startCopy()
		Eventually(in(ctx, copied, store)).WithContext(ctx).Should(beReady())
		remove(ctx, copied)
		Eventually(in(ctx, copied, store)).WithContext(ctx).Should(notDeleted("does not delete it"))
		remove(ctx, original)
		goes(ctx, original)
		_, err := api.Stream(ctx, store.EventsStreamName())
		Expect(err).To(MatchError(jetstream.ErrStreamNotFound))
	})

	It("take nothing from a store that was applied again in one", func(ctx context.Context) {
		letGo(ctx)
		again := applyAgain(ctx)
		startCopy()
		refused := And(beStalled(v1alpha1.ReasonConflict), sayWhy(And(ContainSubstring(string(again.UID)), ContainSubstring("where it exists"))))
		Eventually(in(ctx, copied, store)).WithContext(ctx).Should(refused)
		stays(ctx, 5, again)

		By("deleting it in the other")
		remove(ctx, copied)
		goes(ctx, copied)
		holds(ctx, 5, again)
		Expect(in(ctx, original, store)(Default)).To(beReady())
	})

	It("take nothing that the other let go of", func(ctx context.Context) {
		letGo(ctx)
		again := applyAgain(ctx)
		remove(ctx, original)
		goes(ctx, original)
		startCopy()
		refused := And(beStalled(v1alpha1.ReasonConflict), sayWhy(And(ContainSubstring("is gone"), ContainSubstring(twins))))
		Eventually(in(ctx, copied, store)).WithContext(ctx).Should(refused)
		holds(ctx, 5, again)

		By("the word of the platform")
		class := &v1alpha1.EventStoreClass{}
		Expect(copied.Client.Get(ctx, client.ObjectKey{Name: "standard"}, class)).To(Succeed())
		before := class.DeepCopy()
		giveBack(store)(class)
		Expect(copied.Client.Patch(ctx, class, client.MergeFrom(before))).To(Succeed())
		Eventually(in(ctx, copied, store)).WithContext(ctx).Should(beReady())
		holds(ctx, 5, store)
	})

	It("give a third cluster nothing by the word of the one that deleted it", func(ctx context.Context) {
		startCopy()
		Eventually(in(ctx, copied, store)).WithContext(ctx).Should(beReady())
		current := in(ctx, copied, store)(Default)
		current.Finalizers, current.Spec.DeletionPolicy = nil, v1alpha1.DeletionPolicyRetain
		Expect(copied.Client.Update(ctx, current)).To(Succeed())
		remove(ctx, copied)
		goes(ctx, copied)
		third := newClass(ctx, servers.URLs(), func(c *v1alpha1.EventStoreClass) { c.Spec.Tenancy.TakeBack = v1alpha1.TakeBackByName })
		asks := create(ctx, newStore("default", third.Name, func(s *v1alpha1.EventStore) { s.Name = store.Name }))
		refused := And(beStalled(v1alpha1.ReasonConflict), sayWhy(ContainSubstring("where it exists")))
		Eventually(read(ctx, asks)).WithContext(ctx).Should(refused)
		for range 3 {
			annotate(ctx, asks, unique("poke"))
			stays(ctx, 3, store)
		}
		deleteStore(ctx, asks)
	})

	It("delete nothing that the other retained, as long as it runs", func(ctx context.Context) {
		letGo(ctx)
		startCopy()
		Eventually(in(ctx, copied, store)).WithContext(ctx).Should(beReady())
		remove(ctx, copied)
		Eventually(in(ctx, copied, store)).WithContext(ctx).Should(notDeleted("is gone there"))
		stays(ctx, 3, store)

		By("being alone")
		stopOriginal()
		goes(ctx, copied)
		_, err := api.Stream(ctx, store.EventsStreamName())
		Expect(err).To(MatchError(jetstream.ErrStreamNotFound))
	})

	It("let no pod of one into streams that were made anew in the other, with both on record as lost", func(ctx context.Context) {
		// The copy has a snapshot on record too.
		startCopy()
		_, err := api.Publish(ctx, store.EventsStreamName()+".snapshots.order.order-1", []byte("{}"))
		Expect(err).NotTo(HaveOccurred())
		Eventually(in(ctx, copied, store)).WithContext(ctx).Should(HaveField("Status.Streams", ContainElement(
			And(HaveField("Role", v1alpha1.StreamRoleSnapshots), HaveField("LastSequence", BeEquivalentTo(1))))))
		stopCopy()
		letGo(ctx)
		for _, name := range []string{store.EventsStreamName(), store.SnapshotsStreamName()} {
			Expect(api.DeleteStream(ctx, name)).To(Succeed())
		}
		again := applyAgain(ctx)
		startCopy()
		Eventually(in(ctx, copied, store)).WithContext(ctx).Should(beStalled(v1alpha1.ReasonConflict))
		Expect(grantsOf(in(ctx, copied, store)(Default))).To(BeEmpty())
		stays(ctx, 2, again)
		remove(ctx, copied)
		goes(ctx, copied)
		stays(ctx, 2, again)
	})

})

const (
	// twins is what is said of two clusters of one backup.
	twins = "was made of a backup of the other"
	// asked is long enough for other operators to be asked twice.
	asked = 5 * time.Second
)
