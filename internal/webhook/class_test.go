package webhook

import (
	"errors"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv"
)

func newClass(t *testing.T, name string, change func(*v1alpha1.EventStoreClass)) *v1alpha1.EventStoreClass {
	t.Helper()
	class := &v1alpha1.EventStoreClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1alpha1.EventStoreClassSpec{Servers: []v1alpha1.ServerURL{"nats://127.0.0.1:4222"}}}
	change(class)
	if err := kubernetes.Client.Create(t.Context(), class); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := kubernetes.Client.Delete(cleanUp(t), class); err != nil {
			t.Errorf("clean up: %v", err)
		}
	})
	return class
}

func newStore(t *testing.T, namespace, name, class string) {
	t.Helper()
	store := &v1alpha1.EventStore{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Spec: v1alpha1.EventStoreSpec{ClassName: class}}
	if err := kubernetes.Client.Create(t.Context(), store); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := kubernetes.Client.Delete(cleanUp(t), store); err != nil {
			t.Errorf("clean up: %v", err)
		}
	})
}

func argumentOf(sidecar *corev1.Container) string {
	if len(sidecar.Args) == 0 {
		return ""
	}
	return sidecar.Args[0]
}

// TestClassOfTheSidecar: the annotation of the pod goes before the class of its default
// store, and that before what is the default.
func TestClassOfTheSidecar(t *testing.T) {
	r := startReplica(t, Options{})
	install(t, r)
	waitUntilServing(t, r)
	newClass(t, "tuned", func(c *v1alpha1.EventStoreClass) {
		c.Spec.Injection = v1alpha1.Injection{
			Image:     "mirror.example/aether-sidecar:2.0",
			Resources: v1alpha1.SidecarResources{Requests: v1alpha1.SidecarAmounts{CPU: new(resource.MustParse("70m"))}},
			Env:       []v1alpha1.SidecarVariable{{Name: "OTEL_TRACES_EXPORTER", Value: "otlp"}, {Name: "OTEL_SERVICE_NAME", Value: "class"}},
			UserID:    new(intstr.FromString("None")),
			Args:      []v1alpha1.SidecarArgument{"--max-calls=300"},
		}
	})
	newClass(t, "plain", func(c *v1alpha1.EventStoreClass) {
		c.Annotations = map[string]string{v1alpha1.AnnotationDefaultClass: "true"}
		c.Spec.Injection.Args = []v1alpha1.SidecarArgument{"--max-calls=100"}
	})
	newClass(t, "private", func(c *v1alpha1.EventStoreClass) {
		c.Spec.AllowedNamespaces = &v1alpha1.AllowedNamespaces{Selector: metav1.LabelSelector{MatchLabels: map[string]string{"team": "platform"}}}
		c.Spec.Injection.Args = []v1alpha1.SidecarArgument{"--max-calls=200"}
	})
	newStore(t, plainNamespace, "of-tuned", "tuned")
	newStore(t, plainNamespace, "of-private", "private")
	// The cache follows a moment later.
	testenv.Eventually(t, deadline, "the classes to be known", func() error {
		if argumentOf(admitted(t, labelled(plainNamespace, "of-tuned"))) != "--max-calls=300" || argumentOf(admitted(t, labelled(plainNamespace, "absent"))) != "--max-calls=100" {
			return errors.New("not yet")
		}
		return nil
	})
	sidecar := admitted(t, labelled(plainNamespace, "of-tuned"))
	if sidecar.Image != "mirror.example/aether-sidecar:2.0" || sidecar.SecurityContext.RunAsUser != nil ||
		sidecar.Resources.Requests.Cpu().String() != "70m" || sidecar.Resources.Requests.Memory().String() != "32Mi" ||
		!slices.ContainsFunc(sidecar.Env, func(v corev1.EnvVar) bool { return v.Name == "OTEL_TRACES_EXPORTER" && v.Value == "otlp" }) {
		t.Errorf("of the class: %+v", sidecar)
	}
	pod := labelled(plainNamespace, "of-tuned")
	pod.Annotations = map[string]string{
		v1alpha1.AnnotationSidecarImage: "registry.example/own:1", v1alpha1.AnnotationSidecarCPURequest: "80m", v1alpha1.AnnotationSidecarUserID: "1000",
		v1alpha1.AnnotationSidecarEnv: "OTEL_SERVICE_NAME=pod", v1alpha1.AnnotationSidecarArgs: "--max-calls=400",
	}
	sidecar = admitted(t, pod)
	if sidecar.Image != "registry.example/own:1" || *sidecar.SecurityContext.RunAsUser != 1000 || sidecar.Resources.Requests.Cpu().String() != "80m" ||
		!slices.Equal(sidecar.Args, []string{"--max-calls=300", "--max-calls=400"}) ||
		slices.ContainsFunc(sidecar.Env, func(v corev1.EnvVar) bool { return v.Value == "class" }) {
		t.Errorf("of the pod: %+v", sidecar)
	}
	// Of several stores the default one decides.
	pod = labelled(plainNamespace, "absent")
	pod.Annotations = map[string]string{v1alpha1.AnnotationEventStores: "of-tuned"}
	if got := argumentOf(admitted(t, pod)); got != "--max-calls=100" {
		t.Errorf("of several stores: %s", got)
	}
	// What a class gives is for the namespaces that may use it.
	if got := argumentOf(admitted(t, labelled(plainNamespace, "of-private"))); got != "" {
		t.Errorf("of a class that is not allowed: %s", got)
	}
	var namespace corev1.Namespace
	if err := kubernetes.Client.Get(t.Context(), client.ObjectKey{Name: plainNamespace}, &namespace); err != nil {
		t.Fatal(err)
	}
	namespace.Labels["team"] = "platform"
	if err := kubernetes.Client.Update(t.Context(), &namespace); err != nil {
		t.Fatal(err)
	}
	testenv.Eventually(t, deadline, "the label to be known", func() error {
		if argumentOf(admitted(t, labelled(plainNamespace, "of-private"))) != "--max-calls=200" {
			return errors.New("not yet")
		}
		return nil
	})
}
