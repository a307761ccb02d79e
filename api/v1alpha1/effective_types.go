package v1alpha1

// EffectiveSpec is what an EventStore asks for, with every default filled in: of
// the class, and else of the field.
type EffectiveSpec struct {
	// retention is how long events are kept, and how much of them; without maxBytes
	// there is no limit.
	// +optional
	Retention Retention `json:"retention,omitzero"`
	// replicas is how many servers hold each event.
	// +optional
	Replicas int32 `json:"replicas,omitempty"`
	// storage is where the servers keep events.
	// +optional
	Storage Storage `json:"storage,omitempty"`
	// compression is how the servers compress what they write to disk.
	// +optional
	Compression Compression `json:"compression,omitempty"`
	// duplicateWindow is how long the servers remember the id of an event.
	// +kubebuilder:validation:MaxLength=16
	// +optional
	DuplicateWindow string `json:"duplicateWindow,omitempty"`
	// snapshots is which snapshots are kept; without maxBytes there is no limit.
	// +optional
	Snapshots Snapshots `json:"snapshots,omitzero"`
	// placement is on which servers the streams are; left out: any.
	// +optional
	Placement *Placement `json:"placement,omitempty"`
	// protection says whether single events can be erased.
	// +optional
	Protection Protection `json:"protection,omitempty"`
	// deletionPolicy is what becomes of the streams with the resource.
	// +optional
	DeletionPolicy DeletionPolicy `json:"deletionPolicy,omitempty"`
	// managementPolicy is what the operator may do.
	// +optional
	ManagementPolicy ManagementPolicy `json:"managementPolicy,omitempty"`
	// adoptionPolicy is what becomes of a stream without an owner.
	// +optional
	AdoptionPolicy AdoptionPolicy `json:"adoptionPolicy,omitempty"`
}
