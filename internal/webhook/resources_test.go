package webhook

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
)

// newNamespace has a ServiceAccount, as a controller would make it.
func newNamespace(t *testing.T, name string) {
	t.Helper()
	for _, object := range []client.Object{
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}},
		&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: name, Name: "default"}},
	} {
		if err := kubernetes.Client.Create(t.Context(), object); err != nil {
			t.Fatal(err)
		}
	}
}

func amounts(pairs ...string) corev1.ResourceList {
	list := corev1.ResourceList{}
	for i := 0; i < len(pairs); i += 2 {
		list[corev1.ResourceName(pairs[i])] = resource.MustParse(pairs[i+1])
	}
	return list
}

func limitRange(t *testing.T, namespace string, item corev1.LimitRangeItem) {
	t.Helper()
	item.Type = corev1.LimitTypeContainer
	object := &corev1.LimitRange{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "bounds"}, Spec: corev1.LimitRangeSpec{Limits: []corev1.LimitRangeItem{item}}}
	if err := kubernetes.Client.Create(t.Context(), object); err != nil {
		t.Fatal(err)
	}
}

// guaranteed is a labelled pod whose application has what it asks for.
func guaranteed(namespace string, annotations map[string]string) *corev1.Pod {
	pod := labelled(namespace, "orders")
	pod.Annotations = annotations
	list := amounts("cpu", "200m", "memory", "256Mi", "ephemeral-storage", "1Gi")
	pod.Spec.Containers[0].Resources = corev1.ResourceRequirements{Requests: list, Limits: list.DeepCopy()}
	return pod
}

// TestResourcesFit: what a namespace or a pod says of resources is kept to where nobody
// asked for something else, and told where somebody did.
func TestResourcesFit(t *testing.T) {
	r := startReplica(t, Options{})
	install(t, r)
	waitUntilServing(t, r)
	t.Run("LimitRange with a minimum", fitMinimum)
	t.Run("LimitRange with a maximum and a ratio", fitRatio)
	t.Run("LimitRange with a maximum below the default", fitMaximum)
	t.Run("ResourceQuota", fitQuota)
	t.Run("spec.resources", fitPodResources)
}

// admitted creates a pod, and gives its sidecar back.
func admitted(t *testing.T, pod *corev1.Pod) *corev1.Container {
	t.Helper()
	if err := kubernetes.Client.Create(t.Context(), pod, client.DryRunAll); err != nil {
		t.Fatalf("annotations %v: %v", pod.Annotations, err)
	}
	return &pod.Spec.InitContainers[indexOfSidecar(pod.Spec.InitContainers)]
}

func refusedWith(t *testing.T, pod *corev1.Pod, parts ...string) {
	t.Helper()
	err := kubernetes.Client.Create(t.Context(), pod, client.DryRunAll)
	if !apierrors.IsBadRequest(err) {
		t.Errorf("annotations %v: %v, want a bad request", pod.Annotations, err)
		return
	}
	contains(t, "the answer", err.Error(), append(parts, "aether-sidecar", "set the annotation aether.flowmade.one/")...)
}

func fitMinimum(t *testing.T) {
	newNamespace(t, "minimum")
	limitRange(t, "minimum", corev1.LimitRangeItem{Min: amounts("cpu", "50m", "memory", "96Mi")})
	sidecar := admitted(t, guaranteed("minimum", nil))
	if cpu, memory := sidecar.Resources.Requests.Cpu(), sidecar.Resources.Requests.Memory(); cpu.String() != "50m" || memory.String() != "96Mi" {
		t.Errorf("the sidecar asks for %s and %s", cpu, memory)
	}
	admitted(t, guaranteed("minimum", map[string]string{v1alpha1.AnnotationSidecarCPURequest: "60m", v1alpha1.AnnotationSidecarMemoryRequest: "128Mi"}))
	refusedWith(t, guaranteed("minimum", map[string]string{v1alpha1.AnnotationSidecarCPURequest: "20m"}), "LimitRange bounds", "20m of cpu", "50m")
}

func fitRatio(t *testing.T) {
	newNamespace(t, "ratio")
	limitRange(t, "ratio", corev1.LimitRangeItem{MaxLimitRequestRatio: amounts("cpu", "4", "memory", "1"), Default: amounts("cpu", "500m")})
	sidecar := admitted(t, guaranteed("ratio", nil))
	if cpu, memory := sidecar.Resources.Requests.Cpu(), sidecar.Resources.Requests.Memory(); cpu.String() != "125m" || memory.String() != "64Mi" {
		t.Errorf("the sidecar asks for %s and %s", cpu, memory)
	}
	sidecar = admitted(t, guaranteed("ratio", map[string]string{v1alpha1.AnnotationSidecarCPULimit: "100m"}))
	if cpu := sidecar.Resources.Requests.Cpu(); cpu.String() != "25m" {
		t.Errorf("the sidecar asks for %s", cpu)
	}
	refusedWith(t, guaranteed("ratio", map[string]string{v1alpha1.AnnotationSidecarMemoryRequest: "32Mi"}), "LimitRange bounds", "memory")
}

func fitMaximum(t *testing.T) {
	newNamespace(t, "maximum")
	limitRange(t, "maximum", corev1.LimitRangeItem{Max: amounts("memory", "48Mi")})
	pod := labelled("maximum", "orders")
	if limit := admitted(t, pod).Resources.Limits.Memory(); limit.String() != "48Mi" {
		t.Errorf("the sidecar is limited to %s", limit)
	}
	pod = labelled("maximum", "orders")
	pod.Annotations = map[string]string{v1alpha1.AnnotationSidecarMemoryLimit: "64Mi"}
	refusedWith(t, pod, "LimitRange bounds", "64Mi of memory", "48Mi")
}

// fitQuota: the API server's own message names the container.
func fitQuota(t *testing.T) {
	newNamespace(t, "quota")
	quota := &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Namespace: "quota", Name: "team"}, Spec: corev1.ResourceQuotaSpec{
		Hard: amounts("limits.cpu", "10", "limits.memory", "10Gi", "requests.cpu", "10", "requests.memory", "10Gi"),
	}}
	if err := kubernetes.Client.Create(t.Context(), quota); err != nil {
		t.Fatal(err)
	}
	// There is no controller manager that would count.
	quota.Status.Hard, quota.Status.Used = quota.Spec.Hard, amounts("limits.cpu", "0", "limits.memory", "0", "requests.cpu", "0", "requests.memory", "0")
	if err := kubernetes.Client.Status().Update(t.Context(), quota); err != nil {
		t.Fatal(err)
	}
	err := kubernetes.Client.Create(t.Context(), guaranteed("quota", nil), client.DryRunAll)
	if !apierrors.IsForbidden(err) {
		t.Fatalf("a sidecar without a CPU limit: %v, want a refusal", err)
	}
	contains(t, "the answer", err.Error(), "limits.cpu", "aether-sidecar")
	admitted(t, guaranteed("quota", map[string]string{v1alpha1.AnnotationSidecarCPULimit: "200m"}))
}

func fitPodResources(t *testing.T) {
	whole := func(annotations map[string]string) *corev1.Pod {
		pod := labelled(plainNamespace, "orders")
		pod.Annotations = annotations
		pod.Spec.Resources = &corev1.ResourceRequirements{Requests: amounts("cpu", "200m", "memory", "48Mi"), Limits: amounts("cpu", "200m", "memory", "48Mi")}
		pod.Spec.Containers[0].Resources.Requests = amounts("cpu", "200m", "memory", "48Mi")
		return pod
	}
	sidecar := admitted(t, whole(nil))
	if !sidecar.Resources.Requests.Cpu().IsZero() || !sidecar.Resources.Requests.Memory().IsZero() || sidecar.Resources.Limits.Memory().String() != "48Mi" {
		t.Errorf("the sidecar has %+v", sidecar.Resources)
	}
	refusedWith(t, whole(map[string]string{v1alpha1.AnnotationSidecarCPURequest: "10m"}), "spec.resources", "10m of cpu", "200m")
	refusedWith(t, whole(map[string]string{v1alpha1.AnnotationSidecarMemoryLimit: "64Mi"}), "spec.resources", "64Mi of memory")
}
