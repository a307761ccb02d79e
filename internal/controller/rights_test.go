package controller_test

import (
	"context"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
)

const (
	operatorUser      = "system:serviceaccount:aether-system:aether-operator"
	credentialsReader = "aether-operator-credentials-reader"
)

// letReadSecrets does what the platform does that keeps credentials in a
// namespace of its own.
func letReadSecrets(ctx context.Context, namespace string) {
	GinkgoHelper()
	binding := &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: credentialsReader},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: credentialsReader},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: "aether-system", Name: "aether-operator"}},
	}
	Expect(client.IgnoreAlreadyExists(k8s.Create(ctx, binding))).To(Succeed())
	// The authorizer sees it a moment later.
	Eventually(func(g Gomega) {
		review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
			User:               operatorUser,
			ResourceAttributes: &authorizationv1.ResourceAttributes{Namespace: namespace, Verb: "get", Resource: "secrets"},
		}}
		g.Expect(k8s.Create(ctx, review)).To(Succeed())
		g.Expect(review.Status.Allowed).To(BeTrue())
	}).WithContext(ctx).Should(Succeed())
}

// behind is how the name of a namespace starts of which the operator's cache has
// seen no Secret yet, which lasts for a moment and cannot be caused.
const behind = "behind"

func newClientBehind(config *rest.Config, options client.Options) (client.Client, error) {
	c, err := client.NewWithWatch(config, options)
	if err != nil {
		return nil, err
	}
	return interceptor.NewClient(c, interceptor.Funcs{
		Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, object client.Object, options ...client.GetOption) error {
			if _, isSecret := object.(*corev1.Secret); isSecret && strings.HasPrefix(key.Namespace, behind) {
				return apierrors.NewNotFound(corev1.Resource("secrets"), key.Name)
			}
			return c.Get(ctx, key, object, options...)
		},
	}), nil
}

var _ = Describe("With the rights of config/rbac", func() {
	It("a Secret of another namespace is read when the platform says so", func(ctx context.Context) {
		ns := newNamespace(ctx)
		secret := &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "nats"}, StringData: map[string]string{"username": "u", "password": "p"},
		}
		Expect(k8s.Create(ctx, secret)).To(Succeed())
		class := newClass(ctx, single.URLs(), withCredentials(ns, secret.Name))
		store := create(ctx, newStore(newNamespace(ctx), class.Name))
		// All that is needed to mend it: the Secret, who may not, and what to bind where.
		told := And(beStalled(v1alpha1.ReasonCredentialsInvalid), sayWhy(And(
			ContainSubstring("the operator may not read the Secret "+ns+"/nats that spec.credentials of EventStoreClass "+class.Name+" names"),
			ContainSubstring(operatorUser), ContainSubstring("bind the ClusterRole "+credentialsReader), ContainSubstring("RoleBinding in namespace "+ns))))
		Eventually(read(ctx, store)).WithContext(ctx).Should(told)
		Eventually(readClass(ctx, class)).WithContext(ctx).Should(told)

		letReadSecrets(ctx, ns)
		Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())
		Eventually(readClass(ctx, class)).WithContext(ctx).Should(beReady())
	})

	It("a Secret of the operator's own namespace is read", func(ctx context.Context) {
		secret := &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Namespace: "aether-system", Name: unique("nats")}, StringData: map[string]string{"username": "u", "password": "p"},
		}
		Expect(k8s.Create(ctx, secret)).To(Succeed())
		class := newClass(ctx, single.URLs(), withCredentials(secret.Namespace, secret.Name))
		Eventually(readClass(ctx, class)).WithContext(ctx).Should(beReady())
	})

	It("a binding that the cache has not seen yet is kept up to date", func(ctx context.Context) {
		ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: unique(behind)}}
		Expect(k8s.Create(ctx, ns)).To(Succeed())
		class := newClass(ctx, single.URLs())
		store := create(ctx, newStore(ns.Name, class.Name))
		Eventually(read(ctx, store)).WithContext(ctx).Should(beReady())

		before := class.DeepCopy()
		class.Spec.Workloads.Servers = []v1alpha1.ServerURL{"nats://elsewhere:4222"}
		Expect(k8s.Patch(ctx, class, client.MergeFrom(before))).To(Succeed())
		Eventually(func() map[string][]byte { return bindingOf(ctx, store).Data }).Should(HaveKeyWithValue("servers", []byte("nats://elsewhere:4222")))
		Expect(read(ctx, store)(Default)).To(beReady())
	})
})
