package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// EventStoreClassSpec is what the platform offers: a NATS system with JetStream
// and how to reach it.
type EventStoreClassSpec struct {
	// servers are the URLs of the NATS servers, which the operator dials, and
	// workloads where workloads.servers names none. Credentials do not belong into
	// a URL: see credentials.
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	// +listType=set
	// +required
	Servers []ServerURL `json:"servers"`

	// credentials are the operator's own: an account that may create, update and
	// delete streams. They never reach a workload.
	// +optional
	Credentials *Credentials `json:"credentials,omitempty"`

	// domain is the JetStream domain of the streams; empty is that of the servers.
	// +kubebuilder:validation:MaxLength=255
	// +kubebuilder:validation:Pattern=`^[^\s.*>]*$`
	// +optional
	Domain string `json:"domain,omitempty"`

	// allowedNamespaces says whose EventStores may use the class. Left out: all.
	// +optional
	AllowedNamespaces *AllowedNamespaces `json:"allowedNamespaces,omitempty"`

	// tenancy says how far EventStores reach beyond their own namespace. Left out: not
	// at all.
	// +optional
	Tenancy Tenancy `json:"tenancy,omitzero"`

	// limits are what EventStores may ask for at most.
	// +optional
	Limits Limits `json:"limits,omitzero"`

	// defaults are for what an EventStore leaves out. Changing them changes the
	// streams of those that do, except for storage, protection, and a deletionPolicy
	// that retains.
	// +optional
	Defaults Defaults `json:"defaults,omitzero"`

	// workloads says what pods dial and how they prove who they are.
	// +kubebuilder:default={"access":"None"}
	// +optional
	Workloads Workloads `json:"workloads,omitzero"`

	// injection is what the sidecars of pods are made with whose default store is of
	// this class, where the annotations of the pod say nothing.
	// +optional
	Injection Injection `json:"injection,omitzero"`
}

// AllowedNamespaces says whose EventStores may use a class.
//
// +kubebuilder:validation:XValidation:rule="!has(self.selector.matchExpressions) || self.selector.matchExpressions.all(e, e.operator in ['In', 'NotIn', 'Exists', 'DoesNotExist'])",message="the operator of an expression is In, NotIn, Exists or DoesNotExist",fieldPath=".selector.matchExpressions"
// +kubebuilder:validation:XValidation:rule="!has(self.selector.matchExpressions) || self.selector.matchExpressions.all(e, (e.operator in ['Exists', 'DoesNotExist']) != (has(e.values) && size(e.values) > 0))",message="In and NotIn need values, Exists and DoesNotExist take none",fieldPath=".selector.matchExpressions"
type AllowedNamespaces struct {
	// selector selects namespaces by their labels; an empty one selects all.
	// +required
	Selector metav1.LabelSelector `json:"selector"`
}

// Defaults are for what an EventStore leaves out.
//
// +kubebuilder:validation:XValidation:rule="!has(self.protection) || self.protection != 'Immutable' || !has(self.deletionPolicy) || self.deletionPolicy != 'Delete'",message="deletionPolicy Delete would delete what protection Immutable promises to keep: leave one of them to the stores",fieldPath=".deletionPolicy"
type Defaults struct {
	// replicas is how many servers hold each event, 1 to 5.
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=5
	// +optional
	Replicas int32 `json:"replicas,omitempty"`
	// retention says how long events are kept, and how much of them; its fields
	// count one by one.
	// +optional
	Retention Retention `json:"retention,omitzero"`
	// storage is where the servers keep events: File or Memory. It counts when a
	// stream is made.
	// +optional
	Storage Storage `json:"storage,omitempty"`
	// compression is how the servers compress what they write to disk.
	// +optional
	Compression Compression `json:"compression,omitempty"`
	// placement says on which servers the streams are.
	// +optional
	Placement *Placement `json:"placement,omitempty"`
	// duplicateWindow is how long the servers remember the id of an event that was
	// saved without a version, from 1s to 1d.
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
	// protection says whether single events can be erased: Erasable or Immutable. It
	// counts when a stream is made.
	// +optional
	Protection Protection `json:"protection,omitempty"`
	// deletionPolicy says what becomes of the streams when the resource is deleted:
	// Retain or Delete. A store that retains does not become one that deletes when this
	// changes.
	// +optional
	DeletionPolicy DeletionPolicy `json:"deletionPolicy,omitempty"`
}

// ServerURL is the URL of a NATS server, without credentials.
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=255
// +kubebuilder:validation:Pattern=`^(nats|tls|ws|wss)://[^@/,\s]+/?$`
type ServerURL string

// Credentials names a Secret with any of these keys: user.creds; username and
// password; token; nkey (a seed); tls.crt and tls.key (a client certificate);
// ca.crt (who may have signed the server's certificate).
type Credentials struct {
	// secretRef names the Secret.
	// +required
	SecretRef SecretReference `json:"secretRef"`
}

// SecretReference names a Secret in a namespace.
type SecretReference struct {
	// namespace is the namespace of the Secret.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +required
	Namespace string `json:"namespace"`
	// name is the name of the Secret.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +required
	Name string `json:"name"`
}

// Workloads is how pods reach the NATS system of a class.
//
// +kubebuilder:validation:XValidation:rule="(has(self.access) && self.access == 'Secret') == has(self.credentials)",message="credentials go with access Secret, and access Secret needs credentials"
// +kubebuilder:validation:XValidation:rule="(has(self.access) && self.access == 'ServiceAccount') == has(self.callout)",message="callout goes with access ServiceAccount, and access ServiceAccount needs callout"
type Workloads struct {
	// servers are the URLs that pods dial. Defaults to those of the class.
	// +kubebuilder:validation:MaxItems=16
	// +listType=set
	// +optional
	Servers []ServerURL `json:"servers,omitempty"`

	// domain is the JetStream domain that pods put into subjects: that of the
	// streams, or the name under which the account of the workloads imports
	// JetStream. Defaults to that of the class.
	// +kubebuilder:validation:MaxLength=255
	// +kubebuilder:validation:Pattern=`^[^\s.*>]*$`
	// +optional
	Domain string `json:"domain,omitempty"`

	// access is how pods prove who they are: None, where the servers ask for
	// nothing; Secret, where the binding carries the credentials named here; or
	// ServiceAccount, where they present a token of their service account, and the
	// operator tells the servers what they may do.
	// +kubebuilder:default=None
	// +optional
	Access Access `json:"access,omitempty"`

	// credentials are those of the workloads, made by the platform, and copied
	// into the binding of every store of this class. Never the operator's own.
	// +optional
	Credentials *Credentials `json:"credentials,omitempty"`

	// callout is how the operator answers the servers who ask what a pod may do.
	// +optional
	Callout *Callout `json:"callout,omitempty"`
}

// Callout is the operator's side of NATS auth callout.
type Callout struct {
	// secretRef names the Secret with the credentials of the callout user, with the
	// keys of other credentials; issuer.nk, the seed of the account nkey that signs;
	// and xkey.nk, the seed of a curve nkey, where the servers encrypt.
	// +required
	SecretRef SecretReference `json:"secretRef"`

	// account is the NATS account that pods are placed in. It imports what pods may
	// use from the account that holds the streams, which it must not be: in one
	// account, JetStream answers to any subject, also one of another store.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=255
	// +kubebuilder:validation:Pattern=`^[^\s]+$`
	// +required
	Account string `json:"account"`
}

// Access is how pods prove to NATS who they are.
// +kubebuilder:validation:Enum=None;Secret;ServiceAccount
type Access string

const (
	// AccessNone: the servers ask for no credentials.
	AccessNone Access = "None"
	// AccessSecret: the binding carries credentials.
	AccessSecret Access = "Secret"
	// AccessServiceAccount: pods present a token of their service account.
	AccessServiceAccount Access = "ServiceAccount"
)

// EventStoreClassStatus is what the operator has seen.
type EventStoreClassStatus struct {
	// observedGeneration is the generation that the rest of the status is about.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`

	// conditions: Ready always, Reconciling and Stalled only while they are true.
	// +listType=map
	// +listMapKey=type
	// +kubebuilder:validation:MaxItems=16
	// +optional
	Conditions []metav1.Condition `json:"conditions,omitempty"`

	// serverVersion is the version of the server that the operator is connected to.
	// +kubebuilder:validation:MaxLength=63
	// +optional
	ServerVersion string `json:"serverVersion,omitempty"`

	// apiLevel is the JetStream API level of that server.
	// +optional
	APILevel int32 `json:"apiLevel,omitempty"`

	// peers is how many servers the NATS system has, which bounds replicas.
	// +optional
	Peers int32 `json:"peers,omitempty"`

	// servers are those with JetStream that answer, by their names.
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=64
	// +optional
	Servers []ServerStatus `json:"servers,omitempty"`

	// eventStores is how many EventStores use the class.
	// +optional
	EventStores int32 `json:"eventStores"`
}

// ServerStatus is a server of the NATS system.
type ServerStatus struct {
	// name is the server's own.
	// +kubebuilder:validation:MaxLength=255
	// +required
	Name string `json:"name"`
	// version is that of nats-server.
	// +kubebuilder:validation:MaxLength=63
	// +optional
	Version string `json:"version,omitempty"`
}

// EventStoreClass is the platform's side of the contract, as a StorageClass is:
// where the streams of its EventStores live.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Cluster,shortName=esc,categories=aether
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Default",type=string,JSONPath=`.metadata.annotations.aether\.flowmade\.one/is-default-class`
// +kubebuilder:printcolumn:name="Version",type=string,JSONPath=`.status.serverVersion`
// +kubebuilder:printcolumn:name="Peers",type=integer,JSONPath=`.status.peers`
// +kubebuilder:printcolumn:name="Stores",type=integer,JSONPath=`.status.eventStores`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name="Access",type=string,priority=1,JSONPath=`.spec.workloads.access`
// +kubebuilder:printcolumn:name="Servers",type=string,priority=1,JSONPath=`.spec.servers`
type EventStoreClass struct {
	metav1.TypeMeta `json:",inline"`
	// +optional
	metav1.ObjectMeta `json:"metadata,omitzero"`

	// spec is what the platform offers.
	// +required
	Spec EventStoreClassSpec `json:"spec"`

	// status is what the operator has seen.
	// +kubebuilder:default={"observedGeneration":-1}
	// +optional
	Status EventStoreClassStatus `json:"status,omitzero"`
}

// EventStoreClassList is a list of EventStoreClasses.
//
// +kubebuilder:object:root=true
type EventStoreClassList struct {
	metav1.TypeMeta `json:",inline"`
	// +optional
	metav1.ListMeta `json:"metadata,omitzero"`
	Items           []EventStoreClass `json:"items"`
}

// WorkloadDomain is the JetStream domain that pods put into subjects.
func (c *EventStoreClass) WorkloadDomain() string {
	if c.Spec.Workloads.Domain != "" {
		return c.Spec.Workloads.Domain
	}
	return c.Spec.Domain
}

// IsDefault says whether stores without a className use this class.
func (c *EventStoreClass) IsDefault() bool {
	return c.Annotations[AnnotationDefaultClass] == "true"
}
