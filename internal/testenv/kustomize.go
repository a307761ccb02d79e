package testenv

import (
	"context"
	"fmt"
	"path/filepath"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
)

// Render is kustomize build of a folder of this repository, such as
// "config/default".
func Render(path string) ([]*unstructured.Unstructured, error) {
	root, err := Root()
	if err != nil {
		return nil, err
	}
	rendered, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), filepath.Join(root, path))
	if err != nil {
		return nil, fmt.Errorf("render %s: %w", path, err)
	}
	var objects []*unstructured.Unstructured
	for _, resource := range rendered.Resources() {
		// Through JSON, since numbers of kustomize are ints, which Unstructured
		// cannot copy.
		content, err := resource.MarshalJSON()
		object := &unstructured.Unstructured{}
		if err == nil {
			err = object.UnmarshalJSON(content)
		}
		if err != nil {
			return nil, fmt.Errorf("render %s of %s: %w", resource.CurId(), path, err)
		}
		objects = append(objects, object)
	}
	return objects, nil
}

// Apply is kubectl apply --server-side of one object.
func (k *Kubernetes) Apply(ctx context.Context, object *unstructured.Unstructured) error {
	configuration := client.ApplyConfigurationFromUnstructured(object.DeepCopy())
	if err := k.Client.Apply(ctx, configuration, client.FieldOwner("testenv"), client.ForceOwnership); err != nil {
		return fmt.Errorf("apply %s %s: %w", object.GetKind(), client.ObjectKeyFromObject(object), err)
	}
	return nil
}
