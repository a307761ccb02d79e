package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// EventStoreStatus is what the operator has seen.
type EventStoreStatus struct {
	// observedGeneration is the generation that the rest of the status is about.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`

	// schema is the version of what the operator that wrote the status stores and
	// how, as in the metadata of the streams.
	// +kubebuilder:validation:MaxLength=16
	// +optional
	Schema string `json:"schema,omitempty"`

	// namespace is the event namespace in use.
	// +optional
	Namespace string `json:"namespace,omitempty"`

	// className is the class in use.
	// +optional
	ClassName string `json:"className,omitempty"`

	// system stands for the NATS system that the condition StreamsOwned is about: a
	// digest of the name of the class and of its servers, domain and credentials, in no
	// order. Where the class leads elsewhere meanwhile, no pod is let in on the account
	// of that condition.
	// +kubebuilder:validation:MaxLength=64
	// +optional
	System string `json:"system,omitempty"`

	// effective is what the spec asks for with every default filled in: the field of
	// the spec, else that of the class, else its own. What is not carried out is in plan. A
	// deletionPolicy Delete that the limits of the class do not allow is Retain.
	// +optional
	Effective *EffectiveSpec `json:"effective,omitempty"`

	// conditions: Ready, Connected, ReplicasCurrent and StreamsOwned always, Reconciling, Stalled,
	// Full, DataLoss, DataLossPrevented and AcceptanceUnmatched only while they are true.
	// +listType=map
	// +listMapKey=type
	// +kubebuilder:validation:MaxItems=16
	// +optional
	Conditions []metav1.Condition `json:"conditions,omitempty"`

	// streams are the streams behind the store: of events, and of snapshots. The
	// list is of one writer, so that the API server need not keep who wrote each
	// field of it, which is half of what a write costs.
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=2
	// +optional
	Streams []StreamStatus `json:"streams,omitempty"`

	// plan is what is to be done to the streams and is not: held back, impossible, or
	// not for the operator to do.
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=64
	// +optional
	Plan []PlanStep `json:"plan,omitempty"`

	// acceptances are what a person accepted with the annotation accept-data-loss, the
	// newest first, 10 at most. A token accepts once.
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=10
	// +optional
	Acceptances []Acceptance `json:"acceptances,omitempty"`

	// binding names the Secret that workloads read, in the namespace of the
	// resource: a provisioned service of the Service Binding specification.
	// +optional
	Binding *Binding `json:"binding,omitempty"`
}

// Acceptance is what a person accepted once.
type Acceptance struct {
	// token is what the annotation carried: it stands for exactly what was accepted.
	// +kubebuilder:validation:MaxLength=64
	// +required
	Token string `json:"token"`
	// time is when the operator saw it.
	// +required
	Time metav1.Time `json:"time"`
	// reason is that of the condition which asked for it, such as StreamMissing or
	// WouldDestroyEvents.
	// +kubebuilder:validation:MaxLength=63
	// +required
	Reason string `json:"reason"`
	// message says what it let through, and how much.
	// +kubebuilder:validation:MaxLength=1024
	// +required
	Message string `json:"message"`
	// pending is true until a change that was accepted is carried out, or is not asked
	// for any more. From then on the same change needs another token.
	// +optional
	Pending bool `json:"pending,omitempty"`
	// generation is that of the resource when it was accepted; of a change that is pending,
	// the last that the operator has seen to ask for it.
	// +optional
	Generation int64 `json:"generation,omitempty"`
	// classUID is the uid of the class then.
	// +kubebuilder:validation:MaxLength=64
	// +optional
	ClassUID string `json:"classUID,omitempty"`
	// classGeneration is the generation of that class.
	// +optional
	ClassGeneration int64 `json:"classGeneration,omitempty"`
}

// MaxAcceptances is how many acceptances a status keeps.
const MaxAcceptances = 10

// PlanStep is one field of one stream that differs from what is asked for.
type PlanStep struct {
	// stream is the stream's name.
	// +kubebuilder:validation:MaxLength=255
	// +required
	Stream string `json:"stream"`
	// field is the setting of the stream, or "stream" for one that does not exist.
	// +kubebuilder:validation:MaxLength=63
	// +required
	Field string `json:"field"`
	// from is what the server has.
	// +kubebuilder:validation:MaxLength=1024
	// +optional
	From string `json:"from"`
	// to is what is asked for.
	// +kubebuilder:validation:MaxLength=1024
	// +optional
	To string `json:"to"`
	// effect is what the step does to what is stored.
	// +required
	Effect Effect `json:"effect"`
}

// Effect is what a step does to what is stored, and to others.
// +kubebuilder:validation:Enum=Safe;DestroysData;ReachesOthers;Impossible
type Effect string

const (
	// EffectSafe touches nothing that is stored.
	EffectSafe Effect = "Safe"
	// EffectDestroysData destroys stored messages.
	EffectDestroysData Effect = "DestroysData"
	// EffectReachesOthers changes which messages go where for others who use the
	// stream: one that had no owner and is taken over.
	EffectReachesOthers Effect = "ReachesOthers"
	// EffectImpossible cannot be done to a stream that exists.
	EffectImpossible Effect = "Impossible"
)

// StreamRole is what a stream holds.
// +kubebuilder:validation:Enum=Events;Snapshots
type StreamRole string

const (
	// StreamRoleEvents is the stream of events.
	StreamRoleEvents StreamRole = "Events"
	// StreamRoleSnapshots is the stream of snapshots.
	StreamRoleSnapshots StreamRole = "Snapshots"
)

// StreamStatus is one stream as the operator saw it last.
type StreamStatus struct {
	// role is what the stream holds.
	// +required
	Role StreamRole `json:"role"`
	// name is the stream's name in JetStream.
	// +kubebuilder:validation:MaxLength=255
	// +required
	Name string `json:"name"`
	// created is when JetStream created the stream: its identity. Another time
	// means another stream.
	// +optional
	Created *metav1.MicroTime `json:"created,omitempty"`
	// maxAge is the age at which the stream drops a message, as the server has it;
	// "0" is never.
	// +kubebuilder:validation:MaxLength=32
	// +optional
	MaxAge string `json:"maxAge,omitempty"`
	// nextMaxAge is a shorter age that the operator is about to set; left out where there
	// is none. What it lets expire is no loss once the stream has it.
	// +kubebuilder:validation:MaxLength=32
	// +optional
	NextMaxAge string `json:"nextMaxAge,omitempty"`
	// replicaCount is how many replicas the server is configured to keep.
	// +optional
	ReplicaCount int32 `json:"replicaCount,omitempty"`
	// messages is how many messages are stored.
	// +optional
	Messages int64 `json:"messages"`
	// bytes is how much they take on each server.
	// +optional
	Bytes int64 `json:"bytes"`
	// maxBytes is how much they may take on each server, as the server has it; left out
	// where there is no limit.
	// +optional
	MaxBytes int64 `json:"maxBytes,omitempty"`
	// size is bytes, and what they may be, for people, such as "812Mi of 1Gi".
	// +kubebuilder:validation:MaxLength=32
	// +optional
	Size string `json:"size,omitempty"`
	// firstSequence is the sequence of the oldest message.
	// +optional
	FirstSequence int64 `json:"firstSequence"`
	// lastSequence is the sequence of the newest message ever stored.
	// +optional
	LastSequence int64 `json:"lastSequence"`
	// lastTime is when the newest message was stored. With lastSequence it tells a
	// stream that was restored from one that was made anew.
	// +optional
	LastTime *metav1.MicroTime `json:"lastTime,omitempty"`
	// consumers is how many consumers the stream has.
	// +optional
	Consumers int32 `json:"consumers"`
	// leader is the server that leads the stream; empty on a server that is alone.
	// +kubebuilder:validation:MaxLength=255
	// +optional
	Leader string `json:"leader,omitempty"`
	// replicas are the servers that hold the stream, the leader first.
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=16
	// +optional
	Replicas []ReplicaStatus `json:"replicas,omitempty"`
}

// ReplicaStatus is one server's copy of a stream.
type ReplicaStatus struct {
	// name is the server's name.
	// +kubebuilder:validation:MaxLength=255
	// +required
	Name string `json:"name"`
	// current says whether the copy has all that the leader has.
	// +required
	Current bool `json:"current"`
	// lag is how many operations the copy is behind.
	// +optional
	Lag int64 `json:"lag"`
}

// Binding names a Secret that workloads read.
type Binding struct {
	// name is the name of the Secret.
	// +kubebuilder:validation:MaxLength=253
	// +required
	Name string `json:"name"`
}
