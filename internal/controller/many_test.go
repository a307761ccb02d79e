package controller_test

import (
	"context"
	"sync/atomic"

	"github.com/nats-io/nats.go"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
)

// More stores are deleted at once than may ask other operators at the same time.
var _ = Describe("Many stores that are deleted at once", func() {
	It("ask in turn, once each, and go", func(ctx context.Context) {
		const count = 120
		servers := startNATS(1)
		class := newClass(ctx, servers.URLs())
		namespace := newNamespace(ctx)
		var questions atomic.Int64
		nc := js(servers).Conn()
		_, err := nc.Subscribe("aether.owner.*", func(m *nats.Msg) {
			// What an operator says to itself is empty.
			if m.Reply != "" && len(m.Data) > 0 {
				questions.Add(1)
			}
		})
		Expect(err).NotTo(HaveOccurred())
		Expect(nc.Flush()).To(Succeed())
		for range count {
			create(ctx, newStore(namespace, class.Name, func(s *v1alpha1.EventStore) { s.Spec.DeletionPolicy = v1alpha1.DeletionPolicyDelete }))
		}
		left := func(g Gomega) []v1alpha1.EventStore {
			var all v1alpha1.EventStoreList
			g.Expect(k8s.List(ctx, &all, client.InNamespace(namespace))).To(Succeed())
			return all.Items
		}
		Eventually(left).WithContext(ctx).Should(HaveEach(HaveField("Finalizers", ContainElement(v1alpha1.Finalizer))))
		Expect(k8s.DeleteAllOf(ctx, &v1alpha1.EventStore{}, client.InNamespace(namespace))).To(Succeed())
		Eventually(left).WithContext(ctx).Should(BeEmpty())
		Expect(nc.Flush()).To(Succeed())
		Expect(questions.Load()).To(And(BeNumerically(">=", count), BeNumerically("<=", 2*count)))
	})
})
