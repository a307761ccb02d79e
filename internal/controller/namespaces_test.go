package controller_test

import (
	"context"
	"fmt"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
)

var _ = Describe("A namespace with more labels than are kept in memory", func() {
	It("is allowed and not allowed by its labels all the same", func(ctx context.Context) {
		class := newClass(ctx, single.URLs(), func(c *v1alpha1.EventStoreClass) {
			c.Spec.AllowedNamespaces = &v1alpha1.AllowedNamespaces{Selector: metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{
				{Key: "allowed", Operator: metav1.LabelSelectorOpIn, Values: []string{"yes"}},
				{Key: "barred", Operator: metav1.LabelSelectorOpDoesNotExist},
			}}}
		})
		ns := newNamespace(ctx)
		label := func(key, value string) {
			GinkgoHelper()
			Eventually(func() error {
				namespace := &corev1.Namespace{}
				if err := k8s.Get(ctx, client.ObjectKey{Name: ns}, namespace); err != nil {
					return err
				}
				namespace.Labels[key] = value
				for i := range 200 {
					namespace.Labels[fmt.Sprint("more-", i)] = "a-value-of-some-length"
				}
				return k8s.Update(ctx, namespace)
			}).WithContext(ctx).Should(Succeed())
		}
		label("allowed", "yes")
		store := create(ctx, newStore(ns, class.Name))
		Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())
		label("barred", "yes")
		Eventually(read(ctx, store)).WithContext(ctx).Should(beStalled(v1alpha1.ReasonClassNotAllowed))
	})
})
