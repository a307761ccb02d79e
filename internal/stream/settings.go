package stream

import (
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"k8s.io/apimachinery/pkg/api/resource"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
)

// settings are what an EventStore asks for, as JetStream takes it.
type settings struct {
	maxAge, duplicateWindow     time.Duration
	maxBytes, snapshotsMaxBytes int64
	replicas                    int
	storage                     v1alpha1.Storage
	compression                 v1alpha1.Compression
	placement                   *jetstream.Placement
	history                     int64
	immutable                   bool
	deletionPolicy              v1alpha1.DeletionPolicy
}

var errDeletesImmutable = errors.New("protection is Immutable and deletionPolicy is Delete, and the one promises what the other breaks: set spec.deletionPolicy to Retain, or spec.protection to Erasable")

// settingsOf reads what is asked for, with every default filled in.
func settingsOf(e v1alpha1.EffectiveSpec) (settings, error) {
	s := settings{
		replicas: int(e.Replicas), storage: e.Storage, compression: e.Compression,
		history: int64(e.Snapshots.History), immutable: e.Protection == v1alpha1.ProtectionImmutable,
		deletionPolicy: e.DeletionPolicy,
	}
	var err error
	if s.maxAge, err = ParseMaxAge(e.Retention.MaxAge); err != nil {
		return s, err
	}
	if s.duplicateWindow, err = parseDuration("duplicateWindow", e.DuplicateWindow); err != nil {
		return s, err
	}
	if s.maxBytes, err = bytesOf("retention.maxBytes", e.Retention.MaxBytes); err != nil {
		return s, err
	}
	if s.snapshotsMaxBytes, err = bytesOf("snapshots.maxBytes", e.Snapshots.MaxBytes); err != nil {
		return s, err
	}
	if p := e.Placement; p != nil {
		s.placement = &jetstream.Placement{Cluster: p.Cluster, Tags: p.Tags}
	}
	if s.immutable && e.DeletionPolicy == v1alpha1.DeletionPolicyDelete {
		return s, errDeletesImmutable
	}
	return s, nil
}

// bytesOf reads a number of bytes; nil is no limit.
func bytesOf(field string, quantity *resource.Quantity) (int64, error) {
	if quantity == nil {
		return unlimited, nil
	}
	if value := quantity.Value(); value > 0 && value < math.MaxInt64 && quantity.CmpInt64(value) == 0 {
		return value, nil
	}
	return 0, fmt.Errorf("%s %s is not a number of bytes that JetStream can count: write a whole number of 1 or more and less than 8Ei, such as 10Gi", field, quantity)
}
