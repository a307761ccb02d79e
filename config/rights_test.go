package config_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv"
	"git.flowmade.one/flowmade-one/aether-operator/internal/webhook"
)

const group = "aether.flowmade.one"

type attributes = authorizationv1.ResourceAttributes

// checkRight asks the API server whether a user may do something, until the
// authorizer has seen the roles, which is a moment after they were written.
func checkRight(t *testing.T, user string, groups []string, do attributes, may bool) {
	t.Helper()
	testenv.Eventually(t, 30*time.Second, fmt.Sprintf("%s: %+v to be %t", user, do, may), func() error {
		review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
			User: user, Groups: groups, ResourceAttributes: &do,
		}}
		if err := kubernetes.Client.Create(t.Context(), review); err != nil {
			return err
		}
		if review.Status.Allowed != may {
			return fmt.Errorf("allowed: %t: %s", review.Status.Allowed, review.Status.Reason)
		}
		return nil
	})
}

// TestRights: the operator may do what it needs, and not what would be too much.
func TestRights(t *testing.T) {
	install(t)
	if name := get(t, &appsv1.Deployment{}, account).Spec.Template.Spec.ServiceAccountName; name != account {
		t.Fatalf("the operator runs as %s, want %s", name, account)
	}
	const hooks, leases = "mutatingwebhookconfigurations", "leases"
	user := "system:serviceaccount:" + namespace + ":" + account
	groups := []string{"system:serviceaccounts", "system:serviceaccounts:" + namespace, "system:authenticated"}
	for _, do := range []attributes{
		{Verb: "watch", Group: group, Resource: "eventstores"},
		{Verb: "watch", Group: group, Resource: "eventstoreclasses"},
		{Verb: "update", Group: group, Resource: "eventstores", Subresource: "status"},
		{Verb: "list", Resource: "limitranges", Namespace: "shop"},
		{Verb: "create", Resource: "secrets", Namespace: "shop", Name: "orders-eventstore"},
		{Verb: "list", Resource: "secrets"},
		{Verb: "watch", Resource: "secrets"},
		{Verb: "get", Resource: "secrets", Namespace: namespace, Name: "nats-admin"},
		{Verb: "update", Resource: "secrets", Namespace: namespace, Name: webhook.SecretName},
		{Verb: "patch", Group: "admissionregistration.k8s.io", Resource: hooks, Name: webhook.ConfigurationName},
		{Verb: "create", Group: "coordination.k8s.io", Resource: leases, Namespace: namespace},
		{Verb: "update", Group: "coordination.k8s.io", Resource: leases, Namespace: namespace, Name: lease},
		{Verb: "create", Group: "events.k8s.io", Resource: "events", Namespace: "shop"},
		{Verb: "create", Resource: "events", Namespace: namespace},
		{Verb: "create", Group: "authentication.k8s.io", Resource: "tokenreviews"},
		{Verb: "create", Group: "authorization.k8s.io", Resource: "subjectaccessreviews"},
	} {
		checkRight(t, user, groups, do, true)
	}
	for _, do := range []attributes{
		{Verb: "get", Resource: "secrets", Namespace: "shop", Name: "orders-eventstore"},
		{Verb: "get", Resource: "secrets", Namespace: "kube-system", Name: "anything"},
		{Verb: "delete", Resource: "secrets", Namespace: "shop"},
		{Verb: "patch", Resource: "secrets", Namespace: namespace},
		{Verb: "delete", Group: group, Resource: "eventstores", Namespace: "shop"},
		{Verb: "update", Group: group, Resource: "eventstores", Namespace: "shop"},
		{Verb: "patch", Group: "admissionregistration.k8s.io", Resource: hooks, Name: "another"},
		{Verb: "update", Group: "coordination.k8s.io", Resource: leases, Namespace: namespace, Name: "another"},
		{Verb: "update", Group: "coordination.k8s.io", Resource: leases, Namespace: "kube-system", Name: lease},
		{Verb: "list", Resource: "pods", Namespace: "shop"},
	} {
		checkRight(t, user, groups, do, false)
	}
}

// TestSecretsOfOthers writes Secrets as the operator: RBAC allows them all, the
// policy its own.
func TestSecretsOfOthers(t *testing.T) {
	install(t)
	user, err := kubernetes.Operator(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	operator, err := client.New(user.Config(), client.Options{Scheme: kubernetes.Scheme})
	if err != nil {
		t.Fatal(err)
	}
	const foreign = "kube-public"
	secret := func(namespace, name string, secretType corev1.SecretType) *corev1.Secret {
		return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Type: secretType}
	}
	// A policy takes effect a moment after it was written.
	testenv.Eventually(t, 30*time.Second, "the policy to take effect", func() error {
		return refusedByPolicy(operator.Create(t.Context(), secret(foreign, "token", corev1.SecretTypeOpaque), client.DryRunAll))
	})
	for _, s := range []*corev1.Secret{
		secret(foreign, "orders-eventstore", corev1.SecretTypeOpaque),
		secret(foreign, "orders", v1alpha1.BindingSecretType),
		secret(foreign, webhook.SecretName, corev1.SecretTypeOpaque),
		secret(namespace, "nats-admin", corev1.SecretTypeOpaque),
		secret(namespace, webhook.SecretName, corev1.SecretTypeOpaque),
	} {
		if err := refusedByPolicy(operator.Create(t.Context(), s.DeepCopy())); err != nil {
			t.Errorf("create %s/%s of type %s: %v", s.Namespace, s.Name, s.Type, err)
		}
		if err := kubernetes.Client.Create(t.Context(), s); err != nil {
			t.Fatalf("the policy is about others too: %v", err)
		}
		s.Data = map[string][]byte{"mine": nil}
		if err := refusedByPolicy(operator.Update(t.Context(), s)); err != nil {
			t.Errorf("update %s/%s of type %s: %v", s.Namespace, s.Name, s.Type, err)
		}
	}
	token := secret(namespace, webhook.SecretName, corev1.SecretTypeServiceAccountToken)
	token.Annotations = map[string]string{corev1.ServiceAccountNameKey: account}
	if err := refusedByPolicy(operator.Create(t.Context(), token, client.DryRunAll)); err != nil {
		t.Errorf("a token under the name of the CA: %v", err)
	}
	if err := kubernetes.Client.Delete(t.Context(), secret(namespace, webhook.SecretName, "")); err != nil {
		t.Fatal(err)
	}
	ca := secret(namespace, webhook.SecretName, corev1.SecretTypeTLS)
	ca.Data = map[string][]byte{corev1.TLSCertKey: nil, corev1.TLSPrivateKeyKey: nil}
	for _, s := range []*corev1.Secret{
		secret(foreign, "payments-eventstore", v1alpha1.BindingSecretType),
		ca,
	} {
		if err := operator.Create(t.Context(), s); err != nil {
			t.Errorf("create its own: %v", err)
			continue
		}
		if s.Data == nil {
			s.Data = map[string][]byte{}
		}
		s.Data["mine"] = nil
		if err := operator.Update(t.Context(), s); err != nil {
			t.Errorf("update its own: %v", err)
		}
	}
}

// refusedByPolicy is nil when a write was refused as it should be.
func refusedByPolicy(err error) error {
	if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "the operator of Aether writes bindings of EventStores") {
		return fmt.Errorf("want a refusal by the policy, got: %w", err)
	}
	return nil
}

// TestAggregatedRoles binds users to what is aggregated into view, edit and
// admin: the controller that fills those in is not part of an API server.
func TestAggregatedRoles(t *testing.T) {
	install(t)
	const team = "shop"
	ensureNamespace(t, team)
	store := func(verb string) attributes {
		return attributes{Verb: verb, Group: group, Resource: "eventstores", Namespace: team}
	}
	class := func(verb string) attributes {
		return attributes{Verb: verb, Group: group, Resource: "eventstoreclasses"}
	}
	status := attributes{Verb: "patch", Group: group, Resource: "eventstores", Subresource: "status", Namespace: team}
	elsewhere := attributes{Verb: "get", Group: group, Resource: "eventstores", Namespace: "default"}
	for _, c := range []struct {
		role string
		// everywhere: bound by a ClusterRoleBinding, as the platform is.
		everywhere bool
		may, not   []attributes
	}{
		{"view", false, []attributes{store("get"), store("list"), store("watch")},
			[]attributes{store("create"), store("patch"), store("delete"), class("get"), status, elsewhere}},
		{"edit", false, []attributes{store("get"), store("create"), store("update"), store("patch"), store("delete"), store("deletecollection")},
			[]attributes{class("get"), class("create"), status, elsewhere}},
		{"admin", false, []attributes{store("get"), store("create"), store("delete")},
			[]attributes{class("create"), class("patch"), status, elsewhere}},
		{"view", true, []attributes{elsewhere, class("get"), class("list")}, []attributes{class("create"), store("create")}},
		{"edit", true, []attributes{elsewhere, class("get"), store("create")}, []attributes{class("create"), class("delete")}},
		{"admin", true, []attributes{class("create"), class("update"), class("patch"), class("delete"), store("create")}, []attributes{status}},
	} {
		user := fmt.Sprintf("%s-%t", c.role, c.everywhere)
		bindAggregated(t, user, c.role, team, c.everywhere)
		for _, do := range c.may {
			checkRight(t, user, nil, do, true)
		}
		for _, do := range c.not {
			checkRight(t, user, nil, do, false)
		}
	}
}

func bindAggregated(t *testing.T, user, role, team string, everywhere bool) {
	t.Helper()
	var roles rbacv1.ClusterRoleList
	label := client.MatchingLabels{"rbac.authorization.k8s.io/aggregate-to-" + role: "true"}
	if err := kubernetes.Client.List(t.Context(), &roles, label); err != nil {
		t.Fatal(err)
	}
	for _, r := range roles.Items {
		// Kubernetes has roles of its own with the label.
		if !strings.HasPrefix(r.Name, "aether-") {
			continue
		}
		meta := metav1.ObjectMeta{Name: user + "-" + r.Name}
		reference := rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: r.Name}
		subjects := []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: user}}
		var binding client.Object = &rbacv1.ClusterRoleBinding{ObjectMeta: meta, RoleRef: reference, Subjects: subjects}
		if !everywhere {
			meta.Namespace = team
			binding = &rbacv1.RoleBinding{ObjectMeta: meta, RoleRef: reference, Subjects: subjects}
		}
		if err := kubernetes.Client.Create(t.Context(), binding); err != nil {
			t.Fatal(err)
		}
	}
}

func ensureNamespace(t *testing.T, name string) {
	t.Helper()
	err := kubernetes.Client.Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}})
	if client.IgnoreAlreadyExists(err) != nil {
		t.Fatal(err)
	}
}
