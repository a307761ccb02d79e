package stream

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
)

// Owner is the EventStore that a stream's metadata names.
type Owner struct {
	UID             types.UID
	Namespace, Name string
	Home            Home
}

// Home is where an EventStore is, for all time: names of namespaces are used again,
// and every cluster may have the same ones.
type Home struct {
	// Namespace is the uid of the Kubernetes namespace, and Cluster that of the
	// namespace kube-system. Empty is unknown.
	Namespace, Cluster types.UID
}

// OwnerOf is an EventStore as an owner.
func OwnerOf(store *v1alpha1.EventStore, home Home) Owner {
	return Owner{UID: store.UID, Namespace: store.Namespace, Name: store.Name, Home: home}
}

// RecordedOwner reads the owner from a stream's metadata; false when it names
// none.
func RecordedOwner(metadata map[string]string) (Owner, bool) {
	owner := Owner{
		UID:       types.UID(metadata[v1alpha1.MetadataUID]),
		Namespace: metadata[v1alpha1.MetadataNamespace],
		Name:      metadata[v1alpha1.MetadataName],
		Home: Home{
			Namespace: types.UID(metadata[v1alpha1.MetadataNamespaceUID]),
			Cluster:   types.UID(metadata[v1alpha1.MetadataClusterUID]),
		},
	}
	return owner, owner != Owner{}
}

// String names the EventStore as kubectl would.
func (o Owner) String() string { return o.Namespace + "/" + o.Name }

// metadata is what a stream carries of its owner, and of what becomes of it with that.
func (o Owner) metadata(policy v1alpha1.DeletionPolicy) map[string]string {
	return map[string]string{
		v1alpha1.MetadataUID:            string(o.UID),
		v1alpha1.MetadataNamespace:      o.Namespace,
		v1alpha1.MetadataName:           o.Name,
		v1alpha1.MetadataNamespaceUID:   string(o.Home.Namespace),
		v1alpha1.MetadataClusterUID:     string(o.Home.Cluster),
		v1alpha1.MetadataSchema:         Schema,
		v1alpha1.MetadataDeletionPolicy: string(policy),
	}
}

// Ownership is whose a stream is, from the point of view of one EventStore.
type Ownership int

const (
	// Absent: there is no such stream.
	Absent Ownership = iota
	// Ours: the stream is ours.
	Ours
	// OursBefore: the stream is that of an earlier resource of our name in our very
	// namespace, which was deleted; applied again, it takes its streams back.
	OursBefore
	// OursElsewhere: the stream is that of a resource of our namespace and name, and
	// that namespace is another one: an earlier one that was deleted, or one of another
	// cluster. Nothing but the names says that it is ours.
	OursElsewhere
	// Anothers: the stream belongs to another EventStore.
	Anothers
	// Nobodys: the stream names no owner.
	Nobodys
)

// OwnershipOf decides whose a stream is. seen is what the status of the EventStore
// records of it, nil for nothing.
func OwnershipOf(self Owner, live *jetstream.StreamInfo, seen *v1alpha1.StreamStatus) Ownership {
	if live == nil {
		return Absent
	}
	recorded, named := RecordedOwner(live.Config.Metadata)
	switch {
	case recorded.UID == self.UID && named:
		return Ours
	case recorded.Namespace == self.Namespace && recorded.Name == self.Name && named:
		if recorded.Home == self.Home {
			return OursBefore
		}
		return OursElsewhere
	case named:
		return Anothers
	case seen != nil && sameStream(seen, live):
		// Somebody edited the owner away: the time of its creation still tells that
		// it is the stream we had.
		return Ours
	default:
		return Nobodys
	}
}

// sameStream compares the time of creation, which is a stream's identity, as
// exactly as a status can hold it.
func sameStream(seen *v1alpha1.StreamStatus, live *jetstream.StreamInfo) bool {
	return sameTime(seen.Created, live.Created)
}

func sameTime(recorded *metav1.MicroTime, created time.Time) bool {
	return recorded != nil && recorded.Time.Equal(created.Truncate(time.Microsecond))
}

// Eldest gives the EventStore, of several that name one stream, that may create
// it: the oldest, and among those of one second the one with the smaller uid.
// Resources that are being deleted do not count. Nil when none is left.
func Eldest(stores []*v1alpha1.EventStore) *v1alpha1.EventStore {
	alive := slices.DeleteFunc(slices.Clone(stores), func(s *v1alpha1.EventStore) bool {
		return !s.DeletionTimestamp.IsZero()
	})
	if len(alive) == 0 {
		return nil
	}
	return slices.MinFunc(alive, func(a, b *v1alpha1.EventStore) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), strings.Compare(string(a.UID), string(b.UID)))
	})
}

// StoreOfStream gives the name of the stream of events behind the name of either
// stream of a store: names of Kubernetes hold no '_', so the parts of ours can
// be told apart. False when the name cannot be ours.
func StoreOfStream(name string) (events string, ok bool) {
	parts := strings.Split(name, "_")
	switch {
	case len(parts) == 2:
		return name, true
	case len(parts) == 3 && parts[2] == "snapshots":
		return parts[0] + "_" + parts[1], true
	default:
		return "", false
	}
}
