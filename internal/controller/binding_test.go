package controller_test

import (
	"context"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
)

func bindingOf(ctx context.Context, store *v1alpha1.EventStore) *corev1.Secret {
	GinkgoHelper()
	secret := &corev1.Secret{}
	Expect(k8s.Get(ctx, client.ObjectKey{Namespace: store.Namespace, Name: store.Name + "-eventstore"}, secret)).To(Succeed())
	return secret
}

var _ = Describe("The binding", func() {
	It("tells a workload all it needs, and is the store's own", func(ctx context.Context) {
		class := newClass(ctx, single.URLs())
		store := create(ctx, newStore(newNamespace(ctx), class.Name))
		Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())
		secret := bindingOf(ctx, store)
		Expect(secret.Type).To(BeEquivalentTo("servicebinding.io/eventstore"))
		Expect(secret.Data).To(Equal(map[string][]byte{
			"type": []byte("eventstore"), "provider": []byte("nats"), "servers": []byte(single.URL()),
			"namespace": []byte(store.Namespace), "stream": []byte(store.EventsStreamName()), "snapshot-stream": []byte(store.SnapshotsStreamName()),
		}))
		Expect(secret.OwnerReferences).To(ConsistOf(And(HaveField("UID", store.UID), HaveField("Kind", "EventStore"), HaveField("Name", store.Name))))
	})

	It("carries the credentials of workloads, and follows the class", func(ctx context.Context) {
		ns := newNamespace(ctx)
		secret := newSecret(ctx, ns, map[string]string{"username": "app", "password": "secret", "unrelated": "x"})
		class := newClass(ctx, single.URLs(), func(c *v1alpha1.EventStoreClass) {
			c.Spec.Workloads = v1alpha1.Workloads{
				Servers: []v1alpha1.ServerURL{"nats://one:4222", "nats://two:4222"}, Access: v1alpha1.AccessSecret,
				Credentials: &v1alpha1.Credentials{SecretRef: v1alpha1.SecretReference{Namespace: ns, Name: secret.Name}},
			}
		})
		store := create(ctx, newStore(newNamespace(ctx), class.Name))
		Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())
		Expect(bindingOf(ctx, store).Data).To(And(
			HaveKeyWithValue("servers", []byte("nats://one:4222,nats://two:4222")),
			HaveKeyWithValue("username", []byte("app")), HaveKeyWithValue("password", []byte("secret")), Not(HaveKey("unrelated"))))

		before := class.DeepCopy()
		class.Spec.Workloads = v1alpha1.Workloads{Access: v1alpha1.AccessNone}
		Expect(k8s.Patch(ctx, class, client.MergeFrom(before))).To(Succeed())
		Eventually(func() map[string][]byte { return bindingOf(ctx, store).Data }).Should(And(
			HaveKeyWithValue("servers", []byte(single.URL())), Not(HaveKey("username")), Not(HaveKey("password"))))
	})

	It("comes back when it is edited or deleted", func(ctx context.Context) {
		class := newClass(ctx, single.URLs())
		store := create(ctx, newStore(newNamespace(ctx), class.Name))
		Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())
		want := bindingOf(ctx, store)
		edits := []func(*corev1.Secret){
			func(s *corev1.Secret) { s.Data["servers"] = []byte("nats://elsewhere:4222") },
			func(s *corev1.Secret) { delete(s.Data, "stream") },
			func(s *corev1.Secret) { s.Data["more"] = []byte("x") },
		}
		same := And(HaveField("Data", want.Data), HaveField("OwnerReferences", want.OwnerReferences))
		for _, edit := range edits {
			secret := bindingOf(ctx, store)
			edit(secret)
			Expect(k8s.Update(ctx, secret)).To(Succeed())
			Eventually(func() *corev1.Secret { return bindingOf(ctx, store) }).Should(same)
		}
		Expect(k8s.Delete(ctx, want)).To(Succeed())
		Eventually(func(g Gomega) {
			secret := &corev1.Secret{}
			g.Expect(k8s.Get(ctx, client.ObjectKeyFromObject(want), secret)).To(Succeed())
			g.Expect(secret).To(same)
		}).Should(Succeed())
	})

	It("of an earlier EventStore of the name is taken over", func(ctx context.Context) {
		// There is no garbage collector here, so the Secret of the first stays.
		class := newClass(ctx, single.URLs())
		store := create(ctx, newStore(newNamespace(ctx), class.Name))
		Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())
		deleteStore(ctx, store)
		again := create(ctx, newStore(store.Namespace, class.Name, func(s *v1alpha1.EventStore) { s.Name = store.Name }))
		Eventually(read(ctx, again)).WithContext(ctx).Should(beReady())
		Expect(bindingOf(ctx, again).OwnerReferences).To(ConsistOf(HaveField("UID", again.UID)))
	})

	It("that a tool for backups restored before the store is taken over", func(ctx context.Context) {
		class := newClass(ctx, single.URLs())
		store := create(ctx, newStore(newNamespace(ctx), class.Name))
		Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())
		binding := bindingOf(ctx, store)
		deleteStore(ctx, store)
		Expect(k8s.Delete(ctx, binding)).To(Succeed())
		// Such a tool keeps neither owners nor the status.
		Expect(k8s.Create(ctx, &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Namespace: binding.Namespace, Name: binding.Name}, Type: binding.Type, Data: binding.Data,
		})).To(Succeed())
		again := create(ctx, newStore(store.Namespace, class.Name, func(s *v1alpha1.EventStore) { s.Name = store.Name }))
		Eventually(read(ctx, again)).WithContext(ctx).Should(beReady())
		Expect(bindingOf(ctx, again).OwnerReferences).To(ConsistOf(HaveField("UID", again.UID)))
	})

	DescribeTable("never overwrites a Secret of another", func(ctx context.Context, secretType corev1.SecretType) {
		class := newClass(ctx, single.URLs())
		store := newStore(newNamespace(ctx), class.Name)
		foreign := &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Namespace: store.Namespace, Name: store.Name + "-eventstore"},
			Type:       secretType, Data: map[string][]byte{"theirs": []byte("x")},
		}
		Expect(k8s.Create(ctx, foreign)).To(Succeed())
		create(ctx, store)
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(beStalled(v1alpha1.ReasonBindingConflict), sayWhy(ContainSubstring(foreign.Name))))
		Expect(bindingOf(ctx, store).Data).To(Equal(foreign.Data))
	},
		Entry("of another type", corev1.SecretTypeOpaque),
		Entry("of the same type", corev1.SecretType(v1alpha1.BindingSecretType)),
	)
})
