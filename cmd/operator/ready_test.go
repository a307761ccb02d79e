package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv"
)

// TestReadiness takes away what an operator needs, one thing after the other.
func TestReadiness(t *testing.T) {
	applyRights(t)
	remove(t, &admissionregistrationv1.MutatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "aether-injector"}})
	newcomer, err := kubernetes.ControlPlane.AddUser(envtest.User{Name: "newcomer", Groups: []string{"system:authenticated"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	link := startLink(t, apiServerAddress(newcomer))
	r := startReplica(t, writeKubeconfig(t, newcomer, link.address))

	// Without rights, no cache can be filled.
	r.waitUntilNotReady(t, "caches")
	giveRights(t, "newcomer")
	// The API server would call nobody.
	r.waitUntilNotReady(t, "webhook")
	testenv.Eventually(t, deadline, "the caches to be filled", func() error {
		if err := r.ready(t.Context()); err == nil || !strings.Contains(err.Error(), "[+]caches ok") {
			return fmt.Errorf("/readyz: %w", err)
		}
		return nil
	})
	apply(t, "config/webhook")
	r.waitUntilReady(t)

	link.cut()
	r.waitUntilNotReady(t, "apiserver")
	if err := getOK(t.Context(), http.DefaultClient, "http://"+r.probes+"/healthz", ""); err != nil {
		t.Errorf("an operator that waits for the API server is alive: %v", err)
	}
	link.mend()
	r.waitUntilReady(t)
}

func apiServerAddress(user *envtest.AuthenticatedUser) string {
	return strings.Trim(strings.TrimPrefix(user.Config().Host, "https:"), "/")
}

// giveRights binds a user as config/rbac binds the operator's ServiceAccount.
func giveRights(t *testing.T, user string) {
	t.Helper()
	meta := metav1.ObjectMeta{Name: user}
	inNamespace := metav1.ObjectMeta{Namespace: operatorNamespace, Name: user}
	reference := rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "aether-operator"}
	ownReference := rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "aether-operator"}
	subjects := []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: user}}
	for _, binding := range []client.Object{
		&rbacv1.ClusterRoleBinding{ObjectMeta: meta, RoleRef: reference, Subjects: subjects},
		&rbacv1.RoleBinding{ObjectMeta: inNamespace, RoleRef: ownReference, Subjects: subjects},
	} {
		create(t, binding)
	}
}

// create makes an object for the time of a test.
func create(t *testing.T, object client.Object) {
	t.Helper()
	if err := kubernetes.Client.Create(t.Context(), object); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { remove(t, object) })
}

func remove(t *testing.T, object client.Object) {
	t.Helper()
	// In a clean-up, the test's own context has ended.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), deadline)
	defer cancel()
	if err := client.IgnoreNotFound(kubernetes.Client.Delete(ctx, object)); err != nil {
		t.Errorf("delete %T %s: %v", object, object.GetName(), err)
	}
}

func applyRights(t *testing.T) *envtest.AuthenticatedUser {
	t.Helper()
	user, err := kubernetes.Operator(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return user
}

func apply(t *testing.T, path string) {
	t.Helper()
	objects, err := testenv.Render(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, object := range objects {
		if err := kubernetes.Apply(t.Context(), object); err != nil {
			t.Fatal(err)
		}
	}
}

// link is a network between the operator and the API server that can be cut.
type link struct {
	address, target string

	mu          sync.Mutex
	isCut       bool
	connections map[net.Conn]bool
}

func startLink(t *testing.T, target string) *link {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &link{address: listener.Addr().String(), target: target, connections: map[net.Conn]bool{}}
	t.Cleanup(func() {
		_ = listener.Close()
		l.cut()
	})
	go func() {
		for {
			near, err := listener.Accept()
			if err != nil {
				return
			}
			go l.carry(near)
		}
	}()
	return l
}

// carry copies both ways until one end closes, or the link is cut.
func (l *link) carry(near net.Conn) {
	far, err := (&net.Dialer{Timeout: 10 * time.Second}).Dial("tcp", l.target)
	if err != nil {
		_ = near.Close()
		return
	}
	closeBoth := func() { _, _ = near.Close(), far.Close() }
	defer closeBoth()
	if !l.add(near, far) {
		return
	}
	go func() {
		defer closeBoth()
		_, _ = io.Copy(far, near)
	}()
	_, _ = io.Copy(near, far)
}

func (l *link) add(connections ...net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range connections {
		l.connections[c] = true
	}
	return !l.isCut
}

func (l *link) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.isCut = true
	for c := range l.connections {
		_ = c.Close()
	}
	clear(l.connections)
}

func (l *link) mend() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.isCut = false
}

// TestMetricsAreForThoseWhoMay scrapes as nobody, as a stranger, and as one who
// is bound to the role of config/rbac.
func TestMetricsAreForThoseWhoMay(t *testing.T) {
	operator := applyRights(t)
	apply(t, "config/webhook")
	r := startReplica(t, writeKubeconfig(t, operator, ""))
	r.waitUntilReady(t)
	insecure := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	scrape := func(token string) error { return getOK(t.Context(), insecure, "https://"+r.metrics+"/metrics", token) }
	// The certificate of the metrics is made while the rest starts.
	testenv.Eventually(t, deadline, "401 without a token", func() error {
		if err := scrape(""); err == nil || !strings.Contains(err.Error(), "401") {
			return fmt.Errorf("got %w", err)
		}
		return nil
	})
	if err := scrape(newToken(t, "stranger")); err == nil || !strings.Contains(err.Error(), "403") {
		t.Errorf("a stranger: %v, want 403", err)
	}
	binding := &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "prometheus"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "aether-operator-metrics-reader"},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: "default", Name: "prometheus"}},
	}
	create(t, binding)
	// The operator remembers a refusal for a minute, and the authorizer of the API
	// server sees a role a moment after it was written.
	testenv.Eventually(t, deadline, "the right to read the metrics", func() error {
		review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
			User:                  "system:serviceaccount:default:prometheus",
			NonResourceAttributes: &authorizationv1.NonResourceAttributes{Path: "/metrics", Verb: "get"},
		}}
		if err := kubernetes.Client.Create(t.Context(), review); err != nil {
			return err
		}
		if !review.Status.Allowed {
			return errors.New(review.Status.Reason)
		}
		return nil
	})
	if err := scrape(newToken(t, "prometheus")); err != nil {
		t.Error(err)
	}
}

// newToken makes a ServiceAccount and a token for it.
func newToken(t *testing.T, name string) string {
	t.Helper()
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}}
	create(t, account)
	request := &authenticationv1.TokenRequest{}
	if err := kubernetes.Client.SubResource("token").Create(t.Context(), account, request); err != nil {
		t.Fatal(err)
	}
	return request.Status.Token
}
