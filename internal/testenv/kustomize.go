package testenv

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/api/types"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"
)

// Render is kustomize build of a folder of this repository, such as
// "config/default", and of components on top of it, such as
// "config/components/network-policy".
func Render(path string, components ...string) ([]*unstructured.Unstructured, error) {
	return RenderPatched(path, "", components...)
}

// RenderPatched is Render with more of a kustomization, as YAML.
func RenderPatched(path, more string, components ...string) ([]*unstructured.Unstructured, error) {
	overlay, err := os.MkdirTemp("", "overlay-")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(overlay) }()
	if err := writeOverlay(overlay, path, more, components); err != nil {
		return nil, fmt.Errorf("render %s: %w", path, err)
	}
	rendered, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), overlay)
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

// writeOverlay makes the kustomization that a user of components writes.
func writeOverlay(dir, path, more string, components []string) error {
	root, err := Root()
	if err != nil {
		return err
	}
	// The way of a symbolic link is none for "..".
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		return err
	}
	if root, err = filepath.Rel(dir, root); err != nil {
		return err
	}
	overlay := types.Kustomization{Resources: []string{filepath.Join(root, path)}}
	for _, component := range components {
		overlay.Components = append(overlay.Components, filepath.Join(root, component))
	}
	content, err := yaml.Marshal(overlay)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "kustomization.yaml"), append(content, more...), 0o600)
}

// Apply is kubectl apply --server-side of one object.
func (k *Kubernetes) Apply(ctx context.Context, object *unstructured.Unstructured) error {
	configuration := client.ApplyConfigurationFromUnstructured(object.DeepCopy())
	if err := k.Client.Apply(ctx, configuration, client.FieldOwner("testenv"), client.ForceOwnership); err != nil {
		return fmt.Errorf("apply %s %s: %w", object.GetKind(), client.ObjectKeyFromObject(object), err)
	}
	return nil
}
