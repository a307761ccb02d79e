package webhook

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	logf "sigs.k8s.io/controller-runtime/pkg/log"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/injector"
	"git.flowmade.one/flowmade-one/aether-operator/internal/namespaces"
)

// +kubebuilder:rbac:groups=aether.flowmade.one,resources=eventstores,verbs=get;list;watch
// +kubebuilder:rbac:groups=aether.flowmade.one,resources=eventstoreclasses,verbs=list;watch
// +kubebuilder:rbac:groups="",resources=namespaces,verbs=list;watch
// +kubebuilder:rbac:groups="",resources=limitranges,verbs=list

// surroundings are what a new sidecar is made of beside the pod. What cannot be looked
// up is told, and the sidecar is made without it.
func (h *podHandler) surroundings(ctx context.Context, stores *lookup, pod *corev1.Pod) (injector.Config, []string) {
	config, namespace := h.config, stores.namespace
	store, labelled := pod.Labels[v1alpha1.LabelEventStore]
	if !labelled || hasSidecar(pod) {
		return config, nil
	}
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	var warnings []string
	failed := func(what string, err error) {
		logf.FromContext(ctx).Error(err, "Could not look up what a sidecar is made of", "what", what, "namespace", namespace, "store", store)
		warnings = append(warnings, fmt.Sprintf("%s could not be looked up, and the sidecar is made without: create the pod again if it needs it", what))
	}
	var err error
	if config.Class, err = h.classOf(ctx, stores, store); err != nil {
		failed("the class of EventStore "+store, err)
	}
	var limits corev1.LimitRangeList
	if err := h.live.List(ctx, &limits, client.InNamespace(namespace)); err != nil {
		failed("the LimitRanges of namespace "+namespace, err)
	}
	config.LimitRanges = limits.Items
	return config, warnings
}

func hasSidecar(pod *corev1.Pod) bool {
	for i := range pod.Spec.InitContainers {
		if injector.IsSidecar(&pod.Spec.InitContainers[i]) {
			return true
		}
	}
	return false
}

// classOf is the class of a store, if the namespace may use it; that of a store that
// does not exist yet, or names none, is the default class. It is nil where there is
// none.
func (h *podHandler) classOf(ctx context.Context, stores *lookup, of string) (*v1alpha1.EventStoreClass, error) {
	store, err := stores.get(ctx, of)
	if client.IgnoreNotFound(err) != nil {
		return nil, err
	}
	name := store.Status.ClassName
	if name == "" {
		name = store.Spec.ClassName
	}
	if name == "" {
		if name, err = defaultClass(ctx, h.cached); name == "" || err != nil {
			return nil, err
		}
	}
	class := &v1alpha1.EventStoreClass{}
	if err := h.cached.Get(ctx, client.ObjectKey{Name: name}, class); apierrors.IsNotFound(err) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	allowed, err := h.allows(ctx, class, stores.namespace)
	if !allowed {
		return nil, err
	}
	return class, err
}

// defaultClass is the name of the one class that is marked as the default, and empty
// where there are none or several.
func defaultClass(ctx context.Context, reader client.Reader) (string, error) {
	var classes v1alpha1.EventStoreClassList
	if err := reader.List(ctx, &classes); err != nil {
		return "", fmt.Errorf("list EventStoreClasses: %w", err)
	}
	name := ""
	for i := range classes.Items {
		if !classes.Items[i].IsDefault() {
			continue
		}
		if name != "" {
			return "", nil
		}
		name = classes.Items[i].Name
	}
	return name, nil
}

// allows says whether a class may be used from a namespace: what it gives sidecars is
// not for others.
func (h *podHandler) allows(ctx context.Context, class *v1alpha1.EventStoreClass, name string) (bool, error) {
	if class.Spec.AllowedNamespaces == nil {
		return true, nil
	}
	selector, err := metav1.LabelSelectorAsSelector(&class.Spec.AllowedNamespaces.Selector)
	if err != nil {
		// Its stores say what is wrong with it.
		return false, nil
	}
	has, err := namespaces.Labels(ctx, h.cached, h.live, name)
	return err == nil && selector.Matches(has), err
}
