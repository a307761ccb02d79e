package v1alpha1

// Tenancy says how far the EventStores of a class reach beyond their own
// namespace. Left out, it is closed: a store has the streams of its own namespace,
// takes over no stream that it did not make, and takes back only what an earlier
// EventStore of its name left in the same namespace. What a store has it keeps when
// a class becomes stricter.
type Tenancy struct {
	// eventNamespaces says which event namespaces a store may name in
	// spec.namespace: Own, that of the resource alone; or Any. With Any, who is first
	// has a name, and every namespace that may use the class can be first. Defaults to
	// Own.
	// +optional
	EventNamespaces EventNamespaces `json:"eventNamespaces,omitempty"`

	// adoption says whether a store may take over a stream that names no EventStore as
	// its owner, with spec.adoptionPolicy Adopt: Forbidden or Allowed. With Allowed,
	// every stream of the account whose name fits can be taken over. Defaults to
	// Forbidden.
	// +optional
	Adoption Adoption `json:"adoption,omitempty"`

	// takeBack says which streams a store takes back that an earlier EventStore of its
	// namespace and name left: SameNamespace, those of the very namespace, by its uid
	// and that of the cluster; or ByName, also those of an earlier namespace of that
	// name, or of another cluster, once the operator there says that its EventStore is
	// gone. Defaults to SameNamespace.
	// +optional
	TakeBack TakeBack `json:"takeBack,omitempty"`

	// giveBack lists stores that may take back the streams of their name, whoever had
	// them: an earlier namespace, another cluster, also one that does not answer any
	// more. Streams of an EventStore that is known to exist are never given away. Take
	// an entry out when its store is Ready.
	// +listType=map
	// +listMapKey=namespace
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=256
	// +optional
	GiveBack []StoreReference `json:"giveBack,omitempty"`
}

// EventNamespaces says which event namespaces a store may name.
// +kubebuilder:validation:Enum=Own;Any
type EventNamespaces string

const (
	// EventNamespacesOwn: that of the resource alone.
	EventNamespacesOwn EventNamespaces = "Own"
	// EventNamespacesAny: any.
	EventNamespacesAny EventNamespaces = "Any"
)

// Adoption says whether a store may take over a stream without an owner.
// +kubebuilder:validation:Enum=Forbidden;Allowed
type Adoption string

const (
	// AdoptionForbidden: it may not.
	AdoptionForbidden Adoption = "Forbidden"
	// AdoptionAllowed: it may, with spec.adoptionPolicy Adopt.
	AdoptionAllowed Adoption = "Allowed"
)

// TakeBack says which streams of an earlier EventStore a store takes back.
// +kubebuilder:validation:Enum=SameNamespace;ByName
type TakeBack string

const (
	// TakeBackSameNamespace: those of the same Kubernetes namespace, by its uid, in the
	// same cluster.
	TakeBackSameNamespace TakeBack = "SameNamespace"
	// TakeBackByName: those of the same namespace and name, wherever they were.
	TakeBackByName TakeBack = "ByName"
)

// StoreReference names an EventStore.
type StoreReference struct {
	// namespace is the Kubernetes namespace of the EventStore.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +required
	Namespace string `json:"namespace"`
	// name is the name of the EventStore.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +required
	Name string `json:"name"`
}
