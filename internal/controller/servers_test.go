package controller_test

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv/link"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv/natsserver"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv/oldserver"
)

// patience is how long a connection may take to be given up, 15 seconds and more on a
// busy machine, and to be made again.
const patience = time.Minute

var _ = Describe("The NATS servers of a class", func() {
	It("may go silent without closing a connection: the class and its stores say so, and when they are back", func(ctx context.Context) {
		silent := link.To(GinkgoTB(), single.URL())
		class := newClass(ctx, []string{silent.URL()})
		store := create(ctx, newStore(newNamespace(ctx), class.Name))
		Eventually(readClass(ctx, class)).WithContext(ctx).Should(beReady())
		Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())
		silent.Silence()
		unreachable := haveCondition(v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonUnreachable)
		Eventually(readClass(ctx, class)).WithContext(ctx).WithTimeout(patience).Should(unreachable)
		Eventually(read(ctx, store)).WithContext(ctx).WithTimeout(patience).Should(unreachable)
		silent.Resume()
		Eventually(readClass(ctx, class)).WithContext(ctx).WithTimeout(patience).Should(beReady())
		Eventually(read(ctx, store)).WithContext(ctx).WithTimeout(patience).Should(beReady())
	})

	It("may be too few for a majority: the class and its stores say so, and when they are back", func(ctx context.Context) {
		servers := startNATS(3)
		class := newClass(ctx, servers.URLs())
		store := create(ctx, newStore(newNamespace(ctx), class.Name, func(s *v1alpha1.EventStore) { s.Spec.Replicas = 3 }))
		Eventually(readClass(ctx, class)).WithContext(ctx).Should(beReady())
		Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())
		servers.StopNode(1)
		servers.StopNode(2)
		lost := And(
			haveCondition(v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonNoQuorum),
			haveCondition(v1alpha1.ConditionReconciling, metav1.ConditionTrue, v1alpha1.ReasonProgressingWithRetry),
			sayWhy(ContainSubstring("a majority of the")))
		// Until the one that is left knows, it does not answer.
		Eventually(func(g Gomega) *v1alpha1.EventStoreClass {
			current := readClass(ctx, class)(g)
			if ready, _ := beReady().Match(current); ready {
				// Nobody tells of it, and the next look is far away here.
				changeClass(ctx, class, func(c *v1alpha1.EventStoreClass) {
					c.Spec.AllowedNamespaces = &v1alpha1.AllowedNamespaces{Selector: metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{
						{Key: unique("poke"), Operator: metav1.LabelSelectorOpDoesNotExist},
					}}}
				})
			}
			return current
		}).WithContext(ctx).WithTimeout(patience).Should(lost)
		Eventually(func(g Gomega) *v1alpha1.EventStore {
			annotate(ctx, store, unique("poke"))
			return read(ctx, store)(g)
		}).WithContext(ctx).WithTimeout(patience).Should(
			haveCondition(v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonNoQuorum))
		Expect(servers.StartNode(1)).To(Succeed())
		Expect(servers.StartNode(2)).To(Succeed())
		Eventually(readClass(ctx, class)).WithContext(ctx).WithTimeout(patience).Should(beReady())
		Eventually(read(ctx, store)).WithContext(ctx).WithTimeout(patience).Should(beReady())
	})

	It("may have too little storage for a store, which says so, and what to do", func(ctx context.Context) {
		servers := startNATS(1, func(o *server.Options) { o.JetStreamMaxStore = 1 << 20 })
		class := newClass(ctx, servers.URLs())
		size := resource.MustParse("10Mi")
		store := create(ctx, newStore(newNamespace(ctx), class.Name, func(s *v1alpha1.EventStore) { s.Spec.Retention.MaxBytes = &size }))
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(beStalled(v1alpha1.ReasonOutOfStorage), sayWhy(ContainSubstring("Set maxBytes"))))
		change(ctx, store, func(s *v1alpha1.EventStore) {
			s.Spec.Retention.MaxBytes = resource.NewQuantity(1<<18, resource.BinarySI)
		})
		Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())
	})

	It("may have an account that is full, which the class says", func(ctx context.Context) {
		limited, err := natsserver.WithConfig(`accounts {
			A { users: [{user: u, password: p}], jetstream: {max_file: 4M} }
			$SYS { users: [{user: s, password: s}] }
		}`)
		Expect(err).NotTo(HaveOccurred())
		servers := startNATS(1, limited)
		ns := newNamespace(ctx)
		store := newStore(ns, newClass(ctx, servers.URLs(), withCredentials(ns, newSecret(ctx, ns, map[string]string{"username": "u", "password": "p"}).Name)).Name)
		Eventually(read(ctx, create(ctx, store))).WithContext(ctx).Should(beReady())
		api := js(servers, nats.UserInfo("u", "p"))
		Eventually(func() error {
			_, err := api.Publish(ctx, store.EventsStreamName()+".events.order.order-1", make([]byte, 1<<16))
			return err
		}).WithContext(ctx).WithPolling(time.Millisecond).ShouldNot(Succeed())
		full := newClass(ctx, servers.URLs(), withCredentials(ns, newSecret(ctx, ns, map[string]string{"username": "u", "password": "p"}).Name))
		Eventually(readClass(ctx, full)).WithContext(ctx).Should(And(beStalled(v1alpha1.ReasonOutOfStorage), sayWhy(ContainSubstring("of 4000000 bytes of files"))))
	})

	It("may be too old: the class says so, and no store on them is ready, or changed again and again", func(ctx context.Context) {
		old := oldserver.Run(GinkgoTB())
		class := newClass(ctx, []string{old})
		tooOld := And(beStalled(v1alpha1.ReasonServerTooOld), sayWhy(ContainSubstring("old is 2.11.")))
		Eventually(readClass(ctx, class)).WithContext(ctx).Should(And(tooOld, HaveField("Status.Servers", ContainElement(HaveField("Version", HavePrefix("2.11."))))))
		store := create(ctx, newStore(newNamespace(ctx), class.Name))
		ignored := And(beStalled(v1alpha1.ReasonFieldIgnored), sayWhy(ContainSubstring("ignored allowAtomicPublish")))
		Eventually(read(ctx, store)).WithContext(ctx).Should(ignored)
		told := func() []string { return notesOf(ctx, store) }
		Eventually(told).WithContext(ctx).ShouldNot(BeEmpty())
		before := told()
		for range 3 {
			annotate(ctx, store, unique("poke"))
			Consistently(read(ctx, store)).WithContext(ctx).WithTimeout(consistentTime).Should(ignored)
		}
		Expect(told()).To(Equal(before), "no Event for each look")
	})
})

// notesOf are the Events of a store, each with how often it was sent.
func notesOf(ctx context.Context, store *v1alpha1.EventStore) []string {
	GinkgoHelper()
	var events eventsv1.EventList
	Expect(k8s.List(ctx, &events, client.InNamespace(store.Namespace))).To(Succeed())
	var told []string
	for _, event := range events.Items {
		if event.Regarding.Name == store.Name {
			count := int32(1)
			if event.Series != nil {
				count = event.Series.Count
			}
			told = append(told, fmt.Sprintf("%s x%d", event.Reason, count))
		}
	}
	return told
}
