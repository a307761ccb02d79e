package controller

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"sync"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/stream"
)

// sweeper looks at the streams of all stores of a class together, and wakes those
// of which something is to be done or told. Settled stores need not look for
// themselves then: thousands of them cost a few requests.
type sweeper struct {
	connector
	client client.Client
	// wake wakes the store of a stream, or all of the class.
	wake func(stream.Notice)

	mu sync.Mutex
	// sweeps counts those of each class, and workloads is what the credentials of
	// its workloads were.
	sweeps    map[string]int
	workloads map[string][sha256.Size]byte
}

// figuresEvery is in which sweep figures that have hardly changed are told: every
// five minutes with the usual interval.
const figuresEvery = 10

func (s *sweeper) sweep(ctx context.Context, class *v1alpha1.EventStoreClass, conn *stream.Conn) error {
	if err := s.checkWorkloads(ctx, class); err != nil {
		return err
	}
	listing, err := conn.List(ctx)
	if err != nil {
		if fault, ok := stream.AsFault(err); ok && fault.Reason == v1alpha1.ReasonPermissionDenied {
			// Then each store looks for itself.
			return nil
		}
		return err
	}
	var stores v1alpha1.EventStoreList
	if err := s.client.List(ctx, &stores, client.MatchingFields{indexClass: class.Name}); err != nil {
		return fmt.Errorf("list the EventStores of EventStoreClass %s: %w", class.Name, err)
	}
	anyChange := s.count(class.Name)%figuresEvery == 0
	for i := range stores.Items {
		if store := &stores.Items[i]; wantsLook(store, class, listing, anyChange) {
			s.wake(stream.Notice{Class: class.Name, Stream: store.EventsStreamName()})
		}
	}
	return nil
}

func (s *sweeper) count(class string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sweeps[class]++
	return s.sweeps[class]
}

// wantsLook says whether a store that has settled is to be looked at. One that
// has not looks for itself.
func wantsLook(store *v1alpha1.EventStore, class *v1alpha1.EventStoreClass, listing *stream.Listing, anyChange bool) bool {
	ready, _ := readyChange(nil, store.Status.Conditions)
	if ready == nil || ready.Reason != v1alpha1.ReasonReady && ready.Reason != v1alpha1.ReasonObserved {
		return false
	}
	names := []string{store.EventsStreamName(), store.SnapshotsStreamName()}
	live := make([]*liveStream, len(names))
	for i, name := range names {
		found, known := listing.Find(name)
		if !known {
			// No server could tell: its replicas are not current.
			return true
		}
		live[i] = found
	}
	wanted := wantedOf(store, class, live)
	if !isSettled(store, wanted, live) {
		return true
	}
	for i, w := range wanted {
		told := streamStatus(store, w.Role)
		if told == nil || stream.WorthTelling(*told, stream.StatusOf(w.Role, live[i]), anyChange) {
			return true
		}
	}
	return false
}

// checkWorkloads wakes all stores of a class when the Secret that their bindings
// copy has changed: Secrets with credentials are not watched.
func (s *sweeper) checkWorkloads(ctx context.Context, class *v1alpha1.EventStoreClass) error {
	var data map[string][]byte
	field, from := "spec.workloads.credentials", class.Spec.Workloads.Credentials
	if callout := class.Spec.Workloads.Callout; callout != nil {
		field, from = calloutField, &v1alpha1.Credentials{SecretRef: callout.SecretRef}
	}
	if from != nil {
		var err error
		if data, err = s.credentials(ctx, field, class, from); err != nil {
			if _, fault := stream.AsFault(err); !fault {
				return err
			}
			// The stores tell.
			data = nil
		}
	}
	encoded, err := json.Marshal(data)
	if err != nil {
		return fmt.Errorf("encode the credentials of workloads: %w", err)
	}
	now := sha256.Sum256(encoded)
	s.mu.Lock()
	before, known := s.workloads[class.Name]
	s.workloads[class.Name] = now
	s.mu.Unlock()
	if known && before != now {
		s.wake(stream.Notice{Class: class.Name})
	}
	return nil
}
