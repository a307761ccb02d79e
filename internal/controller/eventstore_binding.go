package controller

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/stream"
)

// keepBinding writes the binding of streams that are there and ours, whatever holds
// the plan back: pods that use them go on, and new ones start. What fails of it holds
// nothing up, and is told by bind.
func (p *pass) keepBinding(ctx context.Context) error {
	if !p.hasOurs() {
		return nil
	}
	p.isBound, p.bindingErr = true, p.writeBinding(ctx)
	if _, isFault := stream.AsFault(p.bindingErr); p.bindingErr != nil && p.hold != nil && !isFault {
		// Nobody else would tell of it.
		return p.bindingErr
	}
	return nil
}

// hasOurs says whether the binding leads to streams that are ours, or were until they
// were lost.
func (p *pass) hasOurs() bool {
	ours := p.hold != nil && p.store.Status.Binding != nil
	for i, live := range p.live {
		switch {
		case live == nil:
		case p.adopting[i], stream.OwnershipOf(p.self(), live, nil) == stream.Anothers:
			return false
		default:
			ours = true
		}
	}
	return ours
}

// bind sees to the binding, once.
func (p *pass) bind(ctx context.Context) error {
	if !p.isBound {
		p.isBound, p.bindingErr = true, p.writeBinding(ctx)
	}
	return p.bindingErr
}

// writeBinding writes the Secret that workloads read.
func (p *pass) writeBinding(ctx context.Context) error {
	data, err := p.bindingData(ctx)
	if err != nil {
		return err
	}
	name := v1alpha1.BindingName(p.store.Name)
	key := client.ObjectKey{Namespace: p.store.Namespace, Name: name}
	wanted := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: key.Namespace, Name: key.Name}, Type: v1alpha1.BindingSecretType, Data: data,
	}
	if err := controllerutil.SetControllerReference(p.store, wanted, p.Scheme()); err != nil {
		return fmt.Errorf("own the binding Secret %s: %w", key, err)
	}
	cached := &corev1.Secret{}
	err = p.Get(ctx, key, cached)
	if err == nil && cached.StringData[bindingDigest] == digestOfBinding(wanted) {
		return p.bound(name, nil)
	}
	if apierrors.IsNotFound(err) {
		if err = p.createBinding(ctx, wanted); !apierrors.IsAlreadyExists(err) {
			return p.bound(name, err)
		}
		err = nil
	}
	var existing *corev1.Secret
	if err == nil {
		existing, err = p.liveBinding(ctx, key)
	}
	switch {
	case err != nil:
		return fmt.Errorf("read the binding Secret %s: %w", key, err)
	case existing == nil && cached.UID != "":
		return apierrors.NewConflict(corev1.Resource("secrets"), name, errors.New("the cache is behind"))
	case existing == nil:
		return p.bound(name, bindingConflict(key))
	}
	return p.bound(name, p.updateBinding(ctx, existing, wanted))
}

// liveBinding reads a binding: the cache has no content, and may not have seen it yet. It
// is nil where there is none, also where a Secret of another type has the name, whose
// content is nobody's business here. A list by name and type needs no right to get Secrets.
func (p *pass) liveBinding(ctx context.Context, key client.ObjectKey) (*corev1.Secret, error) {
	var bindings corev1.SecretList
	binding := client.MatchingFields{"metadata.name": key.Name, "type": v1alpha1.BindingSecretType}
	if err := p.uncached.List(ctx, &bindings, client.InNamespace(key.Namespace), binding); err != nil {
		return nil, err
	}
	if len(bindings.Items) == 0 {
		return nil, nil
	}
	return &bindings.Items[0], nil
}

func bindingConflict(key client.ObjectKey) error {
	return stream.Stalled(v1alpha1.ReasonBindingConflict,
		"the Secret %s exists and is not a binding of this EventStore, so it is not touched: rename the Secret or this EventStore", key)
}

func (p *pass) bound(name string, err error) error {
	if err == nil {
		p.store.Status.Binding = &v1alpha1.Binding{Name: name}
	}
	return err
}

// bindingData is what a workload needs, and nothing of the operator's own.
func (p *pass) bindingData(ctx context.Context) (map[string][]byte, error) {
	workloads := p.class.Spec.Workloads
	servers := workloads.Servers
	if len(servers) == 0 {
		servers = p.class.Spec.Servers
	}
	urls := make([]string, len(servers))
	for i, server := range servers {
		urls[i] = string(server)
	}
	data, err := p.bindingProof(ctx)
	if err != nil {
		return nil, err
	}
	if domain := p.class.WorkloadDomain(); domain != "" {
		data[v1alpha1.BindingKeyDomain] = []byte(domain)
	}
	maps.Copy(data, map[string][]byte{
		v1alpha1.BindingKeyType:           []byte("eventstore"),
		v1alpha1.BindingKeyProvider:       []byte("nats"),
		v1alpha1.BindingKeyServers:        []byte(strings.Join(urls, ",")),
		v1alpha1.BindingKeyNamespace:      []byte(p.store.EventNamespace()),
		v1alpha1.BindingKeyStream:         []byte(p.store.EventsStreamName()),
		v1alpha1.BindingKeySnapshotStream: []byte(p.store.SnapshotsStreamName()),
	})
	return data, nil
}

// bindingProof is how a workload proves who it is. One with a service account
// token needs nothing that is secret, and gets nothing.
func (p *pass) bindingProof(ctx context.Context) (map[string][]byte, error) {
	data := map[string][]byte{}
	workloads := p.class.Spec.Workloads
	switch {
	case workloads.Access == v1alpha1.AccessSecret && workloads.Credentials != nil:
		credentials, err := p.credentials(ctx, "spec.workloads.credentials", p.class, workloads.Credentials)
		if err != nil {
			return nil, err
		}
		copyKeys(data, credentials, credentialKeys...)
	case workloads.Access == v1alpha1.AccessServiceAccount && workloads.Callout != nil:
		data[v1alpha1.BindingKeyAccess] = []byte(v1alpha1.AccessServiceAccount)
		credentials, err := p.credentials(ctx, calloutField, p.class, &v1alpha1.Credentials{SecretRef: workloads.Callout.SecretRef})
		if err != nil {
			return nil, err
		}
		copyKeys(data, credentials, v1alpha1.CredentialsKeyCA)
	}
	return data, nil
}

func copyKeys(to, from map[string][]byte, keys ...string) {
	for _, key := range keys {
		if value, ok := from[key]; ok {
			to[key] = value
		}
	}
}

// credentialKeys are what is copied of a Secret with credentials.
var credentialKeys = []string{
	v1alpha1.CredentialsKeyCreds, v1alpha1.CredentialsKeyUsername, v1alpha1.CredentialsKeyPassword, v1alpha1.CredentialsKeyToken,
	v1alpha1.CredentialsKeyNKey, v1alpha1.CredentialsKeyTLSCert, v1alpha1.CredentialsKeyTLSKey, v1alpha1.CredentialsKeyCA,
}

func (p *pass) createBinding(ctx context.Context, wanted *corev1.Secret) error {
	key := client.ObjectKeyFromObject(wanted)
	if err := p.Create(ctx, wanted.DeepCopy()); err != nil {
		return fmt.Errorf("create the binding Secret %s: %w", key, err)
	}
	if p.store.Status.Binding != nil {
		p.tell(normal, "BindingWritten", "WriteBinding", "Wrote Secret %s again", key.Name)
	}
	return nil
}

func (p *pass) updateBinding(ctx context.Context, existing, wanted *corev1.Secret) error {
	key := client.ObjectKeyFromObject(existing)
	if !p.ownsBinding(existing) {
		return bindingConflict(key)
	}
	changed := existing.DeepCopy()
	changed.Data, changed.OwnerReferences = wanted.Data, wanted.OwnerReferences
	if reflect.DeepEqual(existing.Data, changed.Data) && reflect.DeepEqual(existing.OwnerReferences, changed.OwnerReferences) {
		return nil
	}
	if existing.Immutable != nil && *existing.Immutable {
		return stream.Stalled(v1alpha1.ReasonBindingConflict,
			"the binding Secret %s is out of date and immutable, so that nobody can change it: delete it, and it is written again", key)
	}
	if err := p.Update(ctx, changed); err != nil {
		return fmt.Errorf("update the binding Secret %s: %w", key, err)
	}
	p.tell(normal, "BindingWritten", "WriteBinding", "Wrote Secret %s", key.Name)
	return nil
}

// ownsBinding: a Secret is ours by its owner, also when that is an earlier
// EventStore of this name that the garbage collector has not caught up with. One without
// an owner is ours when our status names it, or when it leads to our stream, as what a tool
// for backups has restored does: that keeps neither owners nor the status.
func (p *pass) ownsBinding(secret *corev1.Secret) bool {
	if secret.Type != v1alpha1.BindingSecretType {
		return false
	}
	owner := metav1.GetControllerOf(secret)
	if owner == nil {
		return p.store.Status.Binding != nil && p.store.Status.Binding.Name == secret.Name ||
			string(secret.Data[v1alpha1.BindingKeyStream]) == p.store.EventsStreamName()
	}
	version, err := schema.ParseGroupVersion(owner.APIVersion)
	return err == nil && version.Group == v1alpha1.GroupVersion.Group && owner.Kind == "EventStore" && owner.Name == p.store.Name
}
