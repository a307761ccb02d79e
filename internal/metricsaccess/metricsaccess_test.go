package metricsaccess_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/go-logr/logr/testr"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"git.flowmade.one/flowmade-one/aether-operator/internal/metricsaccess"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv"
)

// Only a ServiceAccount that is bound to the path reads it, and an API server that
// is away opens nothing.
func TestFilter(t *testing.T) {
	kube, err := testenv.Start(testenv.WithoutCRDs())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := kube.Stop(); err != nil {
			t.Error(err)
		}
	})
	api, err := kubernetes.NewForConfig(kube.Config)
	if err != nil {
		t.Fatal(err)
	}
	client, err := rest.HTTPClientFor(kube.Config)
	if err != nil {
		t.Fatal(err)
	}
	gated := behind(t, kube.Config, client)
	bound, stranger := tokenFor(t, api, "scraper"), tokenFor(t, api, "stranger")
	allow(t, api, "scraper")
	for name, c := range map[string]struct {
		authorization string
		want          int
	}{
		"no token":             {"", http.StatusUnauthorized},
		"not a bearer":         {"Basic " + bound, http.StatusUnauthorized},
		"a token of nobody":    {"Bearer x", http.StatusUnauthorized},
		"a token without rule": {"Bearer " + stranger, http.StatusForbidden},
		"a token with a rule":  {"Bearer " + bound, http.StatusOK},
		"the same, lower case": {"bearer " + bound, http.StatusOK},
	} {
		if got := get(gated, "/metrics", c.authorization); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
	if got := get(gated, "/other", "Bearer "+bound); got != http.StatusForbidden {
		t.Errorf("another path: %d", got)
	}
	strangers(t, gated, "Bearer "+bound)
	away := rest.CopyConfig(kube.Config)
	away.Host = "https://127.0.0.1:1"
	if got := get(behind(t, away, client), "/metrics", "Bearer "+bound); got != http.StatusServiceUnavailable {
		t.Errorf("the API server is away: %d", got)
	}
}

// strangers try tokens as fast as they can: most are not reviewed, and push no token out of
// what is known that opens the path.
func strangers(t *testing.T, gated http.Handler, good string) {
	t.Helper()
	reviewed := 0
	for i := range 500 {
		switch got := get(gated, "/metrics", fmt.Sprintf("Bearer x%d", i)); got {
		case http.StatusUnauthorized:
			reviewed++
		case http.StatusTooManyRequests:
		default:
			t.Fatalf("a token of nobody: %d", got)
		}
	}
	if reviewed > 100 {
		t.Errorf("%d tokens of 500 are reviewed", reviewed)
	}
	if got := get(gated, "/metrics", good); got != http.StatusOK {
		t.Errorf("who may read, beside strangers: %d", got)
	}
}

func behind(t *testing.T, config *rest.Config, client *http.Client) http.Handler {
	t.Helper()
	filter, err := metricsaccess.Filter(config, client)
	if err != nil {
		t.Fatal(err)
	}
	gated, err := filter(testr.New(t), http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) }))
	if err != nil {
		t.Fatal(err)
	}
	return gated
}

func get(handler http.Handler, path, authorization string) int {
	request := httptest.NewRequest(http.MethodGet, path, nil)
	if authorization != "" {
		request.Header.Set("Authorization", authorization)
	}
	recorder := httptest.NewRecorder()
	handler.ServeHTTP(recorder, request)
	return recorder.Code
}

func tokenFor(t *testing.T, api kubernetes.Interface, name string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	accounts := api.CoreV1().ServiceAccounts("default")
	if _, err := accounts.Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	token, err := accounts.CreateToken(ctx, name, &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return token.Status.Token
}

// allow binds a ServiceAccount to the path, and waits until the API server knows.
func allow(t *testing.T, api kubernetes.Interface, name string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	role := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name}, Rules: []rbacv1.PolicyRule{{NonResourceURLs: []string{"/metrics"}, Verbs: []string{"get"}}}}
	if _, err := api.RbacV1().ClusterRoles().Create(ctx, role, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	binding := &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: name}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: name},
		Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: "default", Name: name}},
	}
	if _, err := api.RbacV1().ClusterRoleBindings().Create(ctx, binding, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}
