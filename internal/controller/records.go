package controller

import (
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/stream"
)

// records are what the statuses of EventStores said when they were last written, since
// the process started. A status that is taken away takes nothing with it by which a loss
// is judged, or by which streams stay.
type records struct {
	mu     sync.Mutex
	stores map[types.NamespacedName]record
}

// record is what is kept of one status: with thousands of stores a whole one each would be
// a tenth of the memory.
type record struct {
	uid            types.UID
	className      string
	storage        v1alpha1.Storage
	protection     v1alpha1.Protection
	deletionPolicy v1alpha1.DeletionPolicy
	// streams are those of events and of snapshots.
	streams [2]recordedStream
}

// recordedStream is what a loss is judged by, and what a stream reserves. Times are in
// microseconds, 0 for none.
type recordedStream struct {
	created, lastTime     int64
	messages, first, last int64
	maxBytes              int64
	replicas              int32
	maxAge, nextMaxAge    string
}

func newRecords() *records { return &records{stores: map[types.NamespacedName]record{}} }

// wrote remembers a status that was written.
func (r *records) wrote(store *v1alpha1.EventStore) {
	status := &store.Status
	now := record{uid: store.UID, className: shared(status.ClassName)}
	if e := status.Effective; e != nil {
		now.storage, now.protection, now.deletionPolicy = e.Storage, e.Protection, e.DeletionPolicy
	}
	for i, role := range roles {
		if s := streamStatus(store, role); s != nil && s.Created != nil {
			now.streams[i] = recordedStream{
				created: s.Created.UnixMicro(), messages: s.Messages, first: s.FirstSequence, last: s.LastSequence,
				maxBytes: s.MaxBytes, replicas: s.ReplicaCount, maxAge: shared(s.MaxAge), nextMaxAge: shared(s.NextMaxAge),
			}
			if s.LastTime != nil {
				now.streams[i].lastTime = s.LastTime.UnixMicro()
			}
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stores[client.ObjectKeyFromObject(store)] = now
}

var roles = [2]v1alpha1.StreamRole{v1alpha1.StreamRoleEvents, v1alpha1.StreamRoleSnapshots}

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

// recall gives a store what is missing in its status and was there. The figures of a
// stream, and what is in effect by the class, the next look tells.
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
	if status.Effective == nil && known.deletionPolicy != "" {
		effective := stream.Effective(store, v1alpha1.Defaults{Storage: known.storage, Protection: known.protection, DeletionPolicy: known.deletionPolicy})
		// What the spec asks for may not count.
		effective.DeletionPolicy = known.deletionPolicy
		status.Effective = &effective
	}
	names := [2]string{store.EventsStreamName(), store.SnapshotsStreamName()}
	for i, recorded := range known.streams {
		if recorded.created != 0 && streamStatus(store, roles[i]) == nil {
			status.Streams = append(status.Streams, recorded.status(roles[i], names[i]))
		}
	}
}

func (s recordedStream) status(role v1alpha1.StreamRole, name string) v1alpha1.StreamStatus {
	return v1alpha1.StreamStatus{
		Role: role, Name: name, Created: microTime(s.created), LastTime: microTime(s.lastTime), MaxAge: s.maxAge, NextMaxAge: s.nextMaxAge,
		Messages: s.messages, FirstSequence: s.first, LastSequence: s.last, MaxBytes: s.maxBytes, ReplicaCount: s.replicas,
	}
}

func microTime(micros int64) *metav1.MicroTime {
	if micros == 0 {
		return nil
	}
	at := metav1.NewMicroTime(time.UnixMicro(micros))
	return &at
}

// forget forgets a store that is gone.
func (r *records) forget(store types.NamespacedName) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.stores, store)
}
