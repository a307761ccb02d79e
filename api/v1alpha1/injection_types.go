package v1alpha1

import (
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// Injection is what the sidecars of a class's stores are made with, where the
// annotations of their pods say nothing. It counts for pods that are created later.
type Injection struct {
	// image is the image of the sidecar. Defaults to the operator's --sidecar-image.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=512
	// +kubebuilder:validation:Pattern=`^\S+$`
	// +optional
	Image string `json:"image,omitempty"`

	// resources are what the sidecar asks for and is limited to.
	// +optional
	Resources SidecarResources `json:"resources,omitzero"`

	// env are more variables of the sidecar, such as those of OpenTelemetry. Everybody
	// who may read the pods can read them.
	// +kubebuilder:validation:MaxItems=32
	// +listType=map
	// +listMapKey=name
	// +optional
	Env []SidecarVariable `json:"env,omitempty"`

	// userID is the user that the sidecar runs as: a number above 0, or None, which
	// leaves it to the platform, as OpenShift wants. Defaults to 65532.
	// +kubebuilder:validation:XValidation:rule="type(self) == int ? self > 0 && self <= 2147483647 : self == 'None'",message="must be a number above 0, or None"
	// +optional
	UserID *intstr.IntOrString `json:"userID,omitempty"`

	// args are more arguments of the sidecar, such as --max-calls=512.
	// +kubebuilder:validation:MaxItems=16
	// +listType=atomic
	// +optional
	Args []SidecarArgument `json:"args,omitempty"`
}

// SidecarResources are the requests and limits of a sidecar.
type SidecarResources struct {
	// requests are what the sidecar is given for certain. Defaults to 10m CPU and 32Mi
	// memory.
	// +optional
	Requests SidecarAmounts `json:"requests,omitzero"`
	// limits are what it is given at most. Defaults to 64Mi memory and no limit of CPU.
	// +optional
	Limits SidecarAmounts `json:"limits,omitzero"`
}

// SidecarAmounts are amounts of what a sidecar takes.
type SidecarAmounts struct {
	// cpu is in cores, such as 50m.
	// +kubebuilder:validation:XValidation:rule="type(self) == int ? self > 0 : size(self) <= 32 && !self.matches('[eE]-') && quantity(self).isGreaterThan(quantity('0'))",message="must be more than 0, in at most 32 characters, such as 50m"
	// +optional
	CPU *resource.Quantity `json:"cpu,omitempty"`
	// memory is in bytes, such as 128Mi.
	// +kubebuilder:validation:XValidation:rule="type(self) == int ? self > 0 : size(self) <= 32 && !self.matches('[eE]-') && quantity(self).isGreaterThan(quantity('0'))",message="must be more than 0, in at most 32 characters, such as 128Mi"
	// +optional
	Memory *resource.Quantity `json:"memory,omitempty"`
}

// SidecarVariable is a variable of the sidecar.
type SidecarVariable struct {
	// name is that of a variable which is not one of the sidecar's own settings.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=128
	// +kubebuilder:validation:Pattern=`^[A-Za-z_][A-Za-z0-9_]*$`
	// +kubebuilder:validation:XValidation:rule="!self.matches('^(AETHER_.*|KUBERNETES_.*|SERVICE_BINDING_ROOT|SSL_CERT_FILE|SSL_CERT_DIR|GODEBUG)$')",message="says who the sidecar is or what it connects to, which the injection decides"
	// +required
	Name string `json:"name"`
	// value is taken as it is.
	// +kubebuilder:validation:MaxLength=2048
	// +kubebuilder:validation:Pattern=`^[^\r\n]*$`
	// +optional
	Value string `json:"value,omitempty"`
}

// SidecarArgument is an argument of the sidecar, of those that say neither who it is nor
// what it connects to.
// +kubebuilder:validation:MaxLength=300
// +kubebuilder:validation:XValidation:rule="self.matches('^(--(max-body-bytes|max-calls|max-streams)=[1-9][0-9]{0,9}|--(request-timeout|wait-for-stores)=([1-9][0-9]{0,6}(ms|s|m|h))+|--log-level=(debug|info|warn|error)|--allow-host=[a-z0-9.-]+|--allow-origin=[a-z][a-z0-9+.-]*://[^\\\\s/]+)$')",message="is not an argument that can be given: one of --max-body-bytes, --max-calls, --max-streams, --request-timeout, --wait-for-stores, --log-level, --allow-host and --allow-origin, with =value"
type SidecarArgument string
