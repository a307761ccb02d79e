// Package namespaces says what is kept in memory of the Namespaces of a cluster, and
// how their labels are read.
package namespaces

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"unique"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

const (
	// maxLabelBytes is how much of keys and values is kept. Namespaces have some hundred
	// bytes of labels; who may make one may give it a megabyte.
	maxLabelBytes = 2 << 10
	// labelsLeftOut is an annotation of a Namespace in memory, a digest of labels that are
	// not kept. No other annotation is, so nobody else can put it there.
	labelsLeftOut = "labels-left-out"
)

// Slim keeps of the metadata of a Namespace, a *metav1.PartialObjectMetadata, what is
// read: whose it is and its labels. It is a transform of a cache, and may be asked about
// what it gave.
func Slim(object any) (any, error) {
	namespace, ok := object.(*metav1.PartialObjectMetadata)
	if !ok {
		return object, nil
	}
	kept := &metav1.PartialObjectMetadata{
		TypeMeta: namespace.TypeMeta,
		ObjectMeta: metav1.ObjectMeta{
			Name: namespace.Name, UID: namespace.UID, ResourceVersion: namespace.ResourceVersion, DeletionTimestamp: namespace.DeletionTimestamp,
		},
	}
	switch digest, isSlim := namespace.Annotations[labelsLeftOut]; {
	case isSlim && len(namespace.Labels) == 0 && len(namespace.Annotations) == 1 && len(digest) == hex.EncodedLen(sha256.Size):
		kept.Annotations = namespace.Annotations
	case size(namespace.Labels) > maxLabelBytes:
		kept.Annotations = map[string]string{labelsLeftOut: digestOf(namespace.Labels)}
	case len(namespace.Labels) > 0:
		kept.Labels = make(map[string]string, len(namespace.Labels))
		for key, value := range namespace.Labels {
			kept.Labels[shared(key)] = shared(value)
		}
	}
	return kept, nil
}

// shared lets all Namespaces share the texts that most of them have, and lets go of the
// message that a text is a part of.
func shared(text string) string { return unique.Make(text).Value() }

func size(labels map[string]string) int {
	size := 0
	for key, value := range labels {
		size += len(key) + len(value)
	}
	return size
}

func digestOf(labels map[string]string) string {
	encoded, err := json.Marshal(labels)
	if err != nil {
		// A map of texts: only a mistake in the code can fail here.
		panic(fmt.Sprintf("encode the labels of a Namespace: %v", err))
	}
	sum := sha256.Sum256(encoded)
	return hex.EncodeToString(sum[:])
}

// Labels gives the labels of a Namespace: those in memory, or those at the API server
// where they are too many to be kept. An error says that the Namespace does not exist, as
// far as is known, or that it could not be read.
func Labels(ctx context.Context, cached, live client.Reader, name string) (labels.Set, error) {
	namespace := &metav1.PartialObjectMetadata{}
	namespace.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Namespace"))
	if err := cached.Get(ctx, client.ObjectKey{Name: name}, namespace); err != nil {
		return nil, fmt.Errorf("read Namespace %s: %w", name, err)
	}
	if _, left := namespace.Annotations[labelsLeftOut]; !left {
		return namespace.Labels, nil
	}
	current, err := Live(ctx, live, name)
	if err != nil {
		return nil, err
	}
	return current.Labels, nil
}

// Live reads the metadata of a Namespace past the cache. It lists, since the operator may
// not get Namespaces, nor needs to.
func Live(ctx context.Context, live client.Reader, name string) (*metav1.PartialObjectMetadata, error) {
	found := &metav1.PartialObjectMetadataList{}
	found.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("NamespaceList"))
	if err := live.List(ctx, found, client.MatchingFields{"metadata.name": name}); err != nil {
		return nil, fmt.Errorf("read Namespace %s: %w", name, err)
	}
	if len(found.Items) == 0 {
		return nil, fmt.Errorf("read Namespace %s: it does not exist", name)
	}
	return &found.Items[0], nil
}
