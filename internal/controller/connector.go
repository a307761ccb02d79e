package controller

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/stream"
)

// connector finds the connection of a class.
type connector struct {
	// uncached reads past the cache, which holds only bindings: Secrets with
	// credentials are few and change seldom.
	uncached    client.Reader
	connections *stream.Connections
}

func (c connector) connect(ctx context.Context, class *v1alpha1.EventStoreClass) (*stream.Conn, error) {
	target := stream.Target{Class: class.Name, Domain: class.Spec.Domain}
	for _, server := range class.Spec.Servers {
		target.Servers = append(target.Servers, string(server))
	}
	if class.Spec.Credentials != nil {
		data, err := c.credentials(ctx, "spec.credentials", class, class.Spec.Credentials)
		if err != nil {
			return nil, err
		}
		target.Credentials = data
	}
	return c.connections.Get(ctx, target)
}

// credentials reads the Secret that a field of a class names.
func (c connector) credentials(ctx context.Context, field string, class *v1alpha1.EventStoreClass, from *v1alpha1.Credentials) (map[string][]byte, error) {
	secret := &corev1.Secret{}
	key := client.ObjectKey{Namespace: from.SecretRef.Namespace, Name: from.SecretRef.Name}
	if err := c.uncached.Get(ctx, key, secret); apierrors.IsNotFound(err) {
		return nil, stream.Stalled(v1alpha1.ReasonCredentialsInvalid,
			"the Secret %s that %s of EventStoreClass %s names does not exist: create it, or correct the reference", key, field, class.Name)
	} else if err != nil {
		return nil, fmt.Errorf("read the Secret %s that %s of EventStoreClass %s names: %w", key, field, class.Name, err)
	}
	if len(secret.Data) == 0 {
		return nil, stream.Stalled(v1alpha1.ReasonCredentialsInvalid,
			"the Secret %s that %s of EventStoreClass %s names is empty: give it credentials", key, field, class.Name)
	}
	return secret.Data, nil
}
