package controller_test

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
	layout "git.flowmade.one/flowmade-one/aether-operator/api/eventstore/jetstream"
	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv/natsserver"
)

// withEngine runs what an application does with a store, as a pod that leaves it to the
// operator to keep versions, and is gone then.
func withEngine(servers *natsserver.Cluster, store *v1alpha1.EventStore, do func(*layout.Store)) {
	GinkgoHelper()
	nc, err := nats.Connect(servers.URL())
	Expect(err).NotTo(HaveOccurred())
	defer nc.Close()
	engine, err := layout.New(nc, layout.Config{
		Namespace: store.EventNamespace(), Store: store.Name, EventsStream: store.EventsStreamName(), SnapshotsStream: store.SnapshotsStreamName(),
		OperatorMakesConsumers: true, Timeout: time.Minute,
	})
	Expect(err).NotTo(HaveOccurred())
	defer func() { Expect(engine.Close()).To(Succeed()) }()
	do(engine)
}

// saveActors saves an event of version 3 of so many actors.
func saveActors(ctx context.Context, engine *layout.Store, actors int) {
	GinkgoHelper()
	for from := 0; from < actors; from += 200 {
		var events []eventstore.Event
		for n := from; n < min(from+200, actors); n++ {
			events = append(events, eventstore.Event{ID: fmt.Sprint(n), EventType: "Tested", ActorID: fmt.Sprintf("order-%d", n), Version: 3})
		}
		_, err := engine.SaveEvents(ctx, events)
		Expect(err).NotTo(HaveOccurred())
	}
}

func wantVersion(ctx context.Context, engine *layout.Store, actorID string, version int) {
	GinkgoHelper()
	Expect(engine.GetLatestVersion(ctx, actorID)).To(BeEquivalentTo(version), actorID)
}

// awaitEmpty waits until all events have expired.
func awaitEmpty(ctx context.Context, api natsjs.JetStream, store *v1alpha1.EventStore) {
	GinkgoHelper()
	Eventually(func() uint64 { return streamInfo(ctx, api, store.EventsStreamName()).State.Msgs }).WithTimeout(time.Minute).Should(BeZero())
}

// follow gives each version of a store from now on.
func follow(ctx context.Context, store *v1alpha1.EventStore) <-chan *v1alpha1.EventStore {
	GinkgoHelper()
	watching, err := client.NewWithWatch(kube.Config, client.Options{Scheme: testenv.Scheme()})
	Expect(err).NotTo(HaveOccurred())
	w, err := watching.Watch(ctx, &v1alpha1.EventStoreList{}, client.InNamespace(store.Namespace))
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(w.Stop)
	versions := make(chan *v1alpha1.EventStore, 1000)
	go func() {
		for event := range w.ResultChan() {
			if version, ok := event.Object.(*v1alpha1.EventStore); ok && version.Name == store.Name {
				versions <- version
			}
		}
	}()
	return versions
}

var _ = Describe("The latest versions of actors", func() {
	It("stay when their events have expired, whether an application runs or not", func(ctx context.Context) {
		stores := map[*natsserver.Cluster]*v1alpha1.EventStore{single: nil, cluster: nil}
		for servers := range stores {
			store := create(ctx, newStore(newNamespace(ctx), newClass(ctx, servers.URLs()).Name, func(s *v1alpha1.EventStore) {
				s.Spec.Retention.MaxAge, s.Spec.Replicas = "20s", int32(servers.Size())
			}))
			Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())
			withEngine(servers, store, func(engine *layout.Store) { saveActors(ctx, engine, 30) })
			stores[servers] = store
		}
		for servers, store := range stores {
			awaitEmpty(ctx, js(servers), store)
			withEngine(servers, store, func(engine *layout.Store) {
				for n := range 30 {
					wantVersion(ctx, engine, fmt.Sprintf("order-%d", n), 3)
				}
				_, err := engine.SaveEvent(ctx, eventstore.Event{ID: "again", EventType: "Tested", ActorID: "order-7"}, eventstore.Expect("order-7", eventstore.ExpectNone))
				Expect(err).To(MatchError(ContainSubstring("3")))
			})
		}
	}, SpecTimeout(3*time.Minute))

	It("are kept before the age of events is lowered", func(ctx context.Context) {
		api := js(single)
		store := create(ctx, newStore(newNamespace(ctx), newClass(ctx, single.URLs()).Name, func(s *v1alpha1.EventStore) { s.Spec.Retention.MaxAge = "0" }))
		Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())
		withEngine(single, store, func(engine *layout.Store) { saveActors(ctx, engine, 600) })
		olderThan(ctx, api, store.EventsStreamName(), 2*time.Second)
		change(ctx, store, func(s *v1alpha1.EventStore) { s.Spec.Retention.MaxAge = "2s" })
		Eventually(read(ctx, store)).WithContext(ctx).Should(beStalled(v1alpha1.ReasonWouldDestroyEvents))
		statuses := follow(ctx, store)
		change(ctx, store, accept)
		// What takes long no worker of the stores does, of which others wait for one.
		Eventually(statuses).WithContext(ctx).Should(Receive(haveCondition(v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonProgressing)))
		Eventually(read(ctx, store)).WithContext(ctx).WithTimeout(time.Minute).Should(And(beReady(), HaveField("Status.Streams", ContainElement(HaveField("MaxAge", "2s")))))
		awaitEmpty(ctx, api, store)
		withEngine(single, store, func(engine *layout.Store) {
			for n := range 600 {
				wantVersion(ctx, engine, fmt.Sprintf("order-%d", n), 3)
			}
		})
	}, SpecTimeout(3*time.Minute))

	It("are not kept by an operator that may only look", func(ctx context.Context) {
		api := js(single)
		class := newClass(ctx, single.URLs()).Name
		ns := newNamespace(ctx)
		age := func(s *v1alpha1.EventStore) { s.Spec.Retention.MaxAge = "20s" }
		kept, observed := create(ctx, newStore(ns, class, age)), create(ctx, newStore(ns, class, age))
		Eventually(read(ctx, kept)).WithContext(ctx).Should(beReady())
		Eventually(read(ctx, observed)).WithContext(ctx).Should(beReady())
		change(ctx, observed, func(s *v1alpha1.EventStore) { s.Spec.ManagementPolicy = v1alpha1.ManagementObserve })
		Eventually(read(ctx, observed)).WithContext(ctx).Should(haveCondition(v1alpha1.ConditionReady, metav1.ConditionTrue, v1alpha1.ReasonObserved))
		for _, store := range []*v1alpha1.EventStore{kept, observed} {
			withEngine(single, store, func(engine *layout.Store) { saveActors(ctx, engine, 2) })
		}
		// Two versions and the record.
		for store, messages := range map[*v1alpha1.EventStore]int{kept: 3, observed: 0} {
			awaitEmpty(ctx, api, store)
			Expect(streamInfo(ctx, api, store.SnapshotsStreamName()).State.Msgs).To(BeEquivalentTo(messages))
		}
	}, SpecTimeout(2*time.Minute))

	It("are told of when they cannot be kept, and the store stays ready", func(ctx context.Context) {
		api := js(single)
		quantity := resource.MustParse("16Ki")
		store := create(ctx, newStore(newNamespace(ctx), newClass(ctx, single.URLs()).Name, func(s *v1alpha1.EventStore) {
			s.Spec.Retention.MaxAge, s.Spec.Snapshots.MaxBytes = "16s", &quantity
		}))
		Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())
		for full := false; !full; {
			_, err := api.Publish(ctx, store.EventsStreamName()+".snapshots.order."+unique("order"), make([]byte, 100))
			full = err != nil
		}
		withEngine(single, store, func(engine *layout.Store) { saveActors(ctx, engine, 3) })
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(beReady(), haveCondition(v1alpha1.ConditionVersionsNotKept, metav1.ConditionTrue, v1alpha1.ReasonSnapshotsFull)))
		Eventually(toldOf(ctx, store)).Should(ContainElement(anEvent("Warning", v1alpha1.ReasonSnapshotsFull, ContainSubstring("set spec.snapshots.maxBytes higher"))))
		change(ctx, store, func(s *v1alpha1.EventStore) { s.Spec.Snapshots.MaxBytes = nil })
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(beReady(), haveNoCondition(v1alpha1.ConditionVersionsNotKept)))
	}, SpecTimeout(2*time.Minute))
})
