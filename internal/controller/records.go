package controller

import (
	"sync"

	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
)

// records are what the statuses of EventStores said when they were last written, since
// the process started. A status that is taken away takes nothing with it by which a loss
// is judged, or by which streams stay.
type records struct {
	mu     sync.Mutex
	stores map[types.NamespacedName]record
}

type record struct {
	uid       types.UID
	className string
	effective *v1alpha1.EffectiveSpec
	streams   []v1alpha1.StreamStatus
}

func newRecords() *records { return &records{stores: map[types.NamespacedName]record{}} }

// wrote remembers a status that was written.
func (r *records) wrote(store *v1alpha1.EventStore) {
	status := store.Status.DeepCopy()
	for i := range status.Streams {
		status.Streams[i].Replicas = nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stores[client.ObjectKeyFromObject(store)] = record{store.UID, status.ClassName, status.Effective, status.Streams}
}

// read remembers a status that is as it was, where nothing is known of the store yet. It
// is from the cache, which may be behind what was written.
func (r *records) read(store *v1alpha1.EventStore) {
	r.mu.Lock()
	known := r.stores[client.ObjectKeyFromObject(store)].uid == store.UID
	r.mu.Unlock()
	if !known {
		r.wrote(store)
	}
}

// recall gives a store what is missing in its status and was there.
func (r *records) recall(store *v1alpha1.EventStore) {
	r.mu.Lock()
	known := r.stores[client.ObjectKeyFromObject(store)]
	r.mu.Unlock()
	if known.uid != store.UID {
		return
	}
	status := &store.Status
	if status.ClassName == "" {
		status.ClassName = known.className
	}
	if status.Effective == nil {
		status.Effective = known.effective.DeepCopy()
	}
	for _, recorded := range known.streams {
		if streamStatus(store, recorded.Role) == nil {
			status.Streams = append(status.Streams, *recorded.DeepCopy())
		}
	}
}

// forget forgets a store that is gone.
func (r *records) forget(store types.NamespacedName) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.stores, store)
}
