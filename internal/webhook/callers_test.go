package webhook

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv"
)

// review is what an API server sends about a labelled pod.
func review(namespace, store string) string {
	return fmt.Sprintf(`{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":"1","kind":{"group":"","version":"v1","kind":"Pod"},
		"resource":{"group":"","version":"v1","resource":"pods"},"operation":"CREATE","namespace":%q,"object":{"apiVersion":"v1","kind":"Pod",
		"metadata":{"name":"x","labels":{"aether.flowmade.one/eventstore":%q}},"spec":{"containers":[{"name":"c","image":"i"}]}}}}`, namespace, store)
}

// post sends a review as who reaches the port does: with no certificate and no token.
func post(t *testing.T, url, body string) int {
	t.Helper()
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	defer transport.CloseIdleConnections()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		t.Fatal(err)
	}
	_ = response.Body.Close()
	if response.ProtoMajor != 1 {
		t.Errorf("the webhook speaks %s", response.Proto)
	}
	return response.StatusCode
}

// TestOnlyTheAPIServerIsAnswered: who reaches the port learns nothing, not whether a
// store of another namespace exists, and makes the operator do nothing.
func TestOnlyTheAPIServerIsAnswered(t *testing.T) {
	r := startReplica(t, Options{})
	install(t, r)
	waitUntilServing(t, r)
	store := &v1alpha1.EventStore{ObjectMeta: metav1.ObjectMeta{Namespace: restrictedNamespace, Name: "secret-project"}}
	if err := kubernetes.Client.Create(t.Context(), store); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{store.Name, "no-such-project"} {
		for _, path := range []string{Path, Path + "/", Path + "/" + strings.Repeat("0", 2*secretPathBytes), "/"} {
			if status := post(t, "https://"+r.address+path, review(restrictedNamespace, name)); status != http.StatusNotFound {
				t.Errorf("store %s, path %s: %d, want 404", name, path, status)
			}
		}
	}
	if status := post(t, *configuration(t).Webhooks[0].ClientConfig.URL, review(restrictedNamespace, store.Name)); status != http.StatusOK {
		t.Errorf("the path of the API server: %d", status)
	}
}

// TestSecretPathIsReplaced: a new CA brings a new path, and what was called before is
// answered by all replicas until every API server has seen it.
func TestSecretPathIsReplaced(t *testing.T) {
	r := startReplica(t, Options{CheckInterval: shortLived.CheckInterval})
	install(t, r)
	waitUntilServing(t, r)
	before := *configuration(t).Webhooks[0].ClientConfig.URL
	if err := kubernetes.Client.Delete(t.Context(), secret(t)); err != nil {
		t.Fatal(err)
	}
	testenv.Eventually(t, deadline, "another path", func() error {
		if *configuration(t).Webhooks[0].ClientConfig.URL == before {
			return errors.New("it is the same")
		}
		return nil
	})
	for _, url := range []string{before, *configuration(t).Webhooks[0].ClientConfig.URL} {
		if status := post(t, url, review(restrictedNamespace, "orders")); status != http.StatusOK {
			t.Errorf("%s: %d", url, status)
		}
	}
	// A replica that starts now knows what the API server calls.
	other := startReplica(t, Options{})
	testenv.Eventually(t, deadline, "the other replica to be ready", func() error { return other.ready(t) })
	now := strings.Replace(*configuration(t).Webhooks[0].ClientConfig.URL, r.address, other.address, 1)
	if status := post(t, now, review(restrictedNamespace, "orders")); status != http.StatusOK {
		t.Errorf("the other replica: %d", status)
	}
}

// TestApplyingTheConfigurationAgain: what the operator writes into it is not in the
// manifest, so that a GitOps tool that applies it meets no conflict and undoes nothing.
func TestApplyingTheConfigurationAgain(t *testing.T) {
	r := startReplica(t, Options{})
	objects, err := testenv.Render("config/webhook")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { uninstall(t) })
	apply := func() {
		for _, object := range objects {
			configuration := client.ApplyConfigurationFromUnstructured(object.DeepCopy())
			if err := kubernetes.Client.Apply(t.Context(), configuration, client.FieldOwner("gitops")); err != nil {
				t.Fatal(err)
			}
		}
	}
	apply()
	testenv.Eventually(t, deadline, "the replica to be ready", func() error { return r.ready(t) })
	before := configuration(t)
	apply()
	if after := configuration(t); after.Generation != before.Generation || *after.Webhooks[0].ClientConfig.Service.Path == Path {
		t.Errorf("applied again, the configuration became %+v", after.Webhooks[0].ClientConfig)
	}
}
