package config_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv"
	"git.flowmade.one/flowmade-one/aether-operator/internal/webhook"
)

const (
	namespace = webhook.DefaultNamespace
	account   = "aether-operator"
	lease     = "aether-operator.aether.flowmade.one"
)

var kubernetes *testenv.Kubernetes

func TestMain(m *testing.M) {
	var err error
	// CRDs are a part of what is tested.
	if kubernetes, err = testenv.Start(testenv.WithoutCRDs()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	if err := kubernetes.Stop(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// installDefault applies config/default, once for all tests.
var installDefault = sync.OnceValue(func() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	objects, err := testenv.Render("config/default")
	if err != nil {
		return err
	}
	for _, object := range objects {
		if err := kubernetes.Apply(ctx, object); err != nil {
			return err
		}
	}
	return nil
})

func install(t *testing.T) {
	t.Helper()
	if err := installDefault(); err != nil {
		t.Fatal(err)
	}
}

// get reads one object of config/default back from the API server.
func get[T client.Object](t *testing.T, object T, name string) T {
	t.Helper()
	install(t)
	if err := kubernetes.Client.Get(t.Context(), client.ObjectKey{Namespace: namespace, Name: name}, object); err != nil {
		t.Fatal(err)
	}
	return object
}

// TestApplyingAgainChangesNothing: what a GitOps tool does all day.
func TestApplyingAgainChangesNothing(t *testing.T) {
	install(t)
	objects, err := testenv.Render("config/default")
	if err != nil {
		t.Fatal(err)
	}
	for _, object := range objects {
		before := read(t, object)
		if err := kubernetes.Apply(t.Context(), object); err != nil {
			t.Fatal(err)
		}
		// A CRD's status is written by the API server whenever it likes.
		if after := read(t, object); after.GetGeneration() != before.GetGeneration() {
			t.Errorf("%s %s: generation %d became %d", object.GetKind(), object.GetName(), before.GetGeneration(), after.GetGeneration())
		}
	}
}

func read(t *testing.T, object *unstructured.Unstructured) *unstructured.Unstructured {
	t.Helper()
	stored := &unstructured.Unstructured{}
	stored.SetGroupVersionKind(object.GroupVersionKind())
	if err := kubernetes.Client.Get(t.Context(), client.ObjectKeyFromObject(object), stored); err != nil {
		t.Fatal(err)
	}
	return stored
}

// TestOperatorPod creates the pod of the Deployment, for which there is no
// controller here: the namespace enforces Pod Security restricted, and nothing
// may be warned of.
func TestOperatorPod(t *testing.T) {
	deployment := get(t, &appsv1.Deployment{}, account)
	if replicas := *deployment.Spec.Replicas; replicas < 2 {
		t.Errorf("%d replicas of an operator whose webhook fails closed, want 2 or more", replicas)
	}
	refuseWarnings(t, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "operator-", Namespace: namespace, Labels: deployment.Spec.Template.Labels},
		Spec:       deployment.Spec.Template.Spec,
	})
}

// refuseWarnings creates an object and fails on an error or warning.
func refuseWarnings(t *testing.T, object client.Object) {
	t.Helper()
	config := rest.CopyConfig(kubernetes.Config)
	got := &warnings{}
	config.WarningHandlerWithContext = got
	c, err := client.New(config, client.Options{Scheme: kubernetes.Scheme})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Create(t.Context(), object, client.DryRunAll); err != nil {
		t.Error(err)
	}
	for _, text := range got.text {
		t.Errorf("%T %s: warning: %s", object, object.GetName(), text)
	}
}

type warnings struct{ text []string }

func (w *warnings) HandleWarningHeaderWithContext(_ context.Context, _ int, _ string, text string) {
	w.text = append(w.text, text)
}

// TestArguments: the operator knows each flag, and injects the sidecar of its own
// version.
func TestArguments(t *testing.T) {
	container := get(t, &appsv1.Deployment{}, account).Spec.Template.Spec.Containers[0]
	help, err := exec.CommandContext(t.Context(), "go", "run", "../cmd/operator", "--help").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, help)
	}
	for _, arg := range container.Args {
		name, _, _ := strings.Cut(strings.TrimPrefix(arg, "--"), "=")
		if !strings.Contains(string(help), "\n  -"+name+"\n") && !strings.Contains(string(help), "\n  -"+name+" ") {
			t.Errorf("argument %s: the operator has no flag --%s", arg, name)
		}
	}
	index := slices.IndexFunc(container.Env, func(v corev1.EnvVar) bool { return v.Name == "AETHER_SIDECAR_IMAGE" })
	if index < 0 {
		t.Fatalf("the environment of the operator names no sidecar: %v", container.Env)
	}
	sidecar, operator := container.Env[index].Value, container.Image
	if want := strings.Replace(operator, "/aether-operator:", "/aether-sidecar:", 1); sidecar != want {
		t.Errorf("AETHER_SIDECAR_IMAGE=%s beside the operator %s, want %s", sidecar, operator, want)
	}
}

func argument(t *testing.T, container corev1.Container, name string) string {
	t.Helper()
	for _, arg := range container.Args {
		if value, found := strings.CutPrefix(arg, "--"+name+"="); found {
			return value
		}
	}
	t.Fatalf("the operator's arguments %v have no --%s", container.Args, name)
	return ""
}

// TestWebhookReachesTheOperator follows the way of a call: configuration,
// Service, pod, port.
func TestWebhookReachesTheOperator(t *testing.T) {
	install(t)
	configuration := get(t, &admissionregistrationv1.MutatingWebhookConfiguration{}, webhook.ConfigurationName)
	if len(configuration.Webhooks) != 2 {
		t.Fatalf("%d webhooks, want 2", len(configuration.Webhooks))
	}
	if stores := configuration.Webhooks[1]; *stores.FailurePolicy != admissionregistrationv1.Ignore || *stores.TimeoutSeconds > 2 || *stores.ClientConfig.Service.Port != 443 {
		t.Errorf("the webhook for EventStores stands in the way: %+v", stores)
	}
	hook := configuration.Webhooks[0]
	reference := hook.ClientConfig.Service
	// The operator writes the path: a secret is a part of it.
	if reference.Namespace != namespace || reference.Name != webhook.ServiceName || reference.Path != nil {
		t.Errorf("the webhook calls %+v", reference)
	}
	if *hook.FailurePolicy != admissionregistrationv1.Fail || hook.ObjectSelector.MatchExpressions[0].Key != v1alpha1.LabelEventStore {
		t.Errorf("the webhook fails %s for pods with %v", *hook.FailurePolicy, hook.ObjectSelector)
	}
	if !slices.Contains(hook.NamespaceSelector.MatchExpressions[0].Values, namespace) {
		t.Errorf("the webhook is asked about the operator's own pods: %v", hook.NamespaceSelector)
	}
	service := get(t, &corev1.Service{}, webhook.ServiceName)
	template := get(t, &appsv1.Deployment{}, account).Spec.Template
	for key, value := range service.Spec.Selector {
		if template.Labels[key] != value {
			t.Errorf("the Service selects %s=%s, the pods have %v", key, value, template.Labels)
		}
	}
	if service.Spec.Ports[0].Port != *reference.Port {
		t.Errorf("the webhook calls port %d, the Service has %d", *reference.Port, service.Spec.Ports[0].Port)
	}
	container := template.Spec.Containers[0]
	index := slices.IndexFunc(container.Ports, func(p corev1.ContainerPort) bool { return p.Name == service.Spec.Ports[0].TargetPort.StrVal })
	if want := argument(t, container, "webhook-port"); index < 0 || fmt.Sprint(container.Ports[index].ContainerPort) != want {
		t.Errorf("the Service leads to %v of %v, the operator serves %s", service.Spec.Ports[0].TargetPort, container.Ports, want)
	}
}

// TestSamples applies config/samples as a reader of the README does.
func TestSamples(t *testing.T) {
	install(t)
	objects, err := testenv.Render("config/samples")
	if err != nil {
		t.Fatal(err)
	}
	kinds := map[string]int{}
	for _, object := range objects {
		kinds[object.GetKind()]++
		if object.GetKind() == "Pod" {
			checkSamplePod(t, object)
			continue
		}
		// A kind that was just installed takes a moment to be served.
		testenv.Eventually(t, 30*time.Second, object.GetKind()+" "+object.GetName()+" to be applied", func() error {
			err := kubernetes.Apply(t.Context(), object)
			if err != nil && !meta.IsNoMatchError(err) {
				t.Fatal(err)
			}
			return err
		})
	}
	if kinds["EventStore"] != 2 || kinds["EventStoreClass"] != 1 || kinds["Pod"] != 1 {
		t.Errorf("samples: %v", kinds)
	}
	store := &v1alpha1.EventStore{}
	if err := kubernetes.Client.Get(t.Context(), client.ObjectKey{Namespace: "shop", Name: "payments"}, store); err != nil {
		t.Fatal(err)
	}
	// What is left out stays so, for the class to say.
	if !reflect.DeepEqual(store.Spec, v1alpha1.EventStoreSpec{}) {
		t.Errorf("defaults of a store: %+v", store.Spec)
	}
}

// checkSamplePod creates it without the label, since no operator answers here:
// its namespace enforces Pod Security restricted.
func checkSamplePod(t *testing.T, object *unstructured.Unstructured) {
	t.Helper()
	pod := &corev1.Pod{}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(object.Object, pod, true); err != nil {
		t.Fatal(err)
	}
	if pod.Labels[v1alpha1.LabelEventStore] == "" {
		t.Errorf("the pod of the samples has no label %s", v1alpha1.LabelEventStore)
	}
	pod.Labels = nil
	refuseWarnings(t, pod)
}

// TestLabels: one selector finds all that config/default installs, and the components.
func TestLabels(t *testing.T) {
	t.Parallel()
	for _, component := range []string{"network-policy", "mutating-admission-policy"} {
		for _, object := range render(t, component) {
			if part := object.GetLabels()["app.kubernetes.io/part-of"]; part != "aether" {
				t.Errorf("%s %s is part of %q", object.GetKind(), object.GetName(), part)
			}
		}
	}
}

// TestOverlay is the patch of docs/operations.md: the image of the sidecar is found by
// its name, wherever it stands.
func TestOverlay(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(page), "patches:\n")
	patches, _, _ := strings.Cut(rest, "```")
	objects, err := testenv.RenderPatched("config/default", "patches:\n"+patches)
	if err != nil {
		t.Fatal(err)
	}
	container := find(t, objects, "Deployment", account, &appsv1.Deployment{}).Spec.Template.Spec.Containers[0]
	want := corev1.EnvVar{Name: "AETHER_SIDECAR_IMAGE", Value: "registry.example/aether-sidecar:1.0"}
	if !slices.Contains(container.Env, want) || len(container.Env) != 2 {
		t.Errorf("the environment of the operator is %v", container.Env)
	}
}
