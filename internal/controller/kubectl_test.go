package controller_test

import (
	"context"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/controller"
)

var _ = Describe("With kubectl", func() {
	// apply is kubectl apply --server-side of a manifest.
	apply := func(ctx context.Context, manifest string) *v1alpha1.EventStore {
		GinkgoHelper()
		object := &unstructured.Unstructured{}
		Expect(yaml.Unmarshal([]byte(manifest), &object.Object)).To(Succeed())
		Expect(k8s.Apply(ctx, client.ApplyConfigurationFromUnstructured(object), client.FieldOwner("kubectl"))).To(Succeed())
		store := &v1alpha1.EventStore{}
		Expect(k8s.Get(ctx, client.ObjectKeyFromObject(object), store)).To(Succeed())
		return store
	}

	It("an EventStore is applied, edited, deleted and applied again", func(ctx context.Context) {
		class := newClass(ctx, cluster.URLs())
		ns := newNamespace(ctx)
		api := js(cluster)
		head := `
apiVersion: aether.flowmade.one/v1alpha1
kind: EventStore
metadata: {name: orders, namespace: ` + ns + `}
`
		store := apply(ctx, head+`spec: {className: `+class.Name+`, retention: {maxAge: 7d}}`)
		Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())
		publish(ctx, api, store, 5)

		By("applying a change of two fields")
		apply(ctx, head+`spec: {className: `+class.Name+`, retention: {maxAge: 30d}, replicas: 3}`)
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(beReady(), HaveField("Generation", BeEquivalentTo(2))))
		Expect(streamInfo(ctx, api, store.EventsStreamName()).Config).To(And(
			HaveField("MaxAge", 30*24*time.Hour), HaveField("Replicas", 3)))

		By("applying without these fields, which gives them their defaults")
		apply(ctx, head+`spec: {className: `+class.Name+`}`)
		Eventually(read(ctx, store)).WithContext(ctx).Should(And(beReady(), HaveField("Generation", BeEquivalentTo(3))))
		Expect(streamInfo(ctx, api, store.EventsStreamName()).Config).To(And(
			HaveField("MaxAge", 365*24*time.Hour), HaveField("Replicas", 1)))

		// The operator owns nothing of what the user wrote.
		for _, owned := range read(ctx, store)(Default).ManagedFields {
			if owned.Manager != "kubectl" {
				Expect(owned.Manager).To(Equal(controller.FieldManager))
				Expect(owned.Subresource).To(Equal("status"), owned.Manager)
			}
		}

		By("deleting and applying again")
		deleteStore(ctx, store)
		again := apply(ctx, head+`spec: {className: `+class.Name+`}`)
		Eventually(read(ctx, again)).WithContext(ctx).Should(beReady())
		Expect(streamInfo(ctx, api, store.EventsStreamName()).State.Msgs).To(BeEquivalentTo(5))
	})
})
