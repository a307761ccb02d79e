package controller

import (
	"context"
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/types"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/cache"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
)

// storeIndex finds EventStores in the cache just as they are there, to be read and
// never to be changed: copies of thousands would be garbage at once.
type storeIndex struct{ indexer toolscache.Indexer }

const (
	// byStream finds EventStores by the name of their stream of events, where
	// spec.namespace gives it. The others are found by their own name, since an entry
	// for each takes as much memory as half an EventStore.
	byStream = "eventsStream"
	// byClass finds EventStores by the class in use, "" while there is none.
	byClass = "class"
)

var indexers = toolscache.Indexers{
	byStream: func(o any) ([]string, error) {
		if store := o.(*v1alpha1.EventStore); store.EventNamespace() != store.Namespace {
			return []string{store.EventsStreamName()}, nil
		}
		return nil, nil
	},
	byClass: func(o any) ([]string, error) { return []string{classInUse(o.(*v1alpha1.EventStore))}, nil },
}

func newStoreIndex(ctx context.Context, from cache.Cache) (storeIndex, error) {
	informer, err := from.GetInformer(ctx, &v1alpha1.EventStore{}, cache.BlockUntilSynced(false))
	if err != nil {
		return storeIndex{}, fmt.Errorf("find the informer of EventStores: %w", err)
	}
	shared, ok := informer.(toolscache.SharedIndexInformer)
	if !ok {
		return storeIndex{}, fmt.Errorf("the informer of EventStores is a %T, which has no index", informer)
	}
	if err := shared.AddIndexers(indexers); err != nil {
		return storeIndex{}, fmt.Errorf("index EventStores: %w", err)
	}
	return storeIndex{shared.GetIndexer()}, nil
}

func (s storeIndex) all() []*v1alpha1.EventStore { return asStores(s.indexer.List()) }

func (s storeIndex) ofClass(name string) []*v1alpha1.EventStore { return s.find(byClass, name) }

// named is the EventStore of a name, nil for none.
func (s storeIndex) named(key types.NamespacedName) *v1alpha1.EventStore {
	// The index errs only where its key does, which is text.
	found, exists, _ := s.indexer.GetByKey(key.String())
	if !exists {
		return nil
	}
	return found.(*v1alpha1.EventStore)
}

func (s storeIndex) ofStream(events string) []*v1alpha1.EventStore {
	stores := s.find(byStream, events)
	namespace, name, _ := strings.Cut(events, "_")
	if found := s.named(types.NamespacedName{Namespace: namespace, Name: name}); found != nil && found.EventsStreamName() == events {
		stores = append(stores, found)
	}
	return stores
}

// withUID is asked seldom, and worth no index; nil for none.
func (s storeIndex) withUID(uid types.UID) *v1alpha1.EventStore {
	for _, store := range s.all() {
		if store.UID == uid {
			return store
		}
	}
	return nil
}

func (s storeIndex) inNamespace(name string) []*v1alpha1.EventStore {
	return s.find(toolscache.NamespaceIndex, name)
}

func (s storeIndex) find(index, value string) []*v1alpha1.EventStore {
	found, err := s.indexer.ByIndex(index, value)
	if err != nil {
		// Only an index that does not exist: a mistake in the code.
		panic(err)
	}
	return asStores(found)
}

func asStores(objects []any) []*v1alpha1.EventStore {
	stores := make([]*v1alpha1.EventStore, len(objects))
	for i, o := range objects {
		stores[i] = o.(*v1alpha1.EventStore)
	}
	return stores
}
