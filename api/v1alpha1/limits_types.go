package v1alpha1

import "k8s.io/apimachinery/pkg/api/resource"

// Limits are what the stores of a class may ask for at most. A new store that asks
// for more is not made. One that exists keeps what it has, also when a limit becomes
// smaller, and gets no more. What is left out is not limited.
type Limits struct {
	// replicas is the largest spec.replicas, 1 to 5.
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=5
	// +optional
	Replicas int32 `json:"replicas,omitempty"`

	// maxBytes is the largest spec.retention.maxBytes; a store without one asks for
	// more.
	// +kubebuilder:validation:XValidation:rule="type(self) == int ? self > 0 && self < 9223372036854775807 : size(self) <= 32 && !self.matches('[num]$|^[+]?[0-9]*[.][0-9]*$|[eE]-') && quantity(self).isGreaterThan(quantity('0')) && quantity(self).isLessThan(quantity('8Ei'))",message="must be a whole number of bytes, more than 0 and less than 8Ei, in at most 32 characters, such as 10Gi"
	// +optional
	MaxBytes *resource.Quantity `json:"maxBytes,omitempty"`

	// snapshots are the limits of spec.snapshots.
	// +optional
	Snapshots Snapshots `json:"snapshots,omitzero"`

	// requireMaxBytes refuses stores whose events or snapshots have no maxBytes of
	// their own and none of the class.
	// +optional
	RequireMaxBytes bool `json:"requireMaxBytes,omitempty"`

	// maxAge is the longest spec.retention.maxAge, in the same words; "0" there asks
	// for more.
	// +kubebuilder:validation:XValidation:rule="self != '0'",message="is zero, which would limit nothing: leave maxAge out, or write a duration of at least 1s"
	// +kubebuilder:validation:XValidation:rule="self == '0' || self.matches('^([0-9]{1,9}[smhdwy])+$')",message="is no duration: write \"0\", or whole numbers with the units s, m, h, d, w (7 days) and y (365 days), such as 365d or 1d12h; there are no months, no fractions and nothing shorter than 1s"
	// +kubebuilder:validation:XValidation:rule="!self.matches('^([0-9]{1,9}[smhdwy])+$') || self.matches('[1-9]')",message="is zero: write \"0\" to keep events for ever, or a duration of at least 1s"
	// +kubebuilder:validation:XValidation:rule="!self.matches('^([0-9]{1,9}[smhdwy])+$') || self.findAll('[0-9]+y').map(n, int(n.substring(0, size(n) - 1))).sum() * 31536000 + self.findAll('[0-9]+w').map(n, int(n.substring(0, size(n) - 1))).sum() * 604800 + self.findAll('[0-9]+d').map(n, int(n.substring(0, size(n) - 1))).sum() * 86400 + self.findAll('[0-9]+h').map(n, int(n.substring(0, size(n) - 1))).sum() * 3600 + self.findAll('[0-9]+m').map(n, int(n.substring(0, size(n) - 1))).sum() * 60 + self.findAll('[0-9]+s').map(n, int(n.substring(0, size(n) - 1))).sum() <= 290 * 31536000",message="is longer than 290 years: write \"0\" to keep events for ever"
	// +kubebuilder:validation:MaxLength=32
	// +optional
	MaxAge string `json:"maxAge,omitempty"`

	// storage lists what spec.storage may be.
	// +listType=set
	// +kubebuilder:validation:MaxItems=2
	// +optional
	Storage []Storage `json:"storage,omitempty"`

	// deletionPolicies lists what spec.deletionPolicy may be.
	// +listType=set
	// +kubebuilder:validation:MaxItems=2
	// +optional
	DeletionPolicies []DeletionPolicy `json:"deletionPolicies,omitempty"`

	// perNamespace limits all stores of one Kubernetes namespace together.
	// +optional
	PerNamespace NamespaceLimits `json:"perNamespace,omitzero"`
}

// NamespaceLimits are what the stores of one class in one Kubernetes namespace may
// have together. Of several that wait for room the oldest comes first. Streams that
// a deleted store left behind do not count.
type NamespaceLimits struct {
	// stores is how many there may be.
	// +kubebuilder:validation:Minimum=1
	// +optional
	Stores int32 `json:"stores,omitempty"`
	// bytes is how much JetStream may reserve for them: maxBytes of events and of
	// snapshots, times replicas. A store that has no maxBytes for both asks for more.
	// +kubebuilder:validation:XValidation:rule="type(self) == int ? self > 0 && self < 9223372036854775807 : size(self) <= 32 && !self.matches('[num]$|^[+]?[0-9]*[.][0-9]*$|[eE]-') && quantity(self).isGreaterThan(quantity('0')) && quantity(self).isLessThan(quantity('8Ei'))",message="must be a whole number of bytes, more than 0 and less than 8Ei, in at most 32 characters, such as 10Gi"
	// +optional
	Bytes *resource.Quantity `json:"bytes,omitempty"`
}
