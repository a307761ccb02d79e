package stream

import (
	"fmt"

	"github.com/nats-io/nats.go/jetstream"
)

// ReplicasCurrent says whether every replica of a stream has all that its leader
// has, and if not, why.
func ReplicasCurrent(info *jetstream.StreamInfo) (bool, string) {
	name, cluster := info.Config.Name, info.Cluster
	if cluster == nil || cluster.RaftGroup == "" && len(cluster.Replicas) == 0 && info.Config.Replicas <= 1 {
		// A server that is alone, or one replica.
		return true, ""
	}
	if cluster.Leader == "" {
		return false, fmt.Sprintf("stream %s has no leader", name)
	}
	if cluster.Desired != nil {
		return false, fmt.Sprintf("the replicas of stream %s are moving", name)
	}
	if have := len(cluster.Replicas) + 1; have != info.Config.Replicas {
		return false, fmt.Sprintf("stream %s has %d of %d replicas", name, have, info.Config.Replicas)
	}
	for _, replica := range cluster.Replicas {
		switch {
		case replica.Offline:
			return false, fmt.Sprintf("the replica of stream %s on %s is offline", name, replica.Name)
		case !replica.Current || replica.Pending:
			return false, fmt.Sprintf("the replica of stream %s on %s is catching up", name, replica.Name)
		}
	}
	return true, ""
}
