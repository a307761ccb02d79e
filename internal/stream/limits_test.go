package stream_test

import (
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/stream"
)

func quantity(s string) *resource.Quantity {
	q := resource.MustParse(s)
	return &q
}

func TestOverLimits(t *testing.T) {
	t.Parallel()
	asks := func(s *v1alpha1.EventStore) {
		s.Spec = v1alpha1.EventStoreSpec{
			Replicas: 3, Retention: v1alpha1.Retention{MaxAge: "30d", MaxBytes: quantity("2Gi")},
			Snapshots: v1alpha1.Snapshots{History: 4, MaxBytes: quantity("1Gi")}, DeletionPolicy: v1alpha1.DeletionPolicyDelete,
		}
	}
	endless := func(s *v1alpha1.EventStore) {
		s.Spec = v1alpha1.EventStoreSpec{Retention: v1alpha1.Retention{MaxAge: "0"}}
	}
	tests := map[string]struct {
		change func(*v1alpha1.EventStore)
		limits v1alpha1.Limits
		// want are the fields that are told.
		want []string
	}{
		"no limits":          {asks, v1alpha1.Limits{}, nil},
		"just as allowed":    {asks, v1alpha1.Limits{Replicas: 3, MaxAge: "30d", MaxBytes: quantity("2Gi"), RequireMaxBytes: true}, nil},
		"replicas":           {asks, v1alpha1.Limits{Replicas: 2}, []string{"replicas"}},
		"age":                {asks, v1alpha1.Limits{MaxAge: "29d"}, []string{"retention.maxAge"}},
		"age without an end": {endless, v1alpha1.Limits{MaxAge: "10y"}, []string{"retention.maxAge"}},
		"bytes":              {asks, v1alpha1.Limits{MaxBytes: quantity("1Gi")}, []string{"retention.maxBytes"}},
		"bytes without end":  {endless, v1alpha1.Limits{MaxBytes: quantity("1Gi")}, []string{"retention.maxBytes"}},
		"bytes are required": {endless, v1alpha1.Limits{RequireMaxBytes: true}, []string{"retention.maxBytes", "snapshots.maxBytes"}},
		"snapshots":          {asks, v1alpha1.Limits{Snapshots: v1alpha1.Snapshots{History: 3, MaxBytes: quantity("1Mi")}}, []string{"snapshots.maxBytes", "snapshots.history"}},
		"storage":            {asks, v1alpha1.Limits{Storage: []v1alpha1.Storage{v1alpha1.StorageMemory}}, []string{"storage"}},
		"deletion policy":    {asks, v1alpha1.Limits{DeletionPolicies: []v1alpha1.DeletionPolicy{v1alpha1.DeletionPolicyRetain}}, []string{"deletionPolicy"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			store := orders(test.change)
			over := func(live []*jetstream.StreamInfo) []string {
				texts, err := stream.OverLimits(stream.RecordedDeletionPolicy(store), stream.Effective(store, v1alpha1.Defaults{}), test.limits, live)
				if err != nil {
					t.Fatal(err)
				}
				for i := range texts {
					texts[i], _, _ = strings.Cut(texts[i], " ")
				}
				return texts
			}
			if got := over([]*jetstream.StreamInfo{nil, nil}); !slices.Equal(got, test.want) {
				t.Errorf("new: %v, want %v", got, test.want)
			}
			// What there is may stay, whatever the limits have become.
			wanted := desired(t, store)
			store.Status.Streams = []v1alpha1.StreamStatus{{Role: v1alpha1.StreamRoleEvents}}
			effective := stream.Effective(store, v1alpha1.Defaults{})
			store.Status.Effective = &effective
			if got := over([]*jetstream.StreamInfo{liveAs(wanted[0]), liveAs(wanted[1])}); len(got) > 0 {
				t.Errorf("there already: %v", got)
			}
		})
	}
}

func TestReserved(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		effective v1alpha1.EffectiveSpec
		want      int64
	}{
		"both streams, on each server": {v1alpha1.EffectiveSpec{
			Replicas: 3, Retention: v1alpha1.Retention{MaxAge: "1d", MaxBytes: quantity("10")}, Snapshots: v1alpha1.Snapshots{MaxBytes: quantity("5")},
		}, 45},
		"no limit of snapshots": {v1alpha1.EffectiveSpec{Replicas: 1, Retention: v1alpha1.Retention{MaxAge: "1d", MaxBytes: quantity("10")}}, math.MaxInt64},
		"more than can be counted": {v1alpha1.EffectiveSpec{
			Replicas: 5, Retention: v1alpha1.Retention{MaxAge: "1d", MaxBytes: quantity("7Ei")}, Snapshots: v1alpha1.Snapshots{MaxBytes: quantity("5")},
		}, math.MaxInt64},
	} {
		if got, err := stream.Reserved(test.effective); err != nil || got != test.want {
			t.Errorf("%s: %d, %v, want %d", name, got, err, test.want)
		}
	}
	streams := []v1alpha1.StreamStatus{{MaxBytes: 10, ReplicaCount: 3}, {MaxBytes: 5, ReplicaCount: 3}}
	if got := stream.ReservedBy(streams); got != 45 {
		t.Errorf("streams reserve %d", got)
	}
}

func TestFullness(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		bytes    uint64
		maxBytes int64
		was      bool
		percent  int
		full     bool
	}{
		"no limit":               {1 << 40, -1, false, 0, false},
		"half":                   {500, 1000, false, 50, false},
		"below the edge":         {799, 1000, false, 79, false},
		"at the edge":            {800, 1000, false, 80, true},
		"more than it may":       {1500, 1000, false, 150, true},
		"full, a little less":    {760, 1000, true, 76, true},
		"full, and much less":    {740, 1000, true, 74, false},
		"limit taken away again": {900, 0, true, 0, false},
	} {
		live := &jetstream.StreamInfo{Config: jetstream.StreamConfig{MaxBytes: test.maxBytes}, State: jetstream.StreamState{Bytes: test.bytes}}
		if percent, full := stream.Fullness(live, test.was); percent != test.percent || full != test.full {
			t.Errorf("%s: %d, %t", name, percent, full)
		}
	}
}

func TestSizeText(t *testing.T) {
	t.Parallel()
	for want, sizes := range map[string][2]int64{
		"0": {0, 0}, "1023": {1023, -1}, "1Ki": {1024, 0}, "1.5Ki": {1536, 0}, "812Mi of 1Gi": {812 << 20, 1 << 30}, "8Ei": {math.MaxInt64, 0},
	} {
		if got := stream.SizeText(sizes[0], sizes[1]); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

func TestEffective(t *testing.T) {
	t.Parallel()
	class := v1alpha1.Defaults{
		DuplicateWindow: "5m", Snapshots: v1alpha1.Snapshots{History: 3, MaxBytes: quantity("1Gi")},
		Protection: v1alpha1.ProtectionImmutable, DeletionPolicy: v1alpha1.DeletionPolicyDelete,
	}
	empty := func(s *v1alpha1.EventStore) { s.Spec = v1alpha1.EventStoreSpec{} }
	got := stream.Effective(orders(empty), class)
	if got.DuplicateWindow != "5m" || got.Snapshots.History != 3 || got.Protection != v1alpha1.ProtectionImmutable ||
		got.DeletionPolicy != v1alpha1.DeletionPolicyDelete || got.ManagementPolicy != v1alpha1.ManagementFull || got.AdoptionPolicy != v1alpha1.AdoptionRefuse {
		t.Errorf("of the class: %+v", got)
	}
	own := stream.Effective(orders(func(s *v1alpha1.EventStore) {
		s.Spec = v1alpha1.EventStoreSpec{
			DuplicateWindow: "1m", Snapshots: v1alpha1.Snapshots{History: 1}, Protection: v1alpha1.ProtectionErasable, DeletionPolicy: v1alpha1.DeletionPolicyRetain,
		}
	}), class)
	if own.DuplicateWindow != "1m" || own.Snapshots.History != 1 || own.Snapshots.MaxBytes == nil ||
		own.Protection != v1alpha1.ProtectionErasable || own.DeletionPolicy != v1alpha1.DeletionPolicyRetain {
		t.Errorf("of the store: %+v", own)
	}
	retains := stream.Effective(orders(empty, func(s *v1alpha1.EventStore) {
		s.Status.Effective = &v1alpha1.EffectiveSpec{DeletionPolicy: v1alpha1.DeletionPolicyRetain}
	}), class)
	if retains.DeletionPolicy != v1alpha1.DeletionPolicyRetain {
		t.Error("a store that retains deletes, since its class changed")
	}
}

// A store that is deleted goes on to delete when its streams were taken off the record and
// could not be deleted at once.
func TestDeletionPolicyOnRecord(t *testing.T) {
	t.Parallel()
	store := &v1alpha1.EventStore{}
	store.Status.Effective = &v1alpha1.EffectiveSpec{DeletionPolicy: v1alpha1.DeletionPolicyDelete}
	if got := stream.RecordedDeletionPolicy(store); got != "" {
		t.Errorf("of a store without streams: %q", got)
	}
	now := metav1.Now()
	store.DeletionTimestamp = &now
	if got := stream.RecordedDeletionPolicy(store); got != v1alpha1.DeletionPolicyDelete {
		t.Errorf("of one that is being deleted: %q", got)
	}
}
