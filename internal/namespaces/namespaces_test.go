package namespaces

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func slim(t *testing.T, labels, annotations map[string]string) *metav1.PartialObjectMetadata {
	t.Helper()
	large := strings.Repeat("x", 1<<20)
	kept, err := Slim(&metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{
		Name: "shop", UID: "1", ResourceVersion: "2", Labels: maps.Clone(labels), Annotations: annotations, Finalizers: []string{large},
		OwnerReferences: []metav1.OwnerReference{{Name: large}}, ManagedFields: []metav1.ManagedFieldsEntry{{FieldsV1: metav1.NewFieldsV1(large)}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	// A cache may ask twice.
	again, err := Slim(kept)
	if err != nil || !reflect.DeepEqual(kept, again) {
		t.Errorf("the second time it is %+v, %v", again, err)
	}
	return kept.(*metav1.PartialObjectMetadata)
}

func manyLabels(value string) map[string]string {
	many := map[string]string{"team": value}
	for i := range 5000 {
		many[fmt.Sprint("key-", i)] = "value"
	}
	return many
}

// Whoever may make a Namespace does not decide how much memory the operator takes.
func TestSlimKeepsNothingOfAnySize(t *testing.T) {
	t.Parallel()
	few := map[string]string{"kubernetes.io/metadata.name": "shop", "team": "checkout"}
	annotations := map[string]string{"large": strings.Repeat("x", 250<<10), labelsLeftOut: "forged"}
	for name, labels := range map[string]map[string]string{"few": few, "many": manyLabels("a")} {
		kept := slim(t, labels, annotations)
		encoded, err := json.Marshal(kept)
		if err != nil {
			t.Fatal(err)
		}
		if len(encoded) > 3<<10 || kept.Name != "shop" || kept.UID != "1" || kept.ResourceVersion != "2" {
			t.Errorf("%s labels: %d bytes are kept: %.300s", name, len(encoded), encoded)
		}
	}
	if kept := slim(t, few, annotations); !maps.Equal(kept.Labels, few) || len(kept.Annotations) != 0 {
		t.Errorf("kept are labels %v and annotations %v", kept.Labels, kept.Annotations)
	}
	if one, two := slim(t, manyLabels("a"), nil), slim(t, manyLabels("b"), nil); reflect.DeepEqual(one.Annotations, two.Annotations) {
		t.Error("a change of labels that are not kept cannot be seen")
	}
}
