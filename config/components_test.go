package config_test

import (
	"fmt"
	"slices"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv"
)

// render is config/default with a component, as a user's overlay has it.
func render(t *testing.T, component string) []*unstructured.Unstructured {
	t.Helper()
	objects, err := testenv.Render("config/default", "config/components/"+component)
	if err != nil {
		t.Fatal(err)
	}
	return objects
}

func find[T client.Object](t *testing.T, objects []*unstructured.Unstructured, kind, name string, into T) T {
	t.Helper()
	index := slices.IndexFunc(objects, func(o *unstructured.Unstructured) bool { return o.GetKind() == kind && o.GetName() == name })
	if index < 0 {
		t.Fatalf("no %s %s", kind, name)
	}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(objects[index].Object, into, true); err != nil {
		t.Fatal(err)
	}
	return into
}

// TestNetworkPolicy: it lets in what the pod serves, on the ports of the pod.
func TestNetworkPolicy(t *testing.T) {
	install(t)
	objects := render(t, "network-policy")
	policy := find(t, objects, "NetworkPolicy", "aether-operator", &networkingv1.NetworkPolicy{})
	if err := kubernetes.Client.Create(t.Context(), policy.DeepCopy(), client.DryRunAll); err != nil {
		t.Fatal(err)
	}
	template := find(t, objects, "Deployment", account, &appsv1.Deployment{}).Spec.Template
	for key, value := range policy.Spec.PodSelector.MatchLabels {
		if template.Labels[key] != value {
			t.Errorf("the policy selects %s=%s, the pods have %v", key, value, template.Labels)
		}
	}
	if len(policy.Spec.Ingress) != 1 || len(policy.Spec.Ingress[0].From) != 0 {
		t.Fatalf("ingress: %+v, want one rule, from anywhere: an API server has no label", policy.Spec.Ingress)
	}
	var allowed, served []string
	for _, port := range policy.Spec.Ingress[0].Ports {
		allowed = append(allowed, fmt.Sprint(*port.Protocol, port.Port))
	}
	for _, port := range template.Spec.Containers[0].Ports {
		served = append(served, fmt.Sprint(corev1.ProtocolTCP, port.ContainerPort))
	}
	slices.Sort(allowed)
	slices.Sort(served)
	if !slices.Equal(allowed, served) {
		t.Errorf("the policy lets %v in, the pods serve %v", allowed, served)
	}
}
