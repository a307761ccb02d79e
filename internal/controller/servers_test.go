package controller_test

import (
	"context"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv/link"
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
})
