package access

import (
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/stream"
)

// Identity is who a pod is: what its token proves.
type Identity struct {
	// Namespace and ServiceAccount name the service account.
	Namespace, ServiceAccount string
	// PodName and PodUID are of the pod that the token is bound to.
	PodName, PodUID string
}

// String is how Kubernetes writes the service account.
func (i Identity) String() string {
	return "system:serviceaccount:" + i.Namespace + ":" + i.ServiceAccount
}

// Decision is what a connection is granted, and why it is not what it asked for.
type Decision struct {
	Grants []Grant
	// Refusals say of each stream that is not granted why.
	Refusals []string
}

// Decide says which of the streams of events that a pod wants it may use. stores
// are those of the class with one of these streams.
func Decide(stores []v1alpha1.EventStore, identity Identity, wanted []string) Decision {
	var d Decision
	for _, stream := range wanted {
		if grant, refusal := decide(stores, identity, stream); refusal == "" {
			d.Grants = append(d.Grants, grant)
		} else {
			d.Refusals = append(d.Refusals, refusal)
		}
	}
	return d
}

func decide(stores []v1alpha1.EventStore, identity Identity, stream string) (Grant, string) {
	store, refusal := holder(stores, stream)
	role := v1alpha1.Role("")
	if store != nil {
		role = RoleOf(store, identity.Namespace, identity.ServiceAccount)
	}
	switch {
	case role == "" && !concerns(stores, store, identity.Namespace, stream):
		// What there is in another namespace is nobody's business, nor that there is nothing.
		return Grant{}, fmt.Sprintf("%s may not use stream %q: there is no EventStore of the class that has this stream and names the service account in spec.access", identity, stream)
	case store == nil:
		return Grant{}, refusal
	case role == "":
		return Grant{}, fmt.Sprintf("%s may not use EventStore %s/%s: name it in spec.access", identity, store.Namespace, store.Name)
	case refusal != "":
		return Grant{}, refusal
	}
	return Grant{Stream: stream, SnapshotStream: store.SnapshotsStreamName(), Role: role}, ""
}

// concerns says whether a namespace may know what there is of a stream: the store that has
// it is there or, where none can be said to, one that claims it.
func concerns(stores []v1alpha1.EventStore, holder *v1alpha1.EventStore, namespace, stream string) bool {
	if holder != nil {
		return holder.Namespace == namespace
	}
	return slices.ContainsFunc(stores, func(s v1alpha1.EventStore) bool {
		return s.Namespace == namespace && s.EventsStreamName() == stream
	})
}

// holder finds the store that has a stream, and says why it cannot be used, empty
// where it can. That its spec names the stream does not make it the store's:
// another may have been first, in another namespace.
func holder(stores []v1alpha1.EventStore, stream string) (found *v1alpha1.EventStore, refusal string) {
	refusal = fmt.Sprintf("no EventStore of the class has stream %q", stream)
	usable := false
	for i := range stores {
		store := &stores[i]
		if store.EventsStreamName() != stream {
			continue
		}
		reason := unusable(store)
		switch {
		case reason == "" && usable:
			// The operator lets one of them have the stream. Until it has said which,
			// neither is taken at its word.
			return nil, fmt.Sprintf("more than one EventStore claims stream %q", stream)
		case reason == "":
			found, refusal, usable = store, "", true
		case found == nil:
			found, refusal = store, fmt.Sprintf("EventStore %s/%s cannot be used: %s", store.Namespace, store.Name, reason)
		}
	}
	return found, refusal
}

// unusable says why a store grants nobody anything, empty where it does.
func unusable(store *v1alpha1.EventStore) string {
	if !store.DeletionTimestamp.IsZero() {
		return "it is being deleted"
	}
	ready := meta.FindStatusCondition(store.Status.Conditions, v1alpha1.ConditionReady)
	if ready != nil && NotOurs(ready.Reason) {
		return ready.Message
	}
	// The binding is written once the streams are claimed, and stays on record when
	// NATS is out of reach.
	if store.Status.Binding == nil {
		return "its streams are not made yet"
	}
	return ""
}

// NotOurs says whether a store that is not Ready for a reason lets nobody in: the streams
// that it names are not its own, or it may not use them any more.
func NotOurs(reason string) bool { return slices.Contains(notOurs, reason) }

var notOurs = []string{
	v1alpha1.ReasonConflict, v1alpha1.ReasonNotOwned, v1alpha1.ReasonTenancyForbidden, v1alpha1.ReasonNotGivenBack, v1alpha1.ReasonOnAnotherClass, v1alpha1.ReasonClassNotAllowed, v1alpha1.ReasonClassNotFound,
}

// RoleOf is what a service account may do with a store, empty for nothing. Where
// two entries name it the larger counts.
func RoleOf(store *v1alpha1.EventStore, namespace, serviceAccount string) v1alpha1.Role {
	if store.Spec.Access == nil {
		if namespace == store.Namespace {
			return v1alpha1.RoleWriter
		}
		return ""
	}
	var role v1alpha1.Role
	for _, entry := range store.Spec.Access {
		of := entry.Namespace
		if of == "" {
			of = store.Namespace
		}
		if of != namespace || entry.ServiceAccount != serviceAccount {
			continue
		}
		if entry.Role == v1alpha1.RoleReader && role == "" {
			role = v1alpha1.RoleReader
		}
		if entry.Role == v1alpha1.RoleWriter {
			role = v1alpha1.RoleWriter
		}
	}
	return role
}

// Limits of what a connection asks for: a sidecar has a connection for every 1,024
// bytes of names.
const (
	maxWantedBytes = 2048
	maxWanted      = 256
)

// Wanted reads the streams of events that a connection asks for, from where it names
// them: the user of CONNECT. It refuses what cannot be the name of one.
func Wanted(user string) ([]string, error) {
	if len(user) > maxWantedBytes {
		return nil, refused("it asks for streams in %d bytes: at most %d are allowed", len(user), maxWantedBytes)
	}
	var wanted []string
	for stream := range strings.SplitSeq(user, ",") {
		if stream == "" || slices.Contains(wanted, stream) {
			continue
		}
		if !isEventsStream(stream) {
			return nil, refused("it asks for %q, which is not the name of a stream of events", clip(stream))
		}
		wanted = append(wanted, stream)
	}
	if len(wanted) > maxWanted {
		return nil, refused("it asks for %d streams: at most %d are allowed", len(wanted), maxWanted)
	}
	slices.Sort(wanted)
	return wanted, nil
}

// isEventsStream says whether a name can be that of a stream of events.
func isEventsStream(name string) bool {
	for _, c := range []byte(name) {
		if !('a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '-' || c == '_') {
			return false
		}
	}
	events, ok := stream.StoreOfStream(name)
	return ok && events == name
}
