package access

import (
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

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
	// Unproven are what would be granted if the streams were known to be the store's, of
	// which the operator has not looked yet: nobody new is let in, and who is in stays.
	Unproven []Grant
}

// Decide says which of the streams of events that a pod wants it may use. stores
// are those of the class with one of these streams, and system is the NATS system that
// the pod is to be let into; see v1alpha1.EventStoreStatus.
func Decide(stores []v1alpha1.EventStore, system string, identity Identity, wanted []string) Decision {
	var d Decision
	for _, stream := range wanted {
		grant, standing, refusal := decide(stores, system, identity, stream)
		if standing == usable {
			d.Grants = append(d.Grants, grant)
			continue
		}
		d.Refusals = append(d.Refusals, refusal)
		if standing == unproven {
			d.Unproven = append(d.Unproven, grant)
		}
	}
	return d
}

func decide(stores []v1alpha1.EventStore, system string, identity Identity, stream string) (Grant, standing, string) {
	store, standing, refusal := holder(stores, system, stream)
	role := v1alpha1.Role("")
	if store != nil {
		role = RoleOf(store, identity.Namespace, identity.ServiceAccount)
	}
	switch {
	case role == "" && !concerns(stores, store, identity.Namespace, stream):
		// What there is in another namespace is nobody's business, nor that there is nothing.
		return Grant{}, barred, fmt.Sprintf("%s may not use stream %q: there is no EventStore of the class that has this stream and names the service account in spec.access", identity, stream)
	case store == nil:
		return Grant{}, barred, refusal
	case role == "":
		return Grant{}, barred, fmt.Sprintf("%s may not use EventStore %s/%s: name it in spec.access", identity, store.Namespace, store.Name)
	}
	return Grant{Stream: stream, SnapshotStream: store.SnapshotsStreamName(), Role: role}, standing, refusal
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

// standing is what is known of a store and the stream that it names.
type standing int

const (
	// barred: it lets nobody in.
	barred standing = iota
	// unproven: whose the stream is on that NATS system nobody has looked yet.
	unproven
	// usable: the stream is the store's.
	usable
)

// holder finds the store that has a stream, and says why it cannot be used, empty
// where it can. That its spec names the stream does not make it the store's:
// another may have been first, in another namespace.
func holder(stores []v1alpha1.EventStore, system, stream string) (found *v1alpha1.EventStore, best standing, refusal string) {
	refusal = fmt.Sprintf("no EventStore of the class has stream %q", stream)
	for i := range stores {
		store := &stores[i]
		if store.EventsStreamName() != stream {
			continue
		}
		standing, reason := standingOf(store, system)
		switch {
		case standing == usable && best == usable:
			// The operator lets one of them have the stream. Until it has said which,
			// neither is taken at its word.
			return nil, barred, fmt.Sprintf("more than one EventStore claims stream %q", stream)
		case standing == usable:
			found, best, refusal = store, usable, ""
		case found == nil, standing > best, standing == best && store.Namespace == store.EventNamespace():
			found, best, refusal = store, standing, fmt.Sprintf("EventStore %s/%s cannot be used: %s", store.Namespace, store.Name, reason)
		}
	}
	return found, best, refusal
}

// standingOf says how a store stands, and why it grants nobody anything, empty where it
// does. What keeps the operator from looking changes nothing of it, nor does a pause.
func standingOf(store *v1alpha1.EventStore, system string) (standing, string) {
	owned := meta.FindStatusCondition(store.Status.Conditions, v1alpha1.ConditionStreamsOwned)
	proven := owned != nil && owned.Status == metav1.ConditionTrue
	switch {
	case !store.DeletionTimestamp.IsZero():
		return barred, "it is being deleted"
	case store.Status.System == system && owned != nil && owned.Status == metav1.ConditionFalse:
		return barred, owned.Message
	// The binding is written once the streams are claimed, and stays on record when
	// NATS is out of reach.
	case store.Status.Binding == nil:
		return unproven, "its streams are not made yet"
	case !proven || store.Status.System != system:
		return unproven, "the operator has not looked yet whose its streams are on the servers that the class leads to"
	}
	return usable, ""
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
