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

// Secrets with credentials are read in the operator's own namespace, and in
// another where the platform binds credentialsReader.
// +kubebuilder:rbac:groups="",namespace=aether-system,resources=secrets,verbs=get

// credentialsReader is the ClusterRole of config/rbac that lets the operator read
// the Secrets of a namespace, bound there by a RoleBinding.
const credentialsReader = "aether-operator-credentials-reader"

// connector finds the connection of a class.
type connector struct {
	// cached knows which classes there are.
	cached client.Reader
	// uncached reads past the cache, which holds only bindings: Secrets with
	// credentials are few and change seldom.
	uncached    client.Reader
	connections *stream.Connections
}

func (c connector) connect(ctx context.Context, class *v1alpha1.EventStoreClass) (*stream.Conn, error) {
	data, err := c.operatorCredentials(ctx, class)
	if err != nil {
		return nil, err
	}
	conn, err := c.connections.Get(ctx, stream.Target{Class: class.Name, Domain: class.Spec.Domain, System: systemOf(class), Servers: serversOf(class), Credentials: data})
	if err := c.checkThere(ctx, class); err != nil {
		return nil, err
	}
	return conn, err
}

func serversOf(class *v1alpha1.EventStoreClass) []string {
	servers := make([]string, len(class.Spec.Servers))
	for i, server := range class.Spec.Servers {
		servers[i] = string(server)
	}
	return servers
}

const operatorField = "spec.credentials"

// operatorCredentials are those with which the operator logs in to the servers of a
// class, nil where they ask for none.
func (c connector) operatorCredentials(ctx context.Context, class *v1alpha1.EventStoreClass) (map[string][]byte, error) {
	if class.Spec.Credentials == nil {
		return nil, nil
	}
	return c.credentials(ctx, operatorField, class, class.Spec.Credentials)
}

// checkThere looks whether a class is there still, once there is a connection for
// it: a pass that began before the class was deleted may make the connection after
// that of the class was closed, and nobody else would close it.
func (c connector) checkThere(ctx context.Context, class *v1alpha1.EventStoreClass) error {
	current := &v1alpha1.EventStoreClass{}
	err := c.cached.Get(ctx, client.ObjectKeyFromObject(class), current)
	switch {
	case apierrors.IsNotFound(err):
		c.connections.Forget(class.Name)
	case err != nil:
		return fmt.Errorf("read EventStoreClass %s: %w", class.Name, err)
	case current.UID == class.UID:
		return nil
	}
	return stream.ClassGone(class.Name)
}

// credentials reads the Secret that a field of a class names.
func (c connector) credentials(ctx context.Context, field string, class *v1alpha1.EventStoreClass, from *v1alpha1.Credentials) (map[string][]byte, error) {
	secret := &corev1.Secret{}
	key := client.ObjectKey{Namespace: from.SecretRef.Namespace, Name: from.SecretRef.Name}
	switch err := c.uncached.Get(ctx, key, secret); {
	case apierrors.IsNotFound(err):
		return nil, stream.Stalled(v1alpha1.ReasonCredentialsInvalid,
			"the Secret %s that %s of EventStoreClass %s names does not exist: create it, or correct the reference", key, field, class.Name)
	case apierrors.IsForbidden(err):
		return nil, stream.Stalled(v1alpha1.ReasonCredentialsInvalid,
			"the operator may not read the Secret %s that %s of EventStoreClass %s names: %w: bind the ClusterRole %s to the operator's ServiceAccount with a RoleBinding in namespace %s, or name a Secret in the operator's own namespace",
			key, field, class.Name, err, credentialsReader, key.Namespace)
	case err != nil:
		return nil, fmt.Errorf("read the Secret %s that %s of EventStoreClass %s names: %w", key, field, class.Name, err)
	}
	if len(secret.Data) == 0 {
		return nil, stream.Stalled(v1alpha1.ReasonCredentialsInvalid,
			"the Secret %s that %s of EventStoreClass %s names is empty: give it credentials", key, field, class.Name)
	}
	return secret.Data, nil
}
