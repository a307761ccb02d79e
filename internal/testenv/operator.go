package testenv

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
)

const (
	operatorNamespace = "aether-system"
	operatorAccount   = "aether-operator"
)

// Operator is the operator's ServiceAccount, with the rights of config/rbac, which
// it applies, and no others.
func (k *Kubernetes) Operator(ctx context.Context) (*envtest.AuthenticatedUser, error) {
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: operatorNamespace}}
	if err := client.IgnoreAlreadyExists(k.Client.Create(ctx, namespace)); err != nil {
		return nil, fmt.Errorf("create the operator's namespace: %w", err)
	}
	objects, err := Render("config/rbac")
	if err != nil {
		return nil, err
	}
	for _, object := range objects {
		if err := k.Apply(ctx, object); err != nil {
			return nil, err
		}
	}
	// The API server shares itself out fairly; a limit here would only slow a test.
	unlimited := &rest.Config{QPS: -1}
	return k.ControlPlane.AddUser(envtest.User{
		Name:   "system:serviceaccount:" + operatorNamespace + ":" + operatorAccount,
		Groups: []string{"system:serviceaccounts", "system:serviceaccounts:" + operatorNamespace, "system:authenticated"},
	}, unlimited)
}
