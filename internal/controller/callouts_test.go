package controller_test

import (
	"context"
	"os"

	"github.com/nats-io/nats-server/v2/server"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv/callout"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv/natsserver"
)

// newCalloutClass makes a class whose servers ask the operator, and gives the
// class and the Secret of the callout user.
func newCalloutClass(ctx context.Context, edit func(*v1alpha1.EventStoreClass, *corev1.Secret), options ...natsserver.Option) (*v1alpha1.EventStoreClass, *corev1.Secret) {
	GinkgoHelper()
	class, secret, _ := newCalloutClassOn(ctx, 1, edit, options...)
	return class, secret
}

func newCalloutClassOn(ctx context.Context, size int, edit func(*v1alpha1.EventStoreClass, *corev1.Secret), options ...natsserver.Option) (*v1alpha1.EventStoreClass, *corev1.Secret, *natsserver.Cluster) {
	GinkgoHelper()
	setup, err := callout.New()
	Expect(err).NotTo(HaveOccurred())
	dir, err := os.MkdirTemp("", "nats-")
	Expect(err).NotTo(HaveOccurred())
	servers, err := setup.Start(dir, size, options...)
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(func() {
		servers.Stop()
		Expect(os.RemoveAll(dir)).To(Succeed())
	})
	objects := setup.Class(unique("class"), servers)
	secret, class := objects[1].(*corev1.Secret), objects[2].(*v1alpha1.EventStoreClass)
	edit(class, secret)
	letReadSecrets(ctx, secret.Namespace)
	for _, object := range objects {
		Expect(k8s.Create(ctx, object)).To(Succeed())
		DeferCleanup(func(ctx context.Context) { Expect(client.IgnoreNotFound(k8s.Delete(ctx, object))).To(Succeed()) })
	}
	return class, secret, servers
}

func asDocumented(*v1alpha1.EventStoreClass, *corev1.Secret) {}

var _ = Describe("A class with access ServiceAccount", func() {
	It("is ready, and its bindings hold nothing secret", func(ctx context.Context) {
		class, secret := newCalloutClass(ctx, func(_ *v1alpha1.EventStoreClass, s *corev1.Secret) {
			s.StringData["unrelated"] = "x"
		})
		Eventually(readClass(ctx, class)).WithContext(ctx).Should(beReady())
		store := create(ctx, newStore(newNamespace(ctx), class.Name))
		Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())
		Expect(bindingOf(ctx, store).Data).To(Equal(map[string][]byte{
			"type": []byte("eventstore"), "provider": []byte("nats"), "servers": []byte(class.Spec.Servers[0]), "access": []byte("ServiceAccount"),
			"domain": []byte(callout.Domain), "namespace": []byte(store.Namespace),
			"stream": []byte(store.EventsStreamName()), "snapshot-stream": []byte(store.SnapshotsStreamName()),
		}))
		Expect(secret.Data).To(HaveKey("issuer.nk"))
	})

	It("is refused while pods would be in the account of the streams", func(ctx context.Context) {
		class, _ := newCalloutClass(ctx, func(c *v1alpha1.EventStoreClass, _ *corev1.Secret) { c.Spec.Workloads.Callout.Account = "AETHER" })
		Eventually(readClass(ctx, class)).WithContext(ctx).Should(And(
			beStalled(v1alpha1.ReasonInvalidSpec), sayWhy(ContainSubstring("the account that holds the streams"))))
		changeClass(ctx, class, func(c *v1alpha1.EventStoreClass) { c.Spec.Workloads.Callout.Account = callout.Account })
		Eventually(readClass(ctx, class)).WithContext(ctx).Should(beReady())
	})

	It("says when the callout user is not in the system account, and mends itself when it is", func(ctx context.Context) {
		class, secret := newCalloutClass(ctx, func(_ *v1alpha1.EventStoreClass, s *corev1.Secret) {
			s.StringData["username"], s.StringData["password"] = "elsewhere", "p"
		}, func(o *server.Options) {
			for _, account := range o.Accounts {
				if account.Name == "AETHER" {
					o.Users = append(o.Users, &server.User{Username: "elsewhere", Password: "p", Account: account})
				}
			}
			o.AuthCallout.AuthUsers = append(o.AuthCallout.AuthUsers, "elsewhere")
		})
		Eventually(readClass(ctx, class)).WithContext(ctx).Should(And(
			beStalled(v1alpha1.ReasonCalloutUnavailable), sayWhy(ContainSubstring("put the callout user into the system account"))))
		before := secret.DeepCopy()
		secret.StringData = map[string]string{"username": "aether-callout", "password": "of-the-callout"}
		Expect(k8s.Patch(ctx, secret, client.MergeFrom(before))).To(Succeed())
		Eventually(readClass(ctx, class)).WithContext(ctx).Should(beReady())
	})

	It("says when the Secret is missing or wrong", func(ctx context.Context) {
		class, _ := newCalloutClass(ctx, func(c *v1alpha1.EventStoreClass, s *corev1.Secret) { delete(s.StringData, "issuer.nk") })
		Eventually(readClass(ctx, class)).WithContext(ctx).Should(And(beStalled(v1alpha1.ReasonCredentialsInvalid), sayWhy(ContainSubstring("issuer.nk"))))
		changeClass(ctx, class, func(c *v1alpha1.EventStoreClass) { c.Spec.Workloads.Callout.SecretRef.Name = "none" })
		Eventually(readClass(ctx, class)).WithContext(ctx).Should(And(beStalled(v1alpha1.ReasonCredentialsInvalid), sayWhy(ContainSubstring("spec.workloads.callout"))))
	})

	It("stops asking when it has other access", func(ctx context.Context) {
		class, _ := newCalloutClass(ctx, asDocumented)
		Eventually(readClass(ctx, class)).WithContext(ctx).Should(beReady())
		store := create(ctx, newStore(newNamespace(ctx), class.Name))
		Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())
		changeClass(ctx, class, func(c *v1alpha1.EventStoreClass) { c.Spec.Workloads = v1alpha1.Workloads{Access: v1alpha1.AccessNone} })
		Eventually(func() map[string][]byte { return bindingOf(ctx, store).Data }).Should(And(Not(HaveKey("access")), Not(HaveKey("domain"))))
	})

	// In a cluster of servers a look at a class takes seconds, since all are asked.
	It("leaves no connection behind when it is deleted while it is looked at", func(ctx context.Context) {
		class, _, servers := newCalloutClassOn(ctx, 3, asDocumented)
		Eventually(readClass(ctx, class)).WithContext(ctx).Should(beReady())
		connected := func() []string {
			var names []string
			for i := range servers.Size() {
				connections, err := servers.Node(i).Connz(&server.ConnzOptions{})
				Expect(err).NotTo(HaveOccurred())
				for _, c := range connections.Conns {
					names = append(names, c.Name)
				}
			}
			return names
		}
		Expect(connected()).To(ContainElements("aether-operator", "aether-callout"))
		changeClass(ctx, class, func(c *v1alpha1.EventStoreClass) { c.Spec.Defaults.Replicas = 3 })
		Expect(k8s.Delete(ctx, class)).To(Succeed())
		Eventually(connected).WithContext(ctx).Should(BeEmpty())
		// A pass that was under way has ended before the connection of the class was closed.
		Consistently(connected).WithContext(ctx).WithTimeout(consistentTime).Should(BeEmpty())
	})
})
