package v1alpha1_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"sigs.k8s.io/yaml"
)

// fieldsFile holds every field that a release has had, one a line.
const fieldsFile = "testdata/fields.txt"

// TestFieldsAreNeverRemoved: manifests and statuses of an older release stay valid
// for as long as the version is v1alpha1. A field that is new is added to the file,
// and stays.
func TestFieldsAreNeverRemoved(t *testing.T) {
	t.Parallel()
	content, err := os.ReadFile(fieldsFile)
	if err != nil {
		t.Fatal(err)
	}
	promised, have := strings.Fields(string(content)), crdFields(t)
	for _, field := range promised {
		if !slices.Contains(have, field) {
			t.Errorf("the field %s is gone: it may not be removed within v1alpha1", field)
		}
	}
	for _, field := range have {
		if !slices.Contains(promised, field) {
			t.Errorf("the field %s is new: add it to %s", field, fieldsFile)
		}
	}
}

// crdFields are the paths of all fields of both kinds, such as
// EventStore.spec.retention.maxAge.
func crdFields(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob("../../config/crd/bases/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("found the CRDs %v: %v", files, err)
	}
	var fields []string
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var crd apiextensionsv1.CustomResourceDefinition
		if err := yaml.Unmarshal(content, &crd); err != nil {
			t.Fatal(err)
		}
		fields = appendFields(fields, crd.Spec.Names.Kind, crd.Spec.Versions[0].Schema.OpenAPIV3Schema)
	}
	slices.Sort(fields)
	return fields
}

func appendFields(fields []string, path string, schema *apiextensionsv1.JSONSchemaProps) []string {
	for name, property := range schema.Properties {
		fields = append(fields, path+"."+name)
		fields = appendFields(fields, path+"."+name, &property)
	}
	if schema.Items != nil && schema.Items.Schema != nil {
		fields = appendFields(fields, path+"[]", schema.Items.Schema)
	}
	return fields
}
