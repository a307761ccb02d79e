package v1alpha1

// Conditions of an EventStore; those of an EventStoreClass are Ready,
// Reconciling and Stalled.
const (
	// ConditionReady is always present. True: both streams are as the spec asks,
	// every replica is current and the binding is written.
	ConditionReady = "Ready"
	// ConditionConnected is always present on an EventStore. True: the operator is
	// connected to the NATS system of the class. While it is not, the rest of the
	// status is the last that was seen, and the condition says since when.
	ConditionConnected = "Connected"
	// ConditionReplicasCurrent is always present on an EventStore. True: every
	// replica of both streams has all that the leader has.
	ConditionReplicasCurrent = "ReplicasCurrent"
	// ConditionStreamsOwned is always present on an EventStore. True: both streams were
	// this EventStore's when the operator looked last on the NATS system that
	// status.system stands for, and the class lets it use them. Pods are let in by that,
	// and not by Ready; a pass that cannot look leaves it as it is.
	ConditionStreamsOwned = "StreamsOwned"
	// ConditionReconciling is present only while True: the operator is at work or
	// will try again by itself.
	ConditionReconciling = "Reconciling"
	// ConditionStalled is present only while True: a person must change something.
	ConditionStalled = "Stalled"
	// ConditionDataLoss is present only while True: a stream that held events is
	// gone, was made again, or went back.
	ConditionDataLoss = "DataLoss"
	// ConditionAccessIgnored is present only while True: spec.access lists service
	// accounts, and the class does not ask pods who they are.
	ConditionAccessIgnored = "AccessIgnored"
	// ConditionFull is present only while True: a stream of the store has taken 80 % of
	// its maxBytes or more.
	ConditionFull = "Full"
	// ConditionVersionsNotKept is present only while True: the latest versions of actors
	// whose last event expires cannot be stored, or not in time, and would go back.
	ConditionVersionsNotKept = "VersionsNotKept"
	// ConditionDataLossPrevented is present only while True: a change that would
	// destroy stored events, or reach others, is held back.
	ConditionDataLossPrevented = "DataLossPrevented"
	// ConditionAcceptanceUnmatched is present only while True: the annotation
	// accept-data-loss has a value that accepts nothing.
	ConditionAcceptanceUnmatched = "AcceptanceUnmatched"
)

// Reasons of conditions. They may grow; the condition types are the API.
const (
	// ReasonReady: all is as asked.
	ReasonReady = "Ready"
	// ReasonProgressing: the operator is at work.
	ReasonProgressing = "Progressing"
	// ReasonProgressingWithRetry: the last try failed and the operator tries again
	// by itself.
	ReasonProgressingWithRetry = "ProgressingWithRetry"
	// ReasonClassNotFound: there is no EventStoreClass of that name.
	ReasonClassNotFound = "ClassNotFound"
	// ReasonNoDefaultClass: the store names no class and none is the default.
	ReasonNoDefaultClass = "NoDefaultClass"
	// ReasonSeveralDefaultClasses: the store names no class and more than one is
	// marked as the default.
	ReasonSeveralDefaultClasses = "SeveralDefaultClasses"
	// ReasonCredentialsInvalid: the Secret with the credentials is missing or
	// cannot be used.
	ReasonCredentialsInvalid = "CredentialsInvalid"
	// ReasonAuthenticationFailed: the servers refused the credentials.
	ReasonAuthenticationFailed = "AuthenticationFailed"
	// ReasonCertificateInvalid: the servers and the operator do not trust each
	// other's certificates.
	ReasonCertificateInvalid = "CertificateInvalid"
	// ReasonPermissionDenied: the account of the class lacks a permission.
	ReasonPermissionDenied = "PermissionDenied"
	// ReasonCalloutUnavailable: the operator cannot answer the servers who ask what
	// a pod may do.
	ReasonCalloutUnavailable = "CalloutUnavailable"
	// ReasonUnreachable: no server answers.
	ReasonUnreachable = "Unreachable"
	// ReasonJetStreamUnavailable: the servers answer but JetStream does not.
	ReasonJetStreamUnavailable = "JetStreamUnavailable"
	// ReasonServerTooOld: a server of the NATS system is older than 2.12.
	ReasonServerTooOld = "ServerTooOld"
	// ReasonFieldIgnored: a server took the configuration of a stream and left out a
	// field of it.
	ReasonFieldIgnored = "FieldIgnored"
	// ReasonNoQuorum: a majority of the servers that are needed is not there.
	ReasonNoQuorum = "NoQuorum"
	// ReasonOutOfStorage: the servers, or the account, have not as much storage left as
	// is asked for.
	ReasonOutOfStorage = "OutOfStorage"
	// ReasonConnected: connected.
	ReasonConnected = "Connected"
	// ReasonOwned: the streams are this EventStore's.
	ReasonOwned = "Owned"
	// ReasonInvalidSpec: the spec asks for something that cannot be.
	ReasonInvalidSpec = "InvalidSpec"
	// ReasonInsufficientPeers: there are fewer servers than replicas asked for.
	ReasonInsufficientPeers = "InsufficientPeers"
	// ReasonClassNotAllowed: the class does not allow the namespace of the store.
	ReasonClassNotAllowed = "ClassNotAllowed"
	// ReasonAccessNotEnforced: workloads.access of the class is not ServiceAccount.
	ReasonAccessNotEnforced = "AccessNotEnforced"
	// ReasonLimitExceeded: the store asks for more than the limits of its class.
	ReasonLimitExceeded = "LimitExceeded"
	// ReasonNearlyFull: a stream has taken 80 % of its maxBytes or more.
	ReasonNearlyFull = "NearlyFull"
	// ReasonSnapshotsFull: the stream of snapshots takes no more.
	ReasonSnapshotsFull = "SnapshotsFull"
	// ReasonVersionsBehind: half of the time is over that there is to store the latest
	// version of an actor before its last event expires, or others write the snapshots of an
	// actor all the time before the age of events is lowered.
	ReasonVersionsBehind = "VersionsBehind"
	// ReasonOnAnotherClass: the store names no class, and the streams of an earlier one of
	// its name are on another class than the default.
	ReasonOnAnotherClass = "OnAnotherClass"
	// ReasonTenancyForbidden: the class lets no store name another event namespace, or
	// take over a stream without an owner.
	ReasonTenancyForbidden = "TenancyForbidden"
	// ReasonNotGivenBack: the streams are of an earlier namespace or of another cluster,
	// and the class does not give them back; or an operator that is there does not say
	// whether their EventStore still exists.
	ReasonNotGivenBack = "NotGivenBack"
	// ReasonObserved: managementPolicy is Observe. With Ready True, nothing is to be
	// done; with Ready False, status.plan tells what.
	ReasonObserved = "Observed"
	// ReasonPaused: managementPolicy is Paused.
	ReasonPaused = "Paused"
	// ReasonConflict: the streams belong to another EventStore.
	ReasonConflict = "Conflict"
	// ReasonNotOwned: a stream of that name exists and carries no owner.
	ReasonNotOwned = "NotOwned"
	// ReasonBindingConflict: a Secret of the binding's name exists and is not ours.
	ReasonBindingConflict = "BindingConflict"
	// ReasonImpossibleChange: a stream cannot be changed into what the spec asks.
	ReasonImpossibleChange = "ImpossibleChange"
	// ReasonRefusedByServer: the server refused the configuration.
	ReasonRefusedByServer = "RefusedByServer"
	// ReasonStreamMissing: a stream that held events is gone.
	ReasonStreamMissing = "StreamMissing"
	// ReasonStreamRecreated: a stream was deleted and made again by another.
	ReasonStreamRecreated = "StreamRecreated"
	// ReasonStreamPurged: all that a stream held was deleted before its age.
	ReasonStreamPurged = "StreamPurged"
	// ReasonStreamRolledBack: the last sequence of a stream went back.
	ReasonStreamRolledBack = "StreamRolledBack"
	// ReasonWouldDestroyEvents: a change would destroy stored events.
	ReasonWouldDestroyEvents = "WouldDestroyEvents"
	// ReasonWouldReachOthers: a change would redirect messages of others who use a
	// stream that is to be adopted.
	ReasonWouldReachOthers = "WouldReachOthers"
	// ReasonTokenUnknown: no loss and no change that waits has this token.
	ReasonTokenUnknown = "TokenUnknown"
	// ReasonStreamsNotDeleted: deletionPolicy is Delete, and streams on record are not
	// where they can be deleted, or another cluster keeps them, or may.
	ReasonStreamsNotDeleted = "StreamsNotDeleted"
	// ReasonReplicasCurrent: every replica is current.
	ReasonReplicasCurrent = "ReplicasCurrent"
	// ReasonReplicasCatchingUp: at least one replica is behind or missing.
	ReasonReplicasCatchingUp = "ReplicasCatchingUp"
	// ReasonContested: another writer changes a stream again and again, and it is
	// left alone for a while.
	ReasonContested = "Contested"
	// ReasonNewerSchema: a stream was made by a newer operator.
	ReasonNewerSchema = "NewerSchema"
	// ReasonUnknown: not seen yet.
	ReasonUnknown = "Unknown"
)
