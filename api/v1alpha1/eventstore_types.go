package v1alpha1

import (
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// EventStoreSpec is what a team asks for.
//
// Where the class has defaults they count for a field that is left out, also one
// that is removed later; where it has none, those of the field.
//
// +kubebuilder:validation:XValidation:rule="has(self.storage) == has(oldSelf.storage)",message="is immutable, from unset to set as well: a stream cannot change its storage; create another EventStore instead",fieldPath=".storage",reason=FieldValueForbidden
// +kubebuilder:validation:XValidation:rule="has(self.namespace) == has(oldSelf.namespace)",message="is immutable, from unset to set as well: the events of a store belong to one event namespace for ever; create another EventStore instead",fieldPath=".namespace",reason=FieldValueForbidden
// +kubebuilder:validation:XValidation:rule="has(self.protection) || !has(oldSelf.protection) || oldSelf.protection != 'Immutable'",message="cannot be taken back once it is Immutable, also not by leaving it out; create another EventStore instead",fieldPath=".protection",reason=FieldValueForbidden
// +kubebuilder:validation:XValidation:rule="has(self.className) == has(oldSelf.className)",message="is immutable, from unset to set as well: the events of a store do not move to another NATS system; create another EventStore instead",fieldPath=".className",reason=FieldValueForbidden
// +kubebuilder:validation:XValidation:rule="!(has(self.protection) && self.protection == 'Immutable' && has(self.deletionPolicy) && self.deletionPolicy == 'Delete')",message="cannot be Delete with protection Immutable: the events of an Immutable store go only by their age; use Retain",fieldPath=".deletionPolicy",reason=FieldValueInvalid
// +kubebuilder:validation:XValidation:rule="!(has(oldSelf.protection) && oldSelf.protection == 'Immutable' && has(oldSelf.retention) && has(oldSelf.retention.maxAge) && has(self.retention) && has(self.retention.maxAge)) || self.retention.maxAge == '0' || (oldSelf.retention.maxAge != '0' && self.retention.maxAge.findAll('[0-9]+y').map(n, int(n.substring(0, size(n) - 1))).sum() * 31536000 + self.retention.maxAge.findAll('[0-9]+w').map(n, int(n.substring(0, size(n) - 1))).sum() * 604800 + self.retention.maxAge.findAll('[0-9]+d').map(n, int(n.substring(0, size(n) - 1))).sum() * 86400 + self.retention.maxAge.findAll('[0-9]+h').map(n, int(n.substring(0, size(n) - 1))).sum() * 3600 + self.retention.maxAge.findAll('[0-9]+m').map(n, int(n.substring(0, size(n) - 1))).sum() * 60 + self.retention.maxAge.findAll('[0-9]+s').map(n, int(n.substring(0, size(n) - 1))).sum() * 1 >= oldSelf.retention.maxAge.findAll('[0-9]+y').map(n, int(n.substring(0, size(n) - 1))).sum() * 31536000 + oldSelf.retention.maxAge.findAll('[0-9]+w').map(n, int(n.substring(0, size(n) - 1))).sum() * 604800 + oldSelf.retention.maxAge.findAll('[0-9]+d').map(n, int(n.substring(0, size(n) - 1))).sum() * 86400 + oldSelf.retention.maxAge.findAll('[0-9]+h').map(n, int(n.substring(0, size(n) - 1))).sum() * 3600 + oldSelf.retention.maxAge.findAll('[0-9]+m').map(n, int(n.substring(0, size(n) - 1))).sum() * 60 + oldSelf.retention.maxAge.findAll('[0-9]+s').map(n, int(n.substring(0, size(n) - 1))).sum() * 1)",message="cannot be shorter with protection Immutable: no event goes earlier than was promised; create another EventStore instead",fieldPath=".retention.maxAge",reason=FieldValueForbidden
type EventStoreSpec struct {
	// namespace is the event namespace, a DNS label: the first part of the names
	// of the streams. Defaults to the namespace of the resource; another one takes a
	// class whose tenancy.eventNamespaces is Any. Immutable.
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="is immutable: the events of a store belong to one event namespace for ever; create another EventStore instead",reason=FieldValueForbidden
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`
	// +optional
	Namespace string `json:"namespace,omitempty"`

	// className names the EventStoreClass, which says where the streams live.
	// Defaults to the class that is marked as the default. Immutable.
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="is immutable: the events of a store do not move to another NATS system; create another EventStore instead",reason=FieldValueForbidden
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +optional
	ClassName string `json:"className,omitempty"`

	// retention says how long events are kept, and how much of them.
	// +optional
	Retention Retention `json:"retention,omitzero"`

	// replicas is how many servers hold each event, 1 to 5. Defaults to those of the
	// class, else 1.
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=5
	// +optional
	Replicas int32 `json:"replicas,omitempty"`

	// storage is where the servers keep events: File or Memory. Defaults to that of the
	// class, else File. Immutable: a stream that exists keeps its storage when the class
	// gets another default.
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="is immutable: a stream cannot change its storage; create another EventStore instead",reason=FieldValueForbidden
	// +optional
	Storage Storage `json:"storage,omitempty"`

	// compression is how the servers compress what they write to disk: S2 or None.
	// Defaults to that of the class, else S2. It does not count for storage Memory.
	// +optional
	Compression Compression `json:"compression,omitempty"`

	// duplicateWindow is how long the servers remember the id of an event that was
	// saved without a version: numbers with the units s, m, h and d, from 1s to 1d.
	// Longer costs the servers memory for each event. It is never longer than
	// retention.maxAge. Defaults to that of the class, else 2m.
	// +kubebuilder:validation:XValidation:rule="self.matches('^([0-9]{1,5}[smhd])+$')",message="is no duration: write whole numbers with the units s, m, h and d, such as 2m or 1h30m"
	// +kubebuilder:validation:XValidation:rule="!self.matches('^([0-9]{1,5}[smhd])+$') || self.matches('[1-9]')",message="is zero: write a duration of at least 1s"
	// +kubebuilder:validation:XValidation:rule="!self.matches('^([0-9]{1,5}[smhd])+$') || self.findAll('[0-9]+d').map(n, int(n.substring(0, size(n) - 1))).sum() * 86400 + self.findAll('[0-9]+h').map(n, int(n.substring(0, size(n) - 1))).sum() * 3600 + self.findAll('[0-9]+m').map(n, int(n.substring(0, size(n) - 1))).sum() * 60 + self.findAll('[0-9]+s').map(n, int(n.substring(0, size(n) - 1))).sum() <= 86400",message="is longer than 1d: give the events a version, which is remembered as long as they are stored"
	// +kubebuilder:validation:MaxLength=16
	// +optional
	DuplicateWindow string `json:"duplicateWindow,omitempty"`

	// snapshots says which snapshots are kept, and how much of them; its fields count
	// one by one.
	// +optional
	Snapshots Snapshots `json:"snapshots,omitzero"`

	// placement says on which servers the streams are. Defaults to that of the class,
	// else any.
	// +optional
	Placement *Placement `json:"placement,omitempty"`

	// protection says whether single events can be erased by an administrator of
	// the servers: Erasable or Immutable. Immutable cannot be taken back; it allows
	// neither deletionPolicy Delete nor a shorter retention.maxAge. Defaults to that of
	// the class, which counts when the streams are made, else Erasable.
	// +kubebuilder:validation:XValidation:rule="oldSelf != 'Immutable' || self == 'Immutable'",message="cannot be taken back once it is Immutable; create another EventStore instead",reason=FieldValueForbidden
	// +optional
	Protection Protection `json:"protection,omitempty"`

	// deletionPolicy says what becomes of the streams when the resource is
	// deleted: Retain keeps them and all their events, Delete deletes them. Defaults to
	// that of the class, else Retain. A store that retains does not become one that
	// deletes when the class gets another default.
	// +optional
	DeletionPolicy DeletionPolicy `json:"deletionPolicy,omitempty"`

	// managementPolicy says what the operator may do: Full; Observe, which only
	// tells in the status what it would do; or Paused, which does nothing at all but
	// look whose the streams are.
	// Defaults to Full.
	// +optional
	ManagementPolicy ManagementPolicy `json:"managementPolicy,omitempty"`

	// adoptionPolicy says what becomes of a stream of the right name that exists
	// and has no owner: Refuse leaves it alone, Adopt takes it over, where
	// tenancy.adoption of the class is Allowed. Defaults to Refuse.
	// +optional
	AdoptionPolicy AdoptionPolicy `json:"adoptionPolicy,omitempty"`

	// access lists the service accounts whose pods may use the store, and what they
	// may do. Left out: every service account of the namespace of the resource
	// writes. It counts with a class whose workloads.access is ServiceAccount. At most
	// 64, whose names and namespaces have at most 4096 characters in all.
	// +kubebuilder:validation:XValidation:rule="self.map(e, size(e.serviceAccount) + (has(e.namespace) ? size(e.namespace) : 0)).sum() <= 4096",message="has more than 4096 characters of names of service accounts and namespaces in all: list fewer, or give them shorter names"
	// +listType=map
	// +listMapKey=namespace
	// +listMapKey=serviceAccount
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	// +optional
	Access []AccessEntry `json:"access,omitempty"`
}

// AccessEntry is what the pods of one service account may do.
type AccessEntry struct {
	// serviceAccount is the name of the service account.
	// +kubebuilder:validation:XValidation:rule="self.matches('^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$')",message="is not the name of a service account: lower case letters, digits, '-' and '.', with a letter or digit at both ends"
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +required
	ServiceAccount string `json:"serviceAccount"`

	// namespace is that of the service account; empty is the namespace of the
	// resource.
	// +kubebuilder:validation:XValidation:rule="self == '' || self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",message="is not the name of a namespace: lower case letters, digits and '-', with a letter or digit at both ends; leave it out for the namespace of the EventStore"
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:default=""
	// +optional
	Namespace string `json:"namespace,omitempty"`

	// role is what its pods may do: Writer saves and reads, Reader reads.
	// +kubebuilder:default=Writer
	// +optional
	Role Role `json:"role,omitempty"`
}

// Role is what a workload may do with a store.
// +kubebuilder:validation:Enum=Writer;Reader
type Role string

const (
	// RoleWriter saves events and snapshots, and does all that a Reader does.
	RoleWriter Role = "Writer"
	// RoleReader reads and subscribes, also with durable subscriptions.
	RoleReader Role = "Reader"
)

// Snapshots says which snapshots are kept. They do not expire.
type Snapshots struct {
	// history is how many snapshots of each actor are kept, the newest, 1 to 64.
	// Defaults to that of the class, else 1.
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=64
	// +optional
	History int32 `json:"history,omitempty"`

	// maxBytes is how much the stream of snapshots takes on each server. A full one
	// refuses new snapshots and never drops those of other actors. The latest versions of
	// actors whose events have expired are in it too. JetStream reserves
	// maxBytes on each server that holds the stream. Defaults to that of the class, else
	// no limit.
	// +kubebuilder:validation:XValidation:rule="type(self) == int ? self > 0 && self < 9223372036854775807 : size(self) <= 32 && !self.matches('[num]$|^[+]?[0-9]*[.][0-9]*$|[eE]-') && quantity(self).isGreaterThan(quantity('0')) && quantity(self).isLessThan(quantity('8Ei'))",message="must be a whole number of bytes, more than 0 and less than 8Ei, in at most 32 characters, such as 10Gi"
	// +optional
	MaxBytes *resource.Quantity `json:"maxBytes,omitempty"`
}

// Placement says on which servers streams are.
type Placement struct {
	// cluster is the name of the NATS cluster; empty is that of the class.
	// +kubebuilder:validation:MaxLength=255
	// +kubebuilder:validation:Pattern=`^[^\s.*>]*$`
	// +optional
	Cluster string `json:"cluster,omitempty"`
	// tags are what servers must carry, all of them.
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=255
	// +listType=set
	// +optional
	Tags []string `json:"tags,omitempty"`
}

// Compression is how the servers compress what they write to disk.
// +kubebuilder:validation:Enum=S2;None
type Compression string

const (
	// CompressionS2 compresses with S2, which is fast.
	CompressionS2 Compression = "S2"
	// CompressionNone does not compress.
	CompressionNone Compression = "None"
)

// Protection says whether single events can be erased.
// +kubebuilder:validation:Enum=Erasable;Immutable
type Protection string

const (
	// ProtectionErasable lets an administrator of the servers erase events.
	ProtectionErasable Protection = "Erasable"
	// ProtectionImmutable lets nobody erase an event before its age.
	ProtectionImmutable Protection = "Immutable"
)

// ManagementPolicy says what the operator may do.
// +kubebuilder:validation:Enum=Full;Observe;Paused
type ManagementPolicy string

const (
	// ManagementFull makes and keeps the streams.
	ManagementFull ManagementPolicy = "Full"
	// ManagementObserve changes nothing and tells in the status what would change.
	ManagementObserve ManagementPolicy = "Observe"
	// ManagementPaused does nothing at all but look whose the streams are.
	ManagementPaused ManagementPolicy = "Paused"
)

// AdoptionPolicy says what becomes of a stream without an owner.
// +kubebuilder:validation:Enum=Refuse;Adopt
type AdoptionPolicy string

const (
	// AdoptionRefuse leaves it alone.
	AdoptionRefuse AdoptionPolicy = "Refuse"
	// AdoptionAdopt takes it over, with all it holds.
	AdoptionAdopt AdoptionPolicy = "Adopt"
)

// Retention says how long events are kept, and how much of them. Snapshots do
// not expire.
type Retention struct {
	// maxAge is how long an event is kept: numbers with the units s, m, h, d, w
	// (7 days) and y (365 days), which may be combined, such as "365d" or "1d12h".
	// "0" keeps events for ever. At most 290 years, which is what JetStream counts.
	// The latest version of an actor stays when its events have expired.
	// Defaults to that of the class, else 365d.
	// +kubebuilder:validation:XValidation:rule="self == '0' || self.matches('^([0-9]{1,9}[smhdwy])+$')",message="is no duration: write \"0\", or whole numbers with the units s, m, h, d, w (7 days) and y (365 days), such as 365d or 1d12h; there are no months, no fractions and nothing shorter than 1s"
	// +kubebuilder:validation:XValidation:rule="!self.matches('^([0-9]{1,9}[smhdwy])+$') || self.matches('[1-9]')",message="is zero: write \"0\" to keep events for ever, or a duration of at least 1s"
	// +kubebuilder:validation:XValidation:rule="!self.matches('^([0-9]{1,9}[smhdwy])+$') || self.findAll('[0-9]+y').map(n, int(n.substring(0, size(n) - 1))).sum() * 31536000 + self.findAll('[0-9]+w').map(n, int(n.substring(0, size(n) - 1))).sum() * 604800 + self.findAll('[0-9]+d').map(n, int(n.substring(0, size(n) - 1))).sum() * 86400 + self.findAll('[0-9]+h').map(n, int(n.substring(0, size(n) - 1))).sum() * 3600 + self.findAll('[0-9]+m').map(n, int(n.substring(0, size(n) - 1))).sum() * 60 + self.findAll('[0-9]+s').map(n, int(n.substring(0, size(n) - 1))).sum() <= 290 * 31536000",message="is longer than 290 years: write \"0\" to keep events for ever"
	// +kubebuilder:validation:MaxLength=32
	// +optional
	MaxAge string `json:"maxAge,omitempty"`

	// maxBytes is how much the stream of events takes on each server. A full store
	// refuses new events and never drops old ones. JetStream reserves maxBytes on each
	// server that holds the stream. Defaults to that of the class, else no limit.
	// +kubebuilder:validation:XValidation:rule="type(self) == int ? self > 0 && self < 9223372036854775807 : size(self) <= 32 && !self.matches('[num]$|^[+]?[0-9]*[.][0-9]*$|[eE]-') && quantity(self).isGreaterThan(quantity('0')) && quantity(self).isLessThan(quantity('8Ei'))",message="must be a whole number of bytes, more than 0 and less than 8Ei, in at most 32 characters, such as 10Gi"
	// +optional
	MaxBytes *resource.Quantity `json:"maxBytes,omitempty"`
}

// Storage is where the servers keep events.
// +kubebuilder:validation:Enum=File;Memory
type Storage string

const (
	// StorageFile keeps events on disk.
	StorageFile Storage = "File"
	// StorageMemory keeps events in the servers' memory: they are gone when the
	// servers that hold them have stopped.
	StorageMemory Storage = "Memory"
)

// DeletionPolicy says what becomes of the streams with the resource.
// +kubebuilder:validation:Enum=Retain;Delete
type DeletionPolicy string

const (
	// DeletionPolicyRetain keeps the streams and all their events.
	DeletionPolicyRetain DeletionPolicy = "Retain"
	// DeletionPolicyDelete deletes the streams that this resource owns.
	DeletionPolicyDelete DeletionPolicy = "Delete"
)

// EventStore is an event store: append-only, versioned for each actor, kept in
// NATS JetStream.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:shortName=evs,categories=aether
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Class",type=string,JSONPath=`.status.className`
// +kubebuilder:printcolumn:name="Stream",type=string,JSONPath=`.status.streams[?(@.role=="Events")].name`
// +kubebuilder:printcolumn:name="Replicas",type=integer,JSONPath=`.status.streams[?(@.role=="Events")].replicaCount`
// +kubebuilder:printcolumn:name="Max Age",type=string,JSONPath=`.status.streams[?(@.role=="Events")].maxAge`
// +kubebuilder:printcolumn:name="Messages",type=integer,JSONPath=`.status.streams[?(@.role=="Events")].messages`
// +kubebuilder:printcolumn:name="Size",type=string,JSONPath=`.status.streams[?(@.role=="Events")].size`
// +kubebuilder:printcolumn:name="Full",type=string,JSONPath=`.status.conditions[?(@.type=="Full")].status`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name="Leader",type=string,priority=1,JSONPath=`.status.streams[?(@.role=="Events")].leader`
// +kubebuilder:printcolumn:name="Last Event",type=date,priority=1,JSONPath=`.status.streams[?(@.role=="Events")].lastTime`
// +kubebuilder:validation:XValidation:rule="self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$') && size(self.metadata.name) <= 63",message="the name must be a DNS label (lower case letters, digits and '-', no dots) of at most 63 characters, since it is part of the names of the streams"
type EventStore struct {
	metav1.TypeMeta `json:",inline"`
	// +optional
	metav1.ObjectMeta `json:"metadata,omitzero"`

	// spec is what is asked for.
	// +kubebuilder:default={}
	// +optional
	Spec EventStoreSpec `json:"spec,omitzero"`

	// status is what the operator has seen.
	// +kubebuilder:default={"observedGeneration":-1}
	// +optional
	Status EventStoreStatus `json:"status,omitzero"`
}

// EventStoreList is a list of EventStores.
//
// +kubebuilder:object:root=true
type EventStoreList struct {
	metav1.TypeMeta `json:",inline"`
	// +optional
	metav1.ListMeta `json:"metadata,omitzero"`
	Items           []EventStore `json:"items"`
}

// EventNamespace is the event namespace of the store: spec.namespace, or the
// namespace of the resource.
func (s *EventStore) EventNamespace() string {
	if s.Spec.Namespace != "" {
		return s.Spec.Namespace
	}
	return s.Namespace
}

// EventsStreamName is the name of the stream of events. Kubernetes names hold
// no '_', so no two stores can meet.
func (s *EventStore) EventsStreamName() string { return s.EventNamespace() + "_" + s.Name }

// SnapshotsStreamName is the name of the stream of snapshots.
func (s *EventStore) SnapshotsStreamName() string { return s.EventsStreamName() + "_snapshots" }

// BindingName is the name of the Secret that workloads of a store read.
func BindingName(store string) string { return store + "-eventstore" }
