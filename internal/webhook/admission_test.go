package webhook

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/webhook"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"
	"sigs.k8s.io/yaml"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/injector"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv"
)

// TestPodsAtTheAPIServer creates pods as a user does.
func TestPodsAtTheAPIServer(t *testing.T) {
	r := startReplica(t, Options{})
	install(t, r)
	waitUntilServing(t, r)
	t.Run("injected, under Pod Security restricted", createInjected)
	t.Run("every golden pod is valid", createGolden)
	t.Run("without the label", createUnlabelled)
	t.Run("refused", createRefused)
	t.Run("a store that does not exist", createForMissingStore)
}

func createInjected(t *testing.T) {
	pod := labelled(restrictedNamespace, "orders")
	if err := kubernetes.Client.Create(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	stored := &corev1.Pod{}
	if err := kubernetes.Client.Get(t.Context(), client.ObjectKeyFromObject(pod), stored); err != nil {
		t.Fatal(err)
	}
	if len(stored.Spec.InitContainers) != 1 {
		t.Fatalf("init containers: %v, want the sidecar alone", stored.Spec.InitContainers)
	}
	sidecar, app := stored.Spec.InitContainers[0], stored.Spec.Containers[0]
	if sidecar.Name != injector.ContainerName || sidecar.Image != image || *sidecar.RestartPolicy != corev1.ContainerRestartPolicyAlways {
		t.Errorf("sidecar: %+v", sidecar)
	}
	if want := []string{"/bindings/orders", "/var/run/secrets/aether.flowmade.one"}; !slices.Equal(mountPaths(sidecar), want) {
		t.Errorf("mounts of the sidecar: %v, want %v: no token for Kubernetes", mountPaths(sidecar), want)
	}
	if want := []string{"/var/run/secrets/kubernetes.io/serviceaccount"}; !slices.Equal(mountPaths(app), want) {
		t.Errorf("mounts of the application: %v, want %v: no binding", mountPaths(app), want)
	}
	if len(app.Env) != 2 || app.Env[0].Value != injector.Endpoint || app.Env[1].Value != "orders" {
		t.Errorf("environment of the application: %v", app.Env)
	}
}

func mountPaths(container corev1.Container) []string {
	var paths []string
	for _, mount := range container.VolumeMounts {
		paths = append(paths, mount.MountPath)
	}
	return paths
}

// createGolden lets the API server validate what the injector makes.
func createGolden(t *testing.T) {
	inputs, err := filepath.Glob("../injector/testdata/injected*.in.yaml")
	if err != nil || len(inputs) == 0 {
		t.Fatalf("find the injector's golden files: %v, %d", err, len(inputs))
	}
	for _, input := range inputs {
		content, err := os.ReadFile(input)
		if err != nil {
			t.Fatal(err)
		}
		pod := &corev1.Pod{}
		if err := yaml.UnmarshalStrict(content, pod); err != nil {
			t.Fatal(err)
		}
		pod.Namespace = plainNamespace
		if err := kubernetes.Client.Create(t.Context(), pod, client.DryRunAll); err != nil {
			t.Errorf("%s: %v", input, err)
			continue
		}
		if indexOfSidecar(pod.Spec.InitContainers) < 0 {
			t.Errorf("%s: no sidecar", input)
		}
	}
}

func createUnlabelled(t *testing.T) {
	pod := labelled(restrictedNamespace, "orders")
	pod.Labels = nil
	pod.Annotations = map[string]string{v1alpha1.AnnotationEventStores: "orders"}
	if err := kubernetes.Client.Create(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	if len(pod.Spec.InitContainers) != 0 || len(pod.Spec.Containers[0].Env) != 0 {
		t.Errorf("a pod without the label was changed: %+v", pod.Spec)
	}
}

func createRefused(t *testing.T) {
	for key, value := range map[string]string{
		v1alpha1.AnnotationEventStores:        "payments,Not_A_Store",
		v1alpha1.AnnotationSidecarImage:       "",
		v1alpha1.AnnotationSidecarCPULimit:    "-1",
		v1alpha1.AnnotationSidecarMemoryLimit: "a lot",
		v1alpha1.AnnotationSidecarLogLevel:    "loud",
		v1alpha1.AnnotationSidecarEnv:         "AETHER_STORES=payments",
		v1alpha1.AnnotationSidecarUserID:      "0",
		v1alpha1.AnnotationSidecarArgs:        "--memory",
	} {
		pod := labelled(restrictedNamespace, "orders")
		pod.Annotations = map[string]string{key: value}
		err := kubernetes.Client.Create(t.Context(), pod)
		if !apierrors.IsBadRequest(err) {
			t.Errorf("annotation %s=%q: %v, want a bad request", key, value, err)
			continue
		}
		contains(t, "the answer", err.Error(), "annotation "+key)
	}
	pod := labelled(plainNamespace, "orders")
	pod.Spec.HostNetwork = true
	err := kubernetes.Client.Create(t.Context(), pod)
	if !apierrors.IsBadRequest(err) {
		t.Fatalf("hostNetwork: %v, want a bad request", err)
	}
	contains(t, "the answer", err.Error(), "hostNetwork")
}

// warnings collects what the API server warns of.
type warnings struct {
	mu   sync.Mutex
	text []string
}

func (w *warnings) HandleWarningHeaderWithContext(_ context.Context, _ int, _ string, text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.text = append(w.text, text)
}

func createForMissingStore(t *testing.T) {
	store := &v1alpha1.EventStore{ObjectMeta: metav1.ObjectMeta{Namespace: restrictedNamespace, Name: "here"}}
	if err := kubernetes.Client.Create(t.Context(), store); err != nil {
		t.Fatal(err)
	}
	got := &warnings{}
	config := rest.CopyConfig(kubernetes.Config)
	config.WarningHandlerWithContext = got
	c, err := client.New(config, client.Options{Scheme: kubernetes.Scheme})
	if err != nil {
		t.Fatal(err)
	}
	// A moment after the store, as when both are applied together: no warning.
	if err := c.Create(t.Context(), labelled(restrictedNamespace, "here")); err != nil {
		t.Fatal(err)
	}
	if len(got.text) != 0 {
		t.Errorf("warnings for a store that exists: %q", got.text)
	}
	pod := labelled(restrictedNamespace, "here")
	pod.Annotations = map[string]string{v1alpha1.AnnotationEventStores: "absent"}
	if err := c.Create(t.Context(), pod); err != nil {
		t.Fatalf("a pod for a store that does not exist: %v", err)
	}
	if len(pod.Spec.InitContainers) != 1 {
		t.Error("a pod for a store that does not exist has no sidecar")
	}
	// Once and not again on reinvocation.
	if len(got.text) != 1 {
		t.Fatalf("warnings: %q, want one", got.text)
	}
	contains(t, "the warning", got.text[0], "EventStore absent does not exist in namespace "+restrictedNamespace, "absent-eventstore")
}

// TestReinvocation lets another webhook add a container after this one.
func TestReinvocation(t *testing.T) {
	const latePath = "/late"
	addContainer := admission.HandlerFunc(func(_ context.Context, request admission.Request) admission.Response {
		pod := &corev1.Pod{}
		if err := json.Unmarshal(request.Object.Raw, pod); err != nil {
			return admission.Errored(http.StatusBadRequest, err)
		}
		if slices.ContainsFunc(pod.Spec.Containers, func(c corev1.Container) bool { return c.Name == "late" }) {
			return admission.Allowed("")
		}
		pod.Spec.Containers = append(pod.Spec.Containers, corev1.Container{Name: "late", Image: "registry.example/late:1.0"})
		pod.Spec.InitContainers = append([]corev1.Container{{Name: "pushed-in", Image: "registry.example/late:1.0"}}, pod.Spec.InitContainers...)
		changed, err := json.Marshal(pod)
		if err != nil {
			return admission.Errored(http.StatusInternalServerError, err)
		}
		return admission.PatchResponseFromRaw(request.Object.Raw, changed)
	})
	r := startReplica(t, Options{}, func(server webhook.Server) {
		server.Register(latePath, &admission.Webhook{Handler: addContainer})
	})
	install(t, r)
	waitUntilServing(t, r)
	installLate(t, "https://"+r.address+latePath)
	testenv.Eventually(t, deadline, "both webhooks to be called", func() error {
		pod := labelled(plainNamespace, "orders")
		if err := kubernetes.Client.Create(t.Context(), pod, client.DryRunAll); err != nil {
			return err
		}
		if len(pod.Spec.Containers) == 1 {
			return apierrors.NewServiceUnavailable("the late webhook was not called")
		}
		checkReinvoked(t, pod)
		return nil
	})
}

// installLate adds a webhook that the API server calls after ours.
func installLate(t *testing.T, url string) {
	t.Helper()
	ours := &admissionregistrationv1.MutatingWebhookConfiguration{}
	if err := kubernetes.Client.Get(t.Context(), client.ObjectKey{Name: ConfigurationName}, ours); err != nil {
		t.Fatal(err)
	}
	late := &admissionregistrationv1.MutatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "zz-late"}, Webhooks: slices.Clone(ours.Webhooks[:1])}
	late.Webhooks[0].Name = "late.example.com"
	late.Webhooks[0].ClientConfig.URL = &url
	never := admissionregistrationv1.NeverReinvocationPolicy
	late.Webhooks[0].ReinvocationPolicy = &never
	if err := kubernetes.Client.Create(t.Context(), late); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := kubernetes.Client.Delete(context.WithoutCancel(t.Context()), late); err != nil {
			t.Errorf("clean up: %v", err)
		}
	})
}

func checkReinvoked(t *testing.T, pod *corev1.Pod) {
	t.Helper()
	var names []string
	for _, container := range pod.Spec.InitContainers {
		names = append(names, container.Name)
	}
	if got, want := strings.Join(names, " "), injector.ContainerName+" pushed-in"; got != want {
		t.Errorf("init containers: %s, want %s", got, want)
	}
	for _, container := range append(pod.Spec.InitContainers[1:], pod.Spec.Containers...) {
		if !slices.ContainsFunc(container.Env, func(v corev1.EnvVar) bool { return v.Name == injector.EnvEndpoint && v.Value == injector.Endpoint }) {
			t.Errorf("container %s: environment %v lacks %s", container.Name, container.Env, injector.EnvEndpoint)
		}
	}
}

// TestOperatorAway: who asks for a sidecar waits for the operator, and nobody
// else does.
func TestOperatorAway(t *testing.T) {
	r := startReplica(t, Options{})
	install(t, r)
	waitUntilServing(t, r)
	r.stop()
	pod := labelled(restrictedNamespace, "orders")
	err := kubernetes.Client.Create(t.Context(), pod)
	if err == nil {
		t.Fatal("a labelled pod was created without its sidecar")
	}
	contains(t, "the answer", err.Error(), "aether.flowmade.one")
	for namespace, labels := range map[string]map[string]string{
		restrictedNamespace: nil,
		DefaultNamespace:    {v1alpha1.LabelEventStore: "orders"},
	} {
		pod := labelled(namespace, "")
		pod.Labels = labels
		if err := kubernetes.Client.Create(t.Context(), pod); err != nil {
			t.Errorf("a pod in %s with the labels %v, while the operator is away: %v", namespace, labels, err)
		}
	}
}

// The API server calls over HTTP/1.1: a connection that it keeps may be closed by a
// replica that ends just when it is used.
func TestConnectionsAreForOneCall(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(oneCallEach(http.NotFoundHandler()))
	defer server.Close()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, server.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := server.Client().Do(request)
	if err != nil {
		t.Fatal(err)
	}
	_ = response.Body.Close()
	if !response.Close {
		t.Error("the connection is kept")
	}
}
