package webhook

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"git.flowmade.one/flowmade-one/aether-operator/internal/injector"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv"
)

// withVariables is a labelled pod with as many variables.
func withVariables(count int) *corev1.Pod {
	pod := labelled(plainNamespace, "orders")
	for i := range count {
		pod.Spec.Containers[0].Env = append(pod.Spec.Containers[0].Env, corev1.EnvVar{Name: fmt.Sprintf("N%d", i), Value: "v"})
	}
	return pod
}

func encode(t *testing.T, pod *corev1.Pod) string {
	t.Helper()
	raw, err := json.Marshal(pod)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// TestWorkDoesNotGrowWithThePod: the patch says what is added, and that is the same
// for a pod with one variable and for the largest one.
func TestWorkDoesNotGrowWithThePod(t *testing.T) {
	t.Parallel()
	small := newHandler().Handle(t.Context(), creation(encode(t, withVariables(1))))
	large := newHandler().Handle(t.Context(), creation(encode(t, withVariables(injector.MaxVariables))))
	if !small.Allowed || !large.Allowed || len(small.Patch) == 0 || string(small.Patch) != string(large.Patch) {
		t.Errorf("patches of %d and of %d bytes, want the same: %+v %+v", len(small.Patch), len(large.Patch), small.Result, large.Result)
	}
}

// TestTooLarge: what would take long is refused before it is read.
func TestTooLarge(t *testing.T) {
	t.Parallel()
	container := func(list string, count int) string {
		return `{"metadata":{"labels":{"aether.flowmade.one/eventstore":"orders"}},"spec":{"containers":[{"name":"app"` + list + strings.Repeat(`{},`, count-1) + `{}]}]}}`
	}
	for name, c := range map[string]struct{ raw, want string }{
		"variables":  {encode(t, withVariables(injector.MaxVariables+1)), "5001 environment variables"},
		"no names":   {container(`,"env":[`, 20_000), "20000 environment variables"},
		"containers": {container(`}],"initContainers":[`, 200), "201 containers"},
		"volumes":    {container(`}],"volumes":[`, 600), "600 volumes"},
		"objects":    {container(`,"ports":[`, maxObjects), "more than 60000 objects"},
	} {
		raw := strings.ReplaceAll(c.raw, "]}]}}", "]}}")
		if json.Valid([]byte(c.raw)) {
			raw = c.raw
		}
		response := newHandler().Handle(t.Context(), creation(raw))
		if response.Allowed || response.Result.Code != http.StatusBadRequest {
			t.Errorf("%s: %+v, want a refusal", name, response)
			continue
		}
		contains(t, name, response.Result.Message, c.want, "aether.flowmade.one/eventstore")
	}
}

// TestLargePodsAtTheAPIServer: a pod at the bound is admitted, one above it refused.
func TestLargePodsAtTheAPIServer(t *testing.T) {
	r := startReplica(t, Options{})
	install(t, r)
	waitUntilServing(t, r)
	// A busy machine may be late: the API server waits for five seconds.
	testenv.Eventually(t, deadline, "the largest pod to be admitted", func() error {
		largest := withVariables(injector.MaxVariables)
		if err := kubernetes.Client.Create(t.Context(), largest, client.DryRunAll); err != nil {
			return err
		}
		if env := largest.Spec.Containers[0].Env; len(env) != injector.MaxVariables+2 || env[0].Name != injector.EnvEndpoint {
			t.Errorf("%d variables became %d", injector.MaxVariables, len(env))
		}
		return nil
	})
	testenv.Eventually(t, deadline, "a larger one to be refused", func() error {
		err := kubernetes.Client.Create(t.Context(), withVariables(injector.MaxVariables+1), client.DryRunAll)
		if !apierrors.IsBadRequest(err) {
			return fmt.Errorf("want a bad request: %w", err)
		}
		contains(t, "the answer", err.Error(), "environment variables")
		return nil
	})
}

// TestLargeBodies: no more is read than an API server sends.
func TestLargeBodies(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(newIntake().bound(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
		}
	})))
	defer server.Close()
	for name, c := range map[string]struct {
		body io.Reader
		want int
	}{
		"as large as may be":       {strings.NewReader(strings.Repeat(" ", maxBodyBytes)), http.StatusOK},
		"larger, and it says so":   {strings.NewReader(strings.Repeat(" ", maxBodyBytes+1)), http.StatusRequestEntityTooLarge},
		"larger, without a length": {io.MultiReader(strings.NewReader(strings.Repeat(" ", maxBodyBytes+1))), http.StatusBadRequest},
	} {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, server.URL, c.body)
		if err != nil {
			t.Fatal(err)
		}
		response, err := server.Client().Do(request)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		_ = response.Body.Close()
		if response.StatusCode != c.want {
			t.Errorf("%s: %d, want %d", name, response.StatusCode, c.want)
		}
	}
}
