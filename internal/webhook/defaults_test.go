package webhook

import (
	"errors"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv"
)

func setDefault(t *testing.T, class *v1alpha1.EventStoreClass, value string) {
	t.Helper()
	patch := client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"annotations":{"`+v1alpha1.AnnotationDefaultClass+`":"`+value+`"}}}`))
	if err := kubernetes.Client.Patch(t.Context(), class, patch); err != nil {
		t.Fatal(err)
	}
}

// classOfNew creates a store that names no class, and gives back what became of it.
func classOfNew(t *testing.T) string {
	t.Helper()
	store := &v1alpha1.EventStore{ObjectMeta: metav1.ObjectMeta{Namespace: plainNamespace, GenerateName: "any-"}}
	if err := kubernetes.Client.Create(t.Context(), store, client.DryRunAll); err != nil {
		t.Fatal(err)
	}
	return store.Spec.ClassName
}

// TestDefaultClassIsWrittenDown at the creation of a store.
func TestDefaultClassIsWrittenDown(t *testing.T) {
	r := startReplica(t, Options{})
	install(t, r)
	waitUntilServing(t, r)
	if class := classOfNew(t); class != "" {
		t.Errorf("without classes the class is %q", class)
	}
	one, two := newClass(t, "one", func(*v1alpha1.EventStoreClass) {}), newClass(t, "two", func(*v1alpha1.EventStoreClass) {})
	becomes := func(what, want string) {
		t.Helper()
		testenv.Eventually(t, deadline, what, func() error {
			if class := classOfNew(t); class != want {
				return errors.New("the class is " + class)
			}
			return nil
		})
	}
	setDefault(t, one, "true")
	becomes("the default class", "one")
	store := &v1alpha1.EventStore{ObjectMeta: metav1.ObjectMeta{Namespace: plainNamespace, Name: "names-two"}, Spec: v1alpha1.EventStoreSpec{ClassName: "two"}}
	if err := kubernetes.Client.Create(t.Context(), store, client.DryRunAll); err != nil || store.Spec.ClassName != "two" {
		t.Errorf("a store that names its class: %q, %v", store.Spec.ClassName, err)
	}
	setDefault(t, two, "true")
	// The operator says that there are several.
	becomes("none of two", "")
	setDefault(t, one, "false")
	becomes("the other one", "two")
	t.Run("applied again", applyWithoutClass)
	r.stop()
	if class := classOfNew(t); class != "" {
		t.Errorf("while the operator is away the class is %q", class)
	}
}

// applyWithoutClass does what GitOps tools do with a manifest that names no class: it
// changes nothing any more, and takes nothing away.
func applyWithoutClass(t *testing.T) {
	manifest := func() *unstructured.Unstructured {
		object := &unstructured.Unstructured{Object: map[string]any{"spec": map[string]any{"replicas": int64(1)}}}
		object.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind("EventStore"))
		object.SetNamespace(plainNamespace)
		object.SetName("applied")
		return object
	}
	stored := func() *v1alpha1.EventStore {
		store := &v1alpha1.EventStore{}
		if err := kubernetes.Client.Get(t.Context(), client.ObjectKeyFromObject(manifest()), store); err != nil {
			t.Fatal(err)
		}
		return store
	}
	apply := func() {
		if err := kubernetes.Client.Apply(t.Context(), client.ApplyConfigurationFromUnstructured(manifest()), client.FieldOwner("gitops")); err != nil {
			t.Fatal(err)
		}
	}
	apply()
	first := stored()
	if first.Spec.ClassName != "two" {
		t.Fatalf("the class is %q", first.Spec.ClassName)
	}
	apply()
	// An API server writes an object once more when it is applied for the second time,
	// with the same content.
	second := stored()
	if second.Generation != first.Generation {
		t.Errorf("applied again, %+v became %+v", first.Spec, second.Spec)
	}
	apply()
	if third := stored(); third.ResourceVersion != second.ResourceVersion {
		t.Errorf("applied for the third time, it was written again: %+v", third)
	}
	replacement := manifest()
	replacement.SetResourceVersion(second.ResourceVersion)
	if err := kubernetes.Client.Update(t.Context(), replacement); err != nil {
		t.Errorf("replaced: %v", err)
	}
	if again := stored(); again.Generation != first.Generation {
		t.Errorf("replaced, %+v became %+v", first.Spec, again.Spec)
	}
	if err := kubernetes.Client.Delete(t.Context(), first); err != nil {
		t.Fatal(err)
	}
}
