package policy

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	"sigs.k8s.io/yaml"

	"git.flowmade.one/flowmade-one/aether-operator/internal/injector"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv"
)

const (
	deadline = time.Minute
	testdata = "../../../internal/injector/testdata/"
	// injected is a namespace whose pods are injected, and exempt is one of those
	// that are left alone.
	injected = "default"
	exempt   = "kube-system"
)

var kubernetes *testenv.Kubernetes

func TestMain(m *testing.M) {
	ctrl.SetLogger(logr.Discard())
	code, err := runTests(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func runTests(m *testing.M) (code int, err error) {
	if kubernetes, err = testenv.Start(testenv.WithoutCRDs(), withServiceAccounts); err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, kubernetes.Stop()) }()
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	err = errors.Join(install(ctx), createServiceAccount(ctx, injected), createServiceAccount(ctx, exempt))
	if err != nil {
		return 1, err
	}
	return m.Run(), nil
}

// withServiceAccounts leaves the admission plugin on that a cluster has: without
// the name of its ServiceAccount a pod can be given no token of it.
func withServiceAccounts(e *envtest.Environment) {
	e.ControlPlane.GetAPIServer().Configure().Disable("disable-admission-plugins")
}

// createServiceAccount does what a controller does for each namespace.
func createServiceAccount(ctx context.Context, namespace string) error {
	return kubernetes.Client.Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "default"}})
}

const (
	shippedImage = "git.flowmade.one/flowmade-one/aether-sidecar:latest"
	goldenImage  = "registry.example/aether-sidecar:1.0"
)

func render() ([]*unstructured.Unstructured, error) {
	return testenv.Render("config/default", "config/components/mutating-admission-policy")
}

// install applies config/default with the component, for the image of the golden
// files, which it puts where docs/injection.md says.
func install(ctx context.Context) error {
	objects, err := render()
	if err != nil {
		return err
	}
	for _, object := range objects {
		if object.GetKind() == "MutatingAdmissionPolicy" {
			first := object.Object["spec"].(map[string]any)["variables"].([]any)[0].(map[string]any)
			if first["expression"] != "'"+shippedImage+"'" {
				return fmt.Errorf("the first variable of the policy is %v, want the image %s", first, shippedImage)
			}
			first["expression"] = "'" + goldenImage + "'"
		}
		if err := kubernetes.Apply(ctx, object); err != nil {
			return err
		}
	}
	return nil
}

// waitUntilEffective waits until a pod is injected, refused, and warned of.
func waitUntilEffective(t *testing.T) {
	t.Helper()
	testenv.Eventually(t, deadline, "the policies to take effect", func() error {
		if pod, _, err := create(t, injected, read(t, "injected.in.yaml")); err != nil || len(pod.Spec.InitContainers) == 0 {
			return fmt.Errorf("no sidecar: %w", err)
		}
		if _, _, err := create(t, injected, read(t, "refused-label.in.yaml")); err == nil {
			return errors.New("no refusal")
		}
		if _, warned, err := create(t, injected, read(t, "injected-ports.in.yaml")); err != nil || len(warned) == 0 {
			return fmt.Errorf("no warning: %w", err)
		}
		return nil
	})
}

// TestGolden creates each pod of the injector's golden files: what comes of it is
// what the injector makes.
func TestGolden(t *testing.T) {
	waitUntilEffective(t)
	inputs, err := filepath.Glob(testdata + "*.in.yaml")
	if err != nil || len(inputs) == 0 {
		t.Fatalf("find %s*.in.yaml: %v, %d files", testdata, err, len(inputs))
	}
	for _, input := range inputs {
		name := strings.TrimSuffix(filepath.Base(input), ".in.yaml")
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pod, warned, err := create(t, injected, read(t, name+".in.yaml"))
			switch outcome, _, _ := strings.Cut(name, "-"); outcome {
			case "refused":
				checkRefused(t, name, err)
			case "skipped":
				checkSame(t, err, pod, read(t, name+".in.yaml"))
			default:
				checkSame(t, err, pod, read(t, name+".out.yaml"))
				checkWarned(t, name, warned)
				again, _, err := create(t, injected, read(t, name+".out.yaml"))
				checkSame(t, err, again, read(t, name+".out.yaml"))
			}
		})
	}
}

// checkRefused compares with the message of the injector.
func checkRefused(t *testing.T, name string, err error) {
	t.Helper()
	want := strings.TrimSpace(strings.TrimPrefix(content(t, name+".out.yaml"), "# refused: "))
	if !apierrors.IsInvalid(err) || !strings.HasSuffix(err.Error(), "denied request: "+want) {
		t.Errorf("got  %v\nwant %s", err, want)
	}
}

// checkSame compares with a pod of the injector, with the defaults of the API
// server in both.
func checkSame(t *testing.T, err error, got, want *corev1.Pod) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	want, _, err = create(t, exempt, want)
	if err != nil {
		t.Fatal(err)
	}
	if g, w := marshal(t, got), marshal(t, want); g != w {
		t.Errorf("got\n%s\nwant\n%s", g, w)
	}
}

// marshal is what injection may change of a pod.
func marshal(t *testing.T, pod *corev1.Pod) string {
	t.Helper()
	text, err := yaml.Marshal(map[string]any{"labels": pod.Labels, "annotations": pod.Annotations, "spec": pod.Spec})
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// checkWarned: the policy warns once of all that the injector warns of. The API
// server has warnings of its own.
func checkWarned(t *testing.T, name string, warned []string) {
	t.Helper()
	var want, got []string
	for line := range strings.Lines(content(t, name+".out.yaml")) {
		if warning, is := strings.CutPrefix(strings.TrimSpace(line), "# warning: "); is {
			want = append(want, warning)
		}
	}
	for _, warning := range warned {
		if _, ours, is := strings.Cut(warning, "with binding 'aether-injector-ports': "); is {
			got = append(got, ours)
		}
	}
	if strings.Join(got, "\n") != strings.Join(want, "; ") {
		t.Errorf("got  %q\nwant %q", warned, want)
	}
}

// create is a dry run: everything but the writing.
func create(t *testing.T, namespace string, pod *corev1.Pod) (*corev1.Pod, []string, error) {
	t.Helper()
	got := &warnings{}
	config := rest.CopyConfig(kubernetes.Config)
	config.WarningHandlerWithContext = got
	c, err := client.New(config, client.Options{Scheme: kubernetes.Scheme})
	if err != nil {
		t.Fatal(err)
	}
	pod.Namespace = namespace
	err = c.Create(t.Context(), pod, client.DryRunAll)
	return pod, got.all(), err
}

type warnings struct {
	mu   sync.Mutex
	text []string
}

func (w *warnings) HandleWarningHeaderWithContext(_ context.Context, _ int, _ string, text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.text = append(w.text, text)
}

func (w *warnings) all() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.text)
}

func read(t *testing.T, file string) *corev1.Pod {
	t.Helper()
	pod := &corev1.Pod{}
	if err := yaml.UnmarshalStrict([]byte(content(t, file)), pod); err != nil {
		t.Fatal(err)
	}
	// The volume of a token of Kubernetes has a random name, which differs between
	// two pods that are compared.
	pod.Spec.AutomountServiceAccountToken = new(false)
	return pod
}

func content(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(testdata + file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// latePolicy adds containers as a service mesh does. Policies have no order, so it
// may also come first.
const latePolicy = `
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicy
metadata: {name: zz-late}
spec:
  failurePolicy: Fail
  reinvocationPolicy: Never
  matchConstraints:
    resourceRules: [{apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [pods]}]
    objectSelector: {matchLabels: {late: "yes"}}
  mutations:
  - patchType: JSONPatch
    jsonPatch:
      expression: >-
        [JSONPatch{op: 'add', path: '/spec/containers/-', value: Object.spec.containers{name: 'late', image: 'late'}}]
        + (has(object.spec.initContainers) ? [] : [JSONPatch{op: 'add', path: '/spec/initContainers', value: []}])
        + [JSONPatch{op: 'add', path: '/spec/initContainers/0', value: Object.spec.initContainers{name: 'pushed-in', image: 'late'}}]
---
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicyBinding
metadata: {name: zz-late}
spec: {policyName: zz-late}
`

// TestReinvocation lets another policy add containers too.
func TestReinvocation(t *testing.T) {
	waitUntilEffective(t)
	for document := range strings.SplitSeq(latePolicy, "---\n") {
		object := &unstructured.Unstructured{}
		if err := yaml.Unmarshal([]byte(document), object); err != nil {
			t.Fatal(err)
		}
		if err := kubernetes.Apply(t.Context(), object); err != nil {
			t.Fatal(err)
		}
	}
	testenv.Eventually(t, deadline, "the late policy to take effect", func() error {
		pod := read(t, "injected.in.yaml")
		pod.Labels["late"] = "yes"
		pod, _, err := create(t, injected, pod)
		if err != nil {
			return err
		}
		if len(pod.Spec.Containers) == 1 {
			return errors.New("it added nothing")
		}
		if first := pod.Spec.InitContainers[0].Name; first != "aether-sidecar" {
			t.Errorf("the first init container is %s", first)
		}
		for _, container := range append(pod.Spec.InitContainers[1:], pod.Spec.Containers...) {
			if len(container.Env) != 2 || container.Env[0].Name != "AETHER_ENDPOINT" || container.Env[1].Value != "orders" {
				t.Errorf("environment of container %s: %v", container.Name, container.Env)
			}
		}
		return nil
	})
}

// TestRefusalThatNoLongerHolds: a pod may carry the annotation of an earlier one.
func TestRefusalThatNoLongerHolds(t *testing.T) {
	waitUntilEffective(t)
	pod := read(t, "injected.in.yaml")
	pod.Annotations = map[string]string{"aether.flowmade.one/injection-refused": "some time ago"}
	pod, _, err := create(t, injected, pod)
	if err != nil || len(pod.Annotations) != 0 {
		t.Errorf("annotations %v, error %v", pod.Annotations, err)
	}
}

// TestRestricted creates a pod where Pod Security is enforced.
func TestRestricted(t *testing.T) {
	waitUntilEffective(t)
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
		Name: "restricted", Labels: map[string]string{"pod-security.kubernetes.io/enforce": "restricted"},
	}}
	if err := kubernetes.Client.Create(t.Context(), namespace); err != nil {
		t.Fatal(err)
	}
	if err := createServiceAccount(t.Context(), namespace.Name); err != nil {
		t.Fatal(err)
	}
	pod := read(t, "injected.in.yaml")
	pod.Spec.Containers[0].SecurityContext = &corev1.SecurityContext{
		RunAsNonRoot: new(true), AllowPrivilegeEscalation: new(false),
		Capabilities:   &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
		SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
	}
	if pod, _, err := create(t, namespace.Name, pod); err != nil || len(pod.Spec.InitContainers) != 1 {
		t.Errorf("init containers %v, error %v", pod.Spec.InitContainers, err)
	}
}

// TestFailsClosed takes the injection away: no labelled pod is created without its
// sidecar.
func TestFailsClosed(t *testing.T) {
	waitUntilEffective(t)
	binding := &admissionregistrationv1.MutatingAdmissionPolicyBinding{ObjectMeta: metav1.ObjectMeta{Name: "aether-injector"}}
	if err := kubernetes.Client.Delete(t.Context(), binding); err != nil {
		t.Fatal(err)
	}
	testenv.Eventually(t, deadline, "a refusal", func() error {
		_, _, err := create(t, injected, read(t, "injected.in.yaml"))
		if err == nil || !strings.Contains(err.Error(), "got no sidecar") {
			return fmt.Errorf("a pod without its sidecar: %w", err)
		}
		return nil
	})
	if err := install(t.Context()); err != nil {
		t.Fatal(err)
	}
	waitUntilEffective(t)
}

// TestNoWebhook: nothing is left of it.
func TestNoWebhook(t *testing.T) {
	objects, err := render()
	if err != nil {
		t.Fatal(err)
	}
	for _, object := range objects {
		if object.GetKind() == "MutatingWebhookConfiguration" || object.GetName() == "aether-webhook" {
			t.Errorf("%s %s is still there", object.GetKind(), object.GetName())
		}
	}
	deployment := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "aether-system", Name: "aether-operator"}}
	if err := kubernetes.Client.Get(t.Context(), client.ObjectKeyFromObject(deployment), deployment); err != nil {
		t.Fatal(err)
	}
	container := deployment.Spec.Template.Spec.Containers[0]
	if !slices.Contains(container.Args, "--webhook-port=0") || slices.Contains(container.Args, "--webhook-port=9443") {
		t.Errorf("arguments of the operator: %v", container.Args)
	}
	if !slices.ContainsFunc(container.Env, func(v corev1.EnvVar) bool { return v.Name == "AETHER_SIDECAR_IMAGE" && v.Value == shippedImage }) {
		t.Errorf("the policy adds the image %s, the webhook that of %v", shippedImage, container.Env)
	}
	for _, port := range container.Ports {
		if port.Name == "webhook" {
			t.Errorf("ports of the operator: %v", container.Ports)
		}
	}
}

// TestLargestPods: what the bounds let through costs no more than a policy may, for
// one container with all of the variables, and for the most containers.
func TestLargestPods(t *testing.T) {
	waitUntilEffective(t)
	for _, containers := range []int{1, injector.MaxContainers} {
		pod := read(t, "injected.in.yaml")
		app := pod.Spec.Containers[0]
		pod.Spec.Containers, pod.Spec.InitContainers = nil, nil
		for i := range containers {
			one := app.DeepCopy()
			one.Name, one.Env = fmt.Sprintf("c%d", i), nil
			for j := range injector.MaxVariables / containers {
				one.Env = append(one.Env, corev1.EnvVar{Name: fmt.Sprintf("N%d", j), Value: "v"})
			}
			pod.Spec.Containers = append(pod.Spec.Containers, *one)
		}
		stored, _, err := create(t, injected, pod)
		if err != nil {
			t.Errorf("%d containers: %v", containers, err)
			continue
		}
		for _, container := range stored.Spec.Containers {
			if len(container.Env) != injector.MaxVariables/containers+2 {
				t.Fatalf("container %s has %d variables", container.Name, len(container.Env))
			}
		}
	}
}
