package controller_test

import (
	"context"
	"net"
	"sync/atomic"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
)

// silentServer takes connections, never says a word, and counts them.
func silentServer(dialled *atomic.Int64) string {
	GinkgoHelper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(listener.Close)
	go func() {
		for {
			// Who dials gives up, and closes it.
			if _, err := listener.Accept(); err != nil {
				return
			}
			dialled.Add(1)
		}
	}()
	return "nats://" + listener.Addr().String()
}

var _ = Describe("A class whose servers are silent", func() {
	It("does not hold up the stores of another", func(ctx context.Context) {
		const servers = 16
		var urls []string
		var dialled atomic.Int64
		for range servers {
			urls = append(urls, silentServer(&dialled))
		}
		silent, ns := newClass(ctx, urls), newNamespace(ctx)
		var waiting []*v1alpha1.EventStore
		for range 32 {
			waiting = append(waiting, create(ctx, newStore(ns, silent.Name)))
		}
		Eventually(dialled.Load).Should(BeNumerically(">", 0))
		store := create(ctx, newStore(newNamespace(ctx), newClass(ctx, single.URLs()).Name))
		Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())
		// Each takes two seconds.
		Expect(dialled.Load()).To(BeNumerically("<", servers), "the store waited until all the silent servers had been tried")
		for _, store := range waiting {
			Eventually(read(ctx, store)).WithContext(ctx).Should(haveCondition(v1alpha1.ConditionConnected, metav1.ConditionFalse, v1alpha1.ReasonUnreachable))
		}
	})
})
