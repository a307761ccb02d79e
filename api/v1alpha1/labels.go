package v1alpha1

// Labels and annotations that people write.
const (
	// LabelEventStore on a pod names the EventStore, in the pod's namespace, whose
	// sidecar is injected.
	LabelEventStore = "aether.flowmade.one/eventstore"
	// AnnotationEventStores on a pod names more EventStores for the same sidecar,
	// separated by commas.
	AnnotationEventStores = "aether.flowmade.one/eventstores"
	// AnnotationSidecarImage on a pod replaces the image of the sidecar.
	AnnotationSidecarImage = "aether.flowmade.one/sidecar-image"
	// AnnotationSidecarCPULimit on a pod sets the sidecar's CPU limit, a quantity.
	AnnotationSidecarCPULimit = "aether.flowmade.one/sidecar-cpu-limit"
	// AnnotationSidecarMemoryLimit on a pod sets the sidecar's memory limit, a
	// quantity.
	AnnotationSidecarMemoryLimit = "aether.flowmade.one/sidecar-memory-limit"
	// AnnotationSidecarCPURequest on a pod sets what the sidecar asks for of CPU, a
	// quantity.
	AnnotationSidecarCPURequest = "aether.flowmade.one/sidecar-cpu-request"
	// AnnotationSidecarMemoryRequest on a pod sets what the sidecar asks for of memory,
	// a quantity.
	AnnotationSidecarMemoryRequest = "aether.flowmade.one/sidecar-memory-request"
	// AnnotationSidecarEnv on a pod holds more variables of the sidecar, NAME=value, one
	// a line, at most 32.
	AnnotationSidecarEnv = "aether.flowmade.one/sidecar-env"
	// AnnotationSidecarUserID on a pod is the user that the sidecar runs as: a number
	// above 0, or None, which leaves it to the platform.
	AnnotationSidecarUserID = "aether.flowmade.one/sidecar-user-id"
	// AnnotationSidecarArgs on a pod holds more arguments of the sidecar, --name=value,
	// one a line, at most 16.
	AnnotationSidecarArgs = "aether.flowmade.one/sidecar-args"
	// AnnotationSidecarLogLevel on a pod sets the sidecar's log level: debug, info,
	// warn or error.
	AnnotationSidecarLogLevel = "aether.flowmade.one/sidecar-log-level"
	// AnnotationDefaultClass on an EventStoreClass, with the value "true", makes it
	// the class of stores that name none.
	AnnotationDefaultClass = "aether.flowmade.one/is-default-class"
	// AnnotationAcceptDataLoss on an EventStore, with the token that a condition
	// prints, accepts the one loss or change that this token stands for, once.
	AnnotationAcceptDataLoss = "aether.flowmade.one/accept-data-loss"
)

// Keys that Aether itself writes.
const (
	// Finalizer is on an EventStore with deletionPolicy Delete only, until its
	// streams are deleted.
	Finalizer = "aether.flowmade.one/streams"
	// MetadataUID, MetadataNamespace and MetadataName in a stream's metadata tell
	// the EventStore that owns it.
	MetadataUID       = "aether.flowmade.one/uid"
	MetadataNamespace = "aether.flowmade.one/namespace"
	MetadataName      = "aether.flowmade.one/name"
	// MetadataNamespaceUID and MetadataClusterUID in a stream's metadata tell where
	// that EventStore is: the uid of its Kubernetes namespace, and of its cluster, which
	// is the uid of the namespace kube-system.
	MetadataNamespaceUID = "aether.flowmade.one/namespace-uid"
	MetadataClusterUID   = "aether.flowmade.one/cluster-uid"
	// MetadataSchema in a stream's metadata is the version of what Aether stores
	// there and how, "1" today.
	MetadataSchema = "aether.flowmade.one/schema"
	// MetadataCreation in a stream's metadata is a text that the request had which made the
	// stream, and no other one.
	MetadataCreation = "aether.flowmade.one/creation"
	// MetadataDeletionPolicy in a stream's metadata is what becomes of it with the
	// EventStore: Retain or Delete. Where nothing else says so, Retain there keeps it.
	MetadataDeletionPolicy = "aether.flowmade.one/deletion-policy"
)

// The binding Secret, after the Service Binding specification. Each key is a
// file below $SERVICE_BINDING_ROOT/<store>/ in the sidecar.
const (
	// BindingSecretType is the type of the Secret.
	BindingSecretType = "servicebinding.io/eventstore"
	// BindingKeyType and BindingKeyProvider say what is bound: "eventstore" by
	// "nats".
	BindingKeyType     = "type"
	BindingKeyProvider = "provider"
	// BindingKeyServers holds the URLs, separated by commas.
	BindingKeyServers = "servers"
	// BindingKeyNamespace is the event namespace.
	BindingKeyNamespace = "namespace"
	// BindingKeyStream and BindingKeySnapshotStream are the names of the streams.
	BindingKeyStream         = "stream"
	BindingKeySnapshotStream = "snapshot-stream"
	// BindingKeyDomain is the JetStream domain, where the class has one.
	BindingKeyDomain = "domain"
	// BindingKeyAccess says how the workload proves who it is, where the rest of the
	// binding does not tell: "ServiceAccount".
	BindingKeyAccess = "access"
)

// TokenAudience is the audience of the service account tokens that pods present
// to NATS. The API server takes them for nothing else.
const TokenAudience = "aether.flowmade.one"

// Keys of a Secret with credentials, and of a binding that carries them.
const (
	CredentialsKeyCreds    = "user.creds"
	CredentialsKeyUsername = "username"
	CredentialsKeyPassword = "password"
	CredentialsKeyToken    = "token"
	CredentialsKeyNKey     = "nkey"
	CredentialsKeyTLSCert  = "tls.crt"
	CredentialsKeyTLSKey   = "tls.key"
	CredentialsKeyCA       = "ca.crt"
)

// More keys of the Secret of a callout, beside those of credentials.
const (
	// CalloutKeyIssuer is the seed of the account nkey that signs what pods may do.
	CalloutKeyIssuer = "issuer.nk"
	// CalloutKeyXKey is the seed of the curve nkey that servers encrypt for.
	CalloutKeyXKey = "xkey.nk"
)
