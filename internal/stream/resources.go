package stream

import (
	"fmt"
	"maps"
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

// usage is how many bytes of one kind an account holds, and may hold.
type usage struct {
	what  string
	used  uint64
	limit int64
}

func usagesOf(info *jetstream.AccountInfo) []usage {
	of := func(tier string, t *jetstream.Tier) []usage {
		return []usage{{tier + "files", t.Store, t.Limits.MaxStore}, {tier + "memory", t.Memory, t.Limits.MaxMemory}}
	}
	usages := of("", &info.Tier)
	for _, name := range slices.Sorted(maps.Keys(info.Tiers)) {
		tier := info.Tiers[name]
		usages = append(usages, of(name+" ", &tier)...)
	}
	return usages
}

// CheckStorage says whether the account has so little left of what it may hold that a
// message may not fit: less than the largest that there may be, and than a twentieth of
// all. Each replica counts. An error is a Fault.
func (a Account) CheckStorage() error {
	var full []string
	for _, u := range a.usages {
		// No limit is -1, and 0 means that there is none of the kind.
		if u.limit > 0 && u.limit-int64(u.used) < min(a.largest, u.limit/20) {
			full = append(full, fmt.Sprintf("%d of %d bytes of %s", u.used, u.limit, u.what))
		}
	}
	if len(full) == 0 {
		return nil
	}
	return Stalled(v1alpha1.ReasonOutOfStorage,
		"the NATS account of the class is as good as full, and refuses what does not fit any more: it holds %s: raise the limits of JetStream of the account, or have stores keep less", strings.Join(full, " and "))
}
