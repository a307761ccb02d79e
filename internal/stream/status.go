package stream

import (
	"cmp"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
)

// StatusOf is a stream as a status tells it, with times as exact as a status
// keeps them, so that the same stream always gives the same status.
func StatusOf(role v1alpha1.StreamRole, info *jetstream.StreamInfo) v1alpha1.StreamStatus {
	created := metav1.NewMicroTime(info.Created.Truncate(time.Microsecond))
	status := v1alpha1.StreamStatus{
		Role:          role,
		Name:          info.Config.Name,
		Created:       &created,
		MaxAge:        FormatAge(info.Config.MaxAge),
		ReplicaCount:  int32(info.Config.Replicas),
		Messages:      int64(info.State.Msgs),
		Bytes:         int64(info.State.Bytes),
		MaxBytes:      max(info.Config.MaxBytes, 0),
		Size:          SizeText(int64(info.State.Bytes), info.Config.MaxBytes),
		FirstSequence: int64(info.State.FirstSeq),
		LastSequence:  int64(info.State.LastSeq),
		Consumers:     int32(info.State.Consumers),
	}
	if !info.State.LastTime.IsZero() {
		last := metav1.NewMicroTime(info.State.LastTime.Truncate(time.Microsecond))
		status.LastTime = &last
	}
	if cluster := info.Cluster; cluster != nil && cluster.Name != "" && cluster.Leader != "" {
		status.Leader = cluster.Leader
		for _, replica := range cluster.Replicas {
			status.Replicas = append(status.Replicas, v1alpha1.ReplicaStatus{
				Name: replica.Name, Current: replica.Current && !replica.Offline, Lag: int64(replica.Lag),
			})
		}
		slices.SortFunc(status.Replicas, func(a, b v1alpha1.ReplicaStatus) int { return cmp.Compare(a.Name, b.Name) })
		status.Replicas = slices.Insert(status.Replicas, 0, v1alpha1.ReplicaStatus{Name: cluster.Leader, Current: true})
	}
	return status
}

// RecordOf is StatusOf for the record by which a loss is judged. An age that somebody else
// has made shorter than the one on record does not count: what it makes expire is lost.
func RecordOf(wanted Wanted, live *jetstream.StreamInfo, recorded *v1alpha1.StreamStatus) v1alpha1.StreamStatus {
	now := StatusOf(wanted.Role, live)
	if recorded == nil || !sameStream(recorded, live) || live.Config.MaxAge == 0 || live.Config.MaxAge == wanted.Config.MaxAge {
		return now
	}
	if age, err := ParseMaxAge(recorded.MaxAge); err == nil && (age == 0 || age > live.Config.MaxAge) {
		now.MaxAge = recorded.MaxAge
	}
	return now
}

// WithNextAge is the record of a stream once it has the shorter age that the operator was
// about to set when it wrote the record: the operator did, whether it could write that down
// or not.
func WithNextAge(recorded v1alpha1.StreamStatus, live *jetstream.StreamInfo) v1alpha1.StreamStatus {
	if recorded.NextMaxAge != "" && live != nil && sameStream(&recorded, live) && FormatAge(live.Config.MaxAge) == recorded.NextMaxAge {
		recorded.MaxAge, recorded.NextMaxAge = recorded.NextMaxAge, ""
	}
	return recorded
}

// WorthTelling says whether what changed of a stream is worth a write of the
// status: what a person acts on always is, and figures when they have changed by
// a tenth. anyChange wants the smallest change, as now and then it is time to.
func WorthTelling(told, now v1alpha1.StreamStatus, anyChange bool) bool {
	if anyChange || told.LastSequence == 0 || now.LastSequence == 0 {
		return !equality.Semantic.DeepEqual(told, now)
	}
	if changedByATenth(told.Messages, now.Messages) || changedByATenth(told.Bytes, now.Bytes) {
		return true
	}
	for _, s := range []*v1alpha1.StreamStatus{&told, &now} {
		s.Messages, s.Bytes, s.Size, s.FirstSequence, s.LastSequence, s.LastTime, s.Consumers = 0, 0, "", 0, 0, nil, 0
		s.Replicas = slices.Clone(s.Replicas)
		for i := range s.Replicas {
			s.Replicas[i].Lag = 0
		}
	}
	return !equality.Semantic.DeepEqual(told, now)
}

func changedByATenth(told, now int64) bool {
	return max(told-now, now-told) > told/10
}
