package stream

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"k8s.io/apimachinery/pkg/api/resource"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
)

// OverLimits tells, for a person, what a store asks for that the limits of its class
// do not allow. What its streams have already it may keep: live are they, nil for one
// that does not exist, and inForce is what becomes of them, "" where that was never settled.
// Nothing is over the limits when the answer is empty.
func OverLimits(inForce v1alpha1.DeletionPolicy, effective v1alpha1.EffectiveSpec, limits v1alpha1.Limits, live []*jetstream.StreamInfo) ([]string, error) {
	s, err := settingsOf(effective)
	if err != nil {
		return nil, err
	}
	var over []string
	check := func(field string, wanted, limit, have int64, write func(int64) string) {
		if limit != 0 && wanted > max(limit, have) {
			over = append(over, fmt.Sprintf("%s is %s and the limit %s", field, write(wanted), write(limit)))
		}
	}
	of := func(i int, value func(jetstream.StreamConfig) int64) int64 {
		if live[i] == nil {
			return 0
		}
		return endless(value(live[i].Config))
	}
	longest, err := maxAgeLimit(limits.MaxAge)
	if err != nil {
		return nil, err
	}
	bytesLimit := func(q *resource.Quantity) int64 {
		if q == nil && limits.RequireMaxBytes {
			// Anything but no limit.
			return math.MaxInt64 - 1
		}
		if q == nil {
			return 0
		}
		return q.Value()
	}
	maxBytes := func(c jetstream.StreamConfig) int64 { return c.MaxBytes }
	check("replicas", int64(s.replicas), int64(limits.Replicas), of(0, func(c jetstream.StreamConfig) int64 { return int64(c.Replicas) }), number)
	check("retention.maxAge", endless(int64(s.maxAge)), longest, of(0, func(c jetstream.StreamConfig) int64 { return int64(c.MaxAge) }), age)
	check("retention.maxBytes", endless(s.maxBytes), bytesLimit(limits.MaxBytes), of(0, maxBytes), size)
	check("snapshots.maxBytes", endless(s.snapshotsMaxBytes), bytesLimit(limits.Snapshots.MaxBytes), of(1, maxBytes), size)
	check("snapshots.history", s.history, int64(limits.Snapshots.History), of(1, func(c jetstream.StreamConfig) int64 { return c.MaxMsgsPerSubject }), number)
	if len(limits.Storage) > 0 && live[0] == nil && !slices.Contains(limits.Storage, effective.Storage) {
		over = append(over, fmt.Sprintf("storage is %s and allowed %s", effective.Storage, list(limits.Storage)))
	}
	if inForce != effective.DeletionPolicy && !AllowsDeletionPolicy(limits, effective.DeletionPolicy) {
		over = append(over, fmt.Sprintf("deletionPolicy is %s and allowed %s", effective.DeletionPolicy, list(limits.DeletionPolicies)))
	}
	return over, nil
}

// AllowsDeletionPolicy says whether the limits of a class allow a deletion policy.
func AllowsDeletionPolicy(limits v1alpha1.Limits, policy v1alpha1.DeletionPolicy) bool {
	return len(limits.DeletionPolicies) == 0 || slices.Contains(limits.DeletionPolicies, policy)
}

// RecordedDeletionPolicy is what the status says of the streams of a store that has had some,
// "" for nothing. One that is being deleted may have lost them by that. Nobody but the operator writes it, where everybody who may write the
// store can give it a finalizer.
func RecordedDeletionPolicy(store *v1alpha1.EventStore) v1alpha1.DeletionPolicy {
	if !WasMade(store) && store.DeletionTimestamp.IsZero() || store.Status.Effective == nil {
		return ""
	}
	return store.Status.Effective.DeletionPolicy
}

// DeletionPolicyInForce is what becomes of the streams where a store asks for a policy:
// Delete counts where the limits of the class allow it, or where it is on record since
// they did.
func DeletionPolicyInForce(recorded, asked v1alpha1.DeletionPolicy, limits v1alpha1.Limits) v1alpha1.DeletionPolicy {
	if asked == v1alpha1.DeletionPolicyDelete && recorded != asked && !AllowsDeletionPolicy(limits, asked) {
		return v1alpha1.DeletionPolicyRetain
	}
	return asked
}

func maxAgeLimit(s string) (int64, error) {
	if s == "" {
		return 0, nil
	}
	longest, err := ParseMaxAge(s)
	return int64(longest), err
}

// endless: what has no end is more than any number.
func endless(value int64) int64 {
	if value <= 0 {
		return math.MaxInt64
	}
	return value
}

func number(n int64) string { return fmt.Sprint(n) }

func age(n int64) string {
	if n == math.MaxInt64 {
		return `"0" (for ever)`
	}
	return FormatAge(time.Duration(n))
}

func size(n int64) string {
	switch n {
	case math.MaxInt64:
		return "not set"
	case math.MaxInt64 - 1:
		return "any, and must be set"
	}
	return FormatBytes(n)
}

func list[T ~string](allowed []T) string {
	texts := make([]string, len(allowed))
	for i, a := range allowed {
		texts[i] = string(a)
	}
	return strings.Join(texts, ", ")
}

// Reserved is how many bytes JetStream reserves for a store in all: maxBytes of both
// streams, on each server that holds them. Without maxBytes of both there is no end,
// which is math.MaxInt64.
func Reserved(effective v1alpha1.EffectiveSpec) (int64, error) {
	s, err := settingsOf(effective)
	if err != nil {
		return 0, err
	}
	return reserved(s.replicas, s.maxBytes, s.snapshotsMaxBytes), nil
}

// ReservedBy is how many bytes JetStream reserves for streams that exist.
func ReservedBy(streams []v1alpha1.StreamStatus) int64 {
	total := int64(0)
	for _, s := range streams {
		total = sum(total, reserved(int(s.ReplicaCount), s.MaxBytes))
	}
	return total
}

func reserved(replicas int, maxBytes ...int64) int64 {
	total := int64(0)
	for _, bytes := range maxBytes {
		for range replicas {
			total = sum(total, endless(bytes))
		}
	}
	return total
}

func sum(a, b int64) int64 {
	if a > math.MaxInt64-b {
		return math.MaxInt64
	}
	return a + b
}
