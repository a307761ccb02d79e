package sidecar

import (
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/memory"
)

// The document and the routes say the same, in both directions.
func TestOpenAPIIsTrue(t *testing.T) {
	t.Parallel()
	var document struct {
		OpenAPI string
		Paths   map[string]map[string]yaml.Node
	}
	if err := yaml.Unmarshal(openAPI, &document); err != nil {
		t.Fatal(err)
	}
	if document.OpenAPI != "3.1.0" {
		t.Errorf("openapi is %q", document.OpenAPI)
	}
	documented := map[string][]string{}
	for path, operations := range document.Paths {
		for name, node := range operations {
			if name == "parameters" {
				continue
			}
			var operation struct {
				Parameters []struct{ Name, In string }
			}
			if err := node.Decode(&operation); err != nil {
				t.Fatal(err)
			}
			var query []string
			for _, parameter := range operation.Parameters {
				if parameter.In == "query" {
					query = append(query, parameter.Name)
				}
			}
			slices.Sort(query)
			documented[strings.ToUpper(name)+" "+path] = query
		}
	}
	server, err := New(Config{Stores: []Store{{Name: "orders", Store: memory.New()}}})
	if err != nil {
		t.Fatal(err)
	}
	served := map[string][]string{}
	for _, route := range server.httpRoutes() {
		for name, method := range route.methods {
			served[name+" "+route.pattern] = slices.Sorted(slices.Values(method.query))
		}
	}
	if !reflect.DeepEqual(documented, served) {
		t.Errorf("documented %v\nserved     %v", documented, served)
	}
	testSchemas(t)
}

// testSchemas compares the fields that are documented with those that are read
// and written.
func testSchemas(t *testing.T) {
	t.Helper()
	var document struct {
		Components struct {
			Schemas map[string]struct {
				Properties map[string]yaml.Node
			}
		}
	}
	if err := yaml.Unmarshal(openAPI, &document); err != nil {
		t.Fatal(err)
	}
	for schema, fields := range map[string][]string{
		"NewEvent": eventFields, "Event": jsonFields(eventJSON{}), "SavedEvent": jsonFields(savedJSON{}), "ReplayError": jsonFields(replayErrorJSON{}),
		"Page": jsonFields(pageJSON{}), "Truncated": jsonFields(truncatedJSON{}), "Snapshot": jsonFields(snapshotJSON{}), "Problem": jsonFields(problem{}),
	} {
		properties := document.Components.Schemas[schema].Properties
		for name, property := range properties {
			// Generators of clients take a field with a default for one that is always there.
			if slices.ContainsFunc(property.Content, func(n *yaml.Node) bool { return n.Value == "default" }) {
				t.Errorf("schema %s: %s has a default: say it in the description", schema, name)
			}
		}
		documented := slices.Sorted(maps.Keys(properties))
		if want := slices.Sorted(slices.Values(fields)); !slices.Equal(documented, want) {
			t.Errorf("schema %s has %q, the code %q", schema, documented, want)
		}
	}
}

// jsonFields are the names of a struct's fields in JSON.
func jsonFields(document any) []string {
	var names []string
	for _, field := range reflect.VisibleFields(reflect.TypeOf(document)) {
		if !field.Anonymous {
			name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
			names = append(names, name)
		}
	}
	return names
}
