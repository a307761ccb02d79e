package controller

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/namespaces"
	"git.flowmade.one/flowmade-one/aether-operator/internal/stream"
)

// resolveClass finds the class of the store.
func (p *pass) resolveClass(ctx context.Context) error {
	p.store.Status.Namespace = p.store.EventNamespace()
	name := classInUse(p.store)
	if name == "" {
		chosen, err := p.defaultClass(ctx)
		if err != nil {
			return p.disconnected(err)
		}
		name = chosen
	}
	class := &v1alpha1.EventStoreClass{}
	if err := p.Get(ctx, client.ObjectKey{Name: name}, class); apierrors.IsNotFound(err) {
		return p.disconnected(p.classNotFound(ctx, name))
	} else if err != nil {
		return fmt.Errorf("read EventStoreClass %s: %w", name, err)
	}
	p.class, p.store.Status.ClassName = class, name
	p.warnOfAccess()
	return nil
}

func (p *pass) classNotFound(ctx context.Context, name string) error {
	names, _, err := p.classNames(ctx)
	if err != nil {
		return err
	}
	return stream.Stalled(v1alpha1.ReasonClassNotFound,
		"EventStoreClass %q does not exist (%s): %s", name, names, p.classWayOut())
}

// warnOfAccess tells who lists service accounts that nobody asks pods for them.
func (p *pass) warnOfAccess() {
	conditions := &p.store.Status.Conditions
	if len(p.store.Spec.Access) == 0 || p.class.Spec.Workloads.Access == v1alpha1.AccessServiceAccount {
		meta.RemoveStatusCondition(conditions, v1alpha1.ConditionAccessIgnored)
		return
	}
	message := fmt.Sprintf("spec.access is not enforced: workloads.access of EventStoreClass %s is %s, so that pods do not say which service account they are of; use a class with ServiceAccount, or take spec.access out",
		p.class.Name, cmp.Or(p.class.Spec.Workloads.Access, v1alpha1.AccessNone))
	if !meta.IsStatusConditionTrue(*conditions, v1alpha1.ConditionAccessIgnored) {
		p.tell(warning, v1alpha1.ReasonAccessNotEnforced, "Reconcile", "%s", message)
	}
	setCondition(conditions, v1alpha1.ConditionAccessIgnored, metav1.ConditionTrue, v1alpha1.ReasonAccessNotEnforced, message)
}

// classWayOut is what to do where a class is missing.
func (p *pass) classWayOut() string {
	if !p.store.DeletionTimestamp.IsZero() {
		return "create it, so that the streams can be deleted"
	}
	return "create it, or delete this EventStore and apply it again with a className that exists"
}

func (p *pass) defaultClass(ctx context.Context) (string, error) {
	names, defaults, err := p.classNames(ctx)
	if err != nil {
		return "", err
	}
	switch len(defaults) {
	case 1:
		return defaults[0], nil
	case 0:
		return "", stream.Stalled(v1alpha1.ReasonNoDefaultClass,
			"spec.className is not set and no EventStoreClass is the default (%s): mark one with the annotation %s=true, or delete this EventStore and apply it again with a className",
			names, v1alpha1.AnnotationDefaultClass)
	default:
		return "", stream.Stalled(v1alpha1.ReasonSeveralDefaultClasses,
			"spec.className is not set and several EventStoreClasses are the default (%s): leave the annotation %s on one",
			strings.Join(defaults, ", "), v1alpha1.AnnotationDefaultClass)
	}
}

// classNames tells which classes exist, for a person, and which are the default.
func (p *pass) classNames(ctx context.Context) (told string, defaults []string, err error) {
	var classes v1alpha1.EventStoreClassList
	if err := p.List(ctx, &classes); err != nil {
		return "", nil, fmt.Errorf("list EventStoreClasses: %w", err)
	}
	var names []string
	for i := range classes.Items {
		names = append(names, classes.Items[i].Name)
		if classes.Items[i].IsDefault() {
			defaults = append(defaults, classes.Items[i].Name)
		}
	}
	slices.Sort(names)
	slices.Sort(defaults)
	if len(names) == 0 {
		return "there is no EventStoreClass", nil, nil
	}
	return "there are: " + strings.Join(names, ", "), defaults, nil
}

// checkAllowed goes on only where the class allows the namespace of the store.
func (p *pass) checkAllowed(ctx context.Context) error {
	selector, err := selectorOf(p.class)
	if selector == nil && err == nil {
		return nil
	}
	if err != nil {
		return p.notAllowed(stream.Stalled(v1alpha1.ReasonClassNotAllowed,
			"spec.allowedNamespaces.selector of EventStoreClass %s cannot be read, so it allows no namespace: %w: correct it", p.class.Name, err))
	}
	has, err := namespaces.Labels(ctx, p.Client, p.uncached, p.store.Namespace)
	if err != nil {
		return err
	}
	if selector.Matches(has) {
		return nil
	}
	return p.notAllowed(stream.Stalled(v1alpha1.ReasonClassNotAllowed,
		"EventStoreClass %s does not allow namespace %s, whose labels do not match %q: label the namespace, or delete this EventStore and apply it again with a className that allows it; what is stored is not touched",
		p.class.Name, p.store.Namespace, selector))
}

func (p *pass) notAllowed(fault *stream.Fault) error {
	p.disown(fault.Reason, fault.Error())
	return p.disconnected(fault)
}

// selectorOf selects the namespaces that a class allows, nil for all.
func selectorOf(class *v1alpha1.EventStoreClass) (labels.Selector, error) {
	if class.Spec.AllowedNamespaces == nil {
		return nil, nil
	}
	return metav1.LabelSelectorAsSelector(&class.Spec.AllowedNamespaces.Selector)
}

// connect finds the connection to the NATS system of the class.
func (p *pass) connect(ctx context.Context) error {
	conn, err := p.connector.connect(ctx, p.class)
	if err != nil {
		return p.disconnected(err)
	}
	p.conn = conn
	setCondition(&p.store.Status.Conditions, v1alpha1.ConditionConnected, metav1.ConditionTrue, v1alpha1.ReasonConnected,
		"Connected to the NATS system of EventStoreClass "+p.class.Name)
	return nil
}

// disconnected tells of a fault that keeps the operator from the NATS system.
func (p *pass) disconnected(err error) error {
	if fault, ok := stream.AsFault(err); ok {
		setCondition(&p.store.Status.Conditions, v1alpha1.ConditionConnected, metav1.ConditionFalse, fault.Reason, fault.Error())
	}
	return err
}
