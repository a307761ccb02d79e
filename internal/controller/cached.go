package controller

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"unique"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/namespaces"
)

// CacheOptions keeps only what the controllers watch in memory: of the Secrets,
// only bindings. Secrets with credentials are read live.
//
// Whoever may write in one namespace, or may make some, decides how many of these objects
// there are, and what is in them: up to a megabyte each. So of metadata no more is kept
// than two kilobytes, whatever it holds, and the CRD bounds spec. Each transform may be asked
// about what it gave.
func CacheOptions() cache.Options {
	return cache.Options{
		ReaderFailOnMissingInformer: true,
		NewInformer:                 newPagedInformer(),
		// Nothing here reads who wrote which field, and it is half of an object.
		DefaultTransform: cache.TransformStripManagedFields(),
		ByObject: map[client.Object]cache.ByObject{
			&v1alpha1.EventStore{}: {Transform: slim},
			&corev1.Namespace{}:    {Transform: namespaces.Slim},
			&corev1.Secret{}:       {Field: fields.OneTermEqualSelector("type", v1alpha1.BindingSecretType), Transform: slimBinding},
		},
	}
}

// slim takes off an EventStore what nothing here reads, and lets all of them share
// the texts that most of them have: with thousands it is a third of the memory. Who writes
// anything of the metadata reads it live before.
func slim(object any) (any, error) {
	store, ok := object.(*v1alpha1.EventStore)
	if !ok {
		return object, nil
	}
	store.ManagedFields, store.Labels, store.OwnerReferences = nil, nil, nil
	store.Annotations = slimAnnotations(store.Annotations)
	store.Finalizers = slices.DeleteFunc(store.Finalizers, func(f string) bool { return f != v1alpha1.Finalizer })
	store.Finalizers = slices.Clip(slices.Compact(store.Finalizers))
	for i := range store.Spec.Access {
		e := &store.Spec.Access[i]
		e.ServiceAccount, e.Namespace, e.Role = shared(e.ServiceAccount), shared(e.Namespace), v1alpha1.Role(shared(string(e.Role)))
	}
	for i := range store.Status.Conditions {
		c := &store.Status.Conditions[i]
		c.Type, c.Reason, c.Message = shared(c.Type), shared(c.Reason), shared(c.Message)
		c.Status = metav1.ConditionStatus(shared(string(c.Status)))
	}
	if e := store.Status.Effective; e != nil {
		e.Retention.MaxAge, e.DuplicateWindow = shared(e.Retention.MaxAge), shared(e.DuplicateWindow)
		e.Storage, e.Compression = v1alpha1.Storage(shared(string(e.Storage))), v1alpha1.Compression(shared(string(e.Compression)))
		e.Protection, e.DeletionPolicy = v1alpha1.Protection(shared(string(e.Protection))), v1alpha1.DeletionPolicy(shared(string(e.DeletionPolicy)))
		e.ManagementPolicy = v1alpha1.ManagementPolicy(shared(string(e.ManagementPolicy)))
		e.AdoptionPolicy = v1alpha1.AdoptionPolicy(shared(string(e.AdoptionPolicy)))
	}
	for i := range store.Status.Streams {
		s := &store.Status.Streams[i]
		s.MaxAge, s.Leader = shared(s.MaxAge), shared(s.Leader)
		for j := range s.Replicas {
			s.Replicas[j].Name = shared(s.Replicas[j].Name)
		}
	}
	store.APIVersion, store.Kind, store.Namespace = shared(store.APIVersion), shared(store.Kind), shared(store.Namespace)
	store.Status.ClassName, store.Status.Namespace, store.Status.System = shared(store.Status.ClassName), shared(store.Status.Namespace), shared(store.Status.System)
	return store, nil
}

func shared(text string) string { return unique.Make(text).Value() }

const (
	// otherAnnotations stands in the cache for the annotations that are not ours: one that
	// changes wakes the store. The API server lets no key with a blank through, so nobody
	// else can put it there.
	otherAnnotations = "digest of others"
	// maxAnnotation bounds what is kept of an annotation of ours. A longer one has no
	// meaning.
	maxAnnotation = 256
)

func slimAnnotations(annotations map[string]string) map[string]string {
	if _, isSlim := annotations[otherAnnotations]; isSlim || len(annotations) == 0 {
		return annotations
	}
	kept := map[string]string{}
	if accepted, ok := annotations[v1alpha1.AnnotationAcceptDataLoss]; ok {
		// The clone lets go of the text that it is a part of.
		kept[v1alpha1.AnnotationAcceptDataLoss] = strings.Clone(accepted[:min(len(accepted), maxAnnotation)])
	}
	delete(annotations, v1alpha1.AnnotationAcceptDataLoss)
	delete(annotations, corev1.LastAppliedConfigAnnotation)
	if len(annotations) > 0 {
		kept[otherAnnotations] = digest(annotations)
	}
	return kept
}

// bindingDigest is where a binding in the cache has what it holds. The API server never
// gives anything in stringData, so nobody else can put it there.
const bindingDigest = "digest"

// slimBinding keeps of a binding whose it is, and a digest of what it holds: that tells
// whether it is as it should be. Its content is read live when it is not.
func slimBinding(object any) (any, error) {
	secret, ok := object.(*corev1.Secret)
	if !ok || secret.StringData != nil {
		return object, nil
	}
	kept := &corev1.Secret{
		TypeMeta: secret.TypeMeta,
		ObjectMeta: metav1.ObjectMeta{
			Namespace: secret.Namespace, Name: secret.Name, UID: secret.UID, ResourceVersion: secret.ResourceVersion,
			DeletionTimestamp: secret.DeletionTimestamp,
		},
		Type:       secret.Type,
		StringData: map[string]string{bindingDigest: digestOfBinding(secret)},
	}
	// It says which store to wake. One that no store can have written may be of any size.
	if owner := metav1.GetControllerOf(secret); owner != nil && len(owner.APIVersion)+len(owner.Kind)+len(owner.Name)+len(owner.UID) <= maxOwner {
		kept.OwnerReferences = []metav1.OwnerReference{*owner}
	}
	return kept, nil
}

// maxOwner is more than a reference to an EventStore has: its name has 253 bytes at most.
const maxOwner = 512

// digestOfBinding is of all that the operator writes into a binding.
func digestOfBinding(secret *corev1.Secret) string {
	return digest([]any{secret.Data, secret.OwnerReferences})
}

func digest(content any) string {
	encoded, err := json.Marshal(content)
	if err != nil {
		// Maps of texts: only a mistake in the code can fail here.
		panic(fmt.Sprintf("encode what a digest is made of: %v", err))
	}
	sum := sha256.Sum256(encoded)
	return hex.EncodeToString(sum[:])
}
