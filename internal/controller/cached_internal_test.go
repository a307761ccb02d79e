package controller

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
)

// Whoever may write in one namespace does not decide how much memory the operator takes:
// what an object holds that may be of any size is not kept.
func TestCacheKeepsNothingOfAnySize(t *testing.T) {
	t.Parallel()
	large := strings.Repeat("x", 1<<20)
	many := map[string]string{}
	var names []string
	var owners []metav1.OwnerReference
	for i := range 5000 {
		many[fmt.Sprint("key-", i)] = "value"
		names = append(names, fmt.Sprint("example.com/", i))
		owners = append(owners, metav1.OwnerReference{APIVersion: "v1", Kind: "ConfigMap", Name: names[i], UID: "1"})
	}
	meta := func() metav1.ObjectMeta {
		return metav1.ObjectMeta{
			Namespace: "shop", Name: "orders", UID: "2", ResourceVersion: "3", Labels: many, Finalizers: append(names, v1alpha1.Finalizer), OwnerReferences: owners,
			Annotations:   map[string]string{"more": large, v1alpha1.AnnotationAcceptDataLoss: large, corev1.LastAppliedConfigAnnotation: large},
			ManagedFields: []metav1.ManagedFieldsEntry{{FieldsV1: metav1.NewFieldsV1(large)}},
		}
	}
	controlled := meta()
	controlled.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: large, Name: "x", UID: "1", Controller: new(true)}}
	for name, object := range map[string]client.Object{
		"an EventStore":                  &v1alpha1.EventStore{ObjectMeta: meta()},
		"a binding":                      &corev1.Secret{ObjectMeta: meta(), Type: v1alpha1.BindingSecretType, Data: map[string][]byte{"more": []byte(large)}},
		"a binding with a strange owner": &corev1.Secret{ObjectMeta: controlled, Type: v1alpha1.BindingSecretType},
	} {
		kept := cachedOf(t, object)
		encoded, err := json.Marshal(kept)
		if err != nil {
			t.Fatal(err)
		}
		if len(encoded) > 2<<10 {
			t.Errorf("of %s %d bytes are kept", name, len(encoded))
		}
		if key := client.ObjectKeyFromObject(kept); key.String() != "shop/orders" || kept.GetUID() != "2" || kept.GetResourceVersion() != "3" {
			t.Errorf("%s is kept as %s of uid %q, version %q", name, key, kept.GetUID(), kept.GetResourceVersion())
		}
	}
}

// Of what a team writes into the spec of an EventStore, no more than some kilobytes are
// kept: the CRD lets nothing larger through, as the tests of package v1alpha1 show.
func TestCacheOfTheLargestSpec(t *testing.T) {
	t.Parallel()
	const entries, characters, tags = 64, 4096, 16
	name := func(length, i int) string { return fmt.Sprintf("%0*d", length, i) }
	store := &v1alpha1.EventStore{Spec: v1alpha1.EventStoreSpec{
		Namespace: name(63, 0), ClassName: name(253, 0), Placement: &v1alpha1.Placement{Cluster: name(255, 0)},
	}}
	for i := range tags {
		store.Spec.Placement.Tags = append(store.Spec.Placement.Tags, name(255, i))
	}
	store.Status.Effective = &v1alpha1.EffectiveSpec{Placement: store.Spec.Placement.DeepCopy()}
	for i := range entries {
		store.Spec.Access = append(store.Spec.Access, v1alpha1.AccessEntry{
			ServiceAccount: name(characters/entries-10, i), Namespace: name(10, i), Role: v1alpha1.RoleReader,
		})
	}
	kept := cachedOf(t, store).(*v1alpha1.EventStore)
	encoded, err := json.Marshal(kept)
	if err != nil {
		t.Fatal(err)
	}
	if len(encoded) > 20<<10 || len(kept.Spec.Access) != entries {
		t.Errorf("of the largest spec %d bytes are kept, and %d entries of access", len(encoded), len(kept.Spec.Access))
	}
}

// What the operator reads of an object it still can.
func TestCacheKeepsWhatIsRead(t *testing.T) {
	t.Parallel()
	owner := metav1.OwnerReference{APIVersion: v1alpha1.GroupVersion.String(), Kind: "EventStore", Name: "orders", UID: "1", Controller: new(true)}
	binding := func(value string, owners ...metav1.OwnerReference) *corev1.Secret {
		return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{OwnerReferences: owners}, Data: map[string][]byte{"servers": []byte(value)}}
	}
	digestOf := func(s *corev1.Secret) string { return cachedOf(t, s).(*corev1.Secret).StringData[bindingDigest] }
	same := digestOf(binding("a", owner))
	if same == "" || same != digestOfBinding(binding("a", owner)) {
		t.Errorf("the digest in the cache is %q", same)
	}
	for what, other := range map[string]*corev1.Secret{
		"other content": binding("b", owner), "no owner": binding("a"), "one owner more": binding("a", owner, metav1.OwnerReference{Name: "x"}),
	} {
		if digestOf(other) == same {
			t.Errorf("a binding with %s looks the same", what)
		}
	}
	kept := cachedOf(t, binding("a", metav1.OwnerReference{Name: "x"}, owner))
	if got := metav1.GetControllerOf(kept); got == nil || got.Name != "orders" {
		t.Errorf("the controller of a binding is kept as %+v", got)
	}
	store := func(annotations map[string]string) *v1alpha1.EventStore {
		made := &v1alpha1.EventStore{ObjectMeta: metav1.ObjectMeta{Annotations: annotations, Finalizers: []string{"a.example.com/b", v1alpha1.Finalizer}}}
		return cachedOf(t, made).(*v1alpha1.EventStore)
	}
	one, two := store(map[string]string{"poke": "1", v1alpha1.AnnotationAcceptDataLoss: "7"}), store(map[string]string{"poke": "2"})
	if one.Annotations[v1alpha1.AnnotationAcceptDataLoss] != "7" || one.Annotations[otherAnnotations] == two.Annotations[otherAnnotations] {
		t.Errorf("of annotations are kept %v and %v", one.Annotations, two.Annotations)
	}
	if len(one.Finalizers) != 1 || one.Finalizers[0] != v1alpha1.Finalizer {
		t.Errorf("of finalizers are kept %v", one.Finalizers)
	}
}

// cachedOf is what the cache keeps of an object, also where it is asked twice.
func cachedOf(t *testing.T, object client.Object) client.Object {
	t.Helper()
	kept := any(object)
	for of, options := range CacheOptions().ByObject {
		if fmt.Sprintf("%T", of) != fmt.Sprintf("%T", object) {
			continue
		}
		for range 2 {
			var err error
			if kept, err = options.Transform(kept); err != nil {
				t.Fatal(err)
			}
		}
	}
	return kept.(client.Object)
}
