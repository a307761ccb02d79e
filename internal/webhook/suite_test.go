package webhook

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"
	"sigs.k8s.io/controller-runtime/pkg/webhook"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/controller"
	"git.flowmade.one/flowmade-one/aether-operator/internal/ports"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv"
)

const (
	image    = "registry.example/aether-sidecar:1.0"
	deadline = time.Minute
	// restrictedNamespace has the Pod Security Standard restricted, plainNamespace
	// has none.
	restrictedNamespace = "shop"
	plainNamespace      = "plain"
)

var (
	kubernetes *testenv.Kubernetes
	// account is the operator's ServiceAccount, with the rights of config/rbac.
	account *rest.Config
)

func TestMain(m *testing.M) {
	ctrl.SetLogger(logr.Discard())
	code := m.Run()
	if kubernetes != nil {
		if err := kubernetes.Stop(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// startKubernetes runs an API server for the tests that need one, and for no
// other: each worker of a fuzz test is a process of its own.
var startKubernetes = sync.OnceValue(func() (err error) {
	kubernetes, err = testenv.Start(func(e *envtest.Environment) {
		// As in a cluster: the admission plugin that mounts tokens is on.
		e.ControlPlane.GetAPIServer().Configure().Disable("disable-admission-plugins")
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	return prepare(ctx)
})

// prepare makes the namespaces and the operator's account.
func prepare(ctx context.Context) error {
	for name, labels := range map[string]map[string]string{
		DefaultNamespace:    nil,
		restrictedNamespace: {"pod-security.kubernetes.io/enforce": "restricted"},
		plainNamespace:      nil,
	} {
		if err := kubernetes.Client.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}); err != nil {
			return err
		}
		// There is no controller manager that would make it.
		if err := kubernetes.Client.Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: name, Name: "default"}}); err != nil {
			return err
		}
	}
	user, err := kubernetes.Operator(ctx)
	if err != nil {
		return err
	}
	account = user.Config()
	return nil
}

// replica is a running operator, as far as this package goes.
type replica struct {
	address string
	probes  string
	stop    func()
}

// startReplica runs a manager with the webhook until the test ends.
func startReplica(t *testing.T, options Options, more ...func(webhook.Server)) *replica {
	t.Helper()
	if err := startKubernetes(); err != nil {
		t.Fatal(err)
	}
	options.Namespace, options.SidecarImage = DefaultNamespace, image
	port := freePort(t)
	r := &replica{address: fmt.Sprintf("127.0.0.1:%d", port), probes: fmt.Sprintf("127.0.0.1:%d", freePort(t))}
	mgr, err := ctrl.NewManager(rest.CopyConfig(account), ctrl.Options{
		Scheme:                 controller.Scheme(),
		Metrics:                metricsserver.Options{BindAddress: "0"},
		HealthProbeBindAddress: r.probes,
		WebhookServer:          ports.NewWebhook("127.0.0.1", port),
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := SetupWithManager(mgr, options); err != nil {
		t.Fatal(err)
	}
	for _, add := range more {
		add(mgr.GetWebhookServer())
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- mgr.Start(ctx) }()
	stopped := false
	r.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run the manager: %v", err)
		}
	}
	t.Cleanup(r.stop)
	return r
}

// install applies the configuration of config/webhook, which the API server then
// calls at a replica's address, and takes it and the CA away with the test.
func install(t *testing.T, r *replica) {
	t.Helper()
	objects, err := testenv.Render("config/webhook")
	if err != nil {
		t.Fatal(err)
	}
	for _, object := range objects {
		if object.GetKind() != "MutatingWebhookConfiguration" {
			continue
		}
		for _, hook := range object.Object["webhooks"].([]any) {
			hook := hook.(map[string]any)
			hook["clientConfig"] = map[string]any{"url": "https://" + r.address + basePaths[hook["name"].(string)]}
		}
		if err := kubernetes.Apply(t.Context(), object); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { uninstall(t) })
}

// cleanUp is a context for what comes after a test, when its own has ended.
func cleanUp(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), deadline)
	t.Cleanup(cancel)
	return ctx
}

func uninstall(t *testing.T) {
	ctx := cleanUp(t)
	for _, object := range []client.Object{
		&admissionregistrationv1.MutatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: ConfigurationName}},
		&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: DefaultNamespace, Name: SecretName}},
	} {
		if err := client.IgnoreNotFound(kubernetes.Client.Delete(ctx, object)); err != nil {
			t.Errorf("clean up: %v", err)
		}
	}
}

// waitUntilServing waits until the replica is ready and the API server knows.
func waitUntilServing(t *testing.T, r *replica) {
	t.Helper()
	testenv.Eventually(t, deadline, "the replica to be ready", func() error { return r.ready(t) })
	testenv.Eventually(t, deadline, "a pod to be injected", func() error {
		pod := labelled(plainNamespace, "orders")
		if err := kubernetes.Client.Create(t.Context(), pod, client.DryRunAll); err != nil {
			return err
		}
		if len(pod.Spec.InitContainers) == 0 {
			return errors.New("no sidecar")
		}
		return nil
	})
}

// ready asks the replica's /readyz.
func (r *replica) ready(t *testing.T) error {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+r.probes+"/readyz", nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("/readyz: %s", response.Status)
	}
	return nil
}

// labelled is a pod that asks for a store and keeps to Pod Security restricted.
func labelled(namespace, store string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			GenerateName: "checkout-", Namespace: namespace, Labels: map[string]string{v1alpha1.LabelEventStore: store},
		},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{
			Name: "app", Image: "registry.example/checkout:1.0",
			SecurityContext: &corev1.SecurityContext{
				RunAsNonRoot: new(true), AllowPrivilegeEscalation: new(false),
				Capabilities:   &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
				SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
			},
		}}},
	}
}

func freePort(t *testing.T) int {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	return listener.Addr().(*net.TCPAddr).Port
}

func contains(t *testing.T, what, got string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(got, part) {
			t.Errorf("%s: %q does not say %q", what, got, part)
		}
	}
}
