package stream

import (
	"slices"
	"strings"

	"github.com/nats-io/nats.go/jetstream"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
)

// Codes of errors that say what the servers lack, and not what was asked for.
const (
	errAccountResources    = 10002
	errClusterNotAvailable = 10008
	errResources           = 10023
	errMemoryExceeded      = 10028
	errStorageExceeded     = 10047
	errStreamOffline       = 10118
)

// resourceFault is the fault of an error that says that servers are away, or full;
// nil of others.
func resourceFault(doing string, api *jetstream.APIError) *Fault {
	switch {
	case slices.Contains([]jetstream.ErrorCode{errClusterNotAvailable, errStreamOffline}, api.ErrorCode):
		return Retrying(v1alpha1.ReasonNoQuorum,
			"%s: a majority of the NATS servers that are needed for it is not there (%w): nothing can be saved until they run again; the operator tries again by itself", doing, api)
	case slices.Contains([]jetstream.ErrorCode{errResources, errMemoryExceeded, errStorageExceeded}, api.ErrorCode),
		api.ErrorCode == errNoSuitablePeers && strings.Contains(api.Description, "insufficient"):
		return Stalled(v1alpha1.ReasonOutOfStorage,
			"%s: the NATS servers have not as much storage left (%w): maxBytes is reserved on each server that holds a replica. Set maxBytes of this store or another one lower, raise max_file_store (max_memory_store for storage Memory) of the servers, or add servers with free disks", doing, api)
	case api.ErrorCode == errAccountResources:
		return Stalled(v1alpha1.ReasonOutOfStorage,
			"%s: the NATS account has not as much storage or as many streams left as it may have (%w): raise the limits of JetStream of the account, or set maxBytes of this store or another one lower", doing, api)
	default:
		return nil
	}
}

// Leaderless: a majority of the servers that hold a replica is not there, or they are
// about to elect a leader. Nothing can be saved meanwhile.
func Leaderless(info *jetstream.StreamInfo) bool {
	return info.Cluster != nil && info.Cluster.Name != "" && info.Cluster.Leader == "" && info.Config.Replicas > 1
}
