package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
)

// loaders is how many requests of the load are under way at once.
const loaders = 8

// storeAt is one of the stores, as far as its name.
func storeAt(i int) *v1alpha1.EventStore {
	return &v1alpha1.EventStore{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: fmt.Sprintf("store-%05d", i)}}
}

func (b *bench) each(ctx context.Context, do func(context.Context, int) error) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(loaders)
	for i := range b.stores {
		group.Go(func() error { return do(ctx, i) })
	}
	return group.Wait()
}

// allReady watches until every store is Ready in a generation at least so high.
func (b *bench) allReady(ctx context.Context, generation int64) (func() error, error) {
	ready := map[string]bool{}
	see := func(store *v1alpha1.EventStore) {
		if store.Status.ObservedGeneration >= generation && meta.IsStatusConditionTrue(store.Status.Conditions, v1alpha1.ConditionReady) {
			ready[store.Name] = true
		}
	}
	watching, err := b.watchStores(ctx, see)
	if err != nil {
		return nil, err
	}
	done := make(chan error, 1)
	go func() {
		for {
			for event := range watching.ResultChan() {
				if store, ok := event.Object.(*v1alpha1.EventStore); ok {
					see(store)
				}
				if len(ready) == b.stores {
					watching.Stop()
					done <- nil
					return
				}
			}
			// A watcher that is slow on a busy machine is cut off.
			if watching, err = b.watchStores(ctx, see); err != nil {
				done <- fmt.Errorf("watch again with %d of %d stores Ready: %w", len(ready), b.stores, err)
				return
			}
		}
	}()
	return func() error { return <-done }, nil
}

// watchStores sees all that are there and gives what tells of the changes since.
func (b *bench) watchStores(ctx context.Context, see func(*v1alpha1.EventStore)) (watch.Interface, error) {
	var now v1alpha1.EventStoreList
	if err := b.k8s.List(ctx, &now, client.InNamespace(namespace)); err != nil {
		return nil, err
	}
	for i := range now.Items {
		see(&now.Items[i])
	}
	return b.k8s.Watch(ctx, &v1alpha1.EventStoreList{}, client.InNamespace(namespace),
		&client.ListOptions{Raw: &metav1.ListOptions{ResourceVersion: now.ResourceVersion}})
}

func (b *bench) create(ctx context.Context) error {
	wait, err := b.allReady(ctx, 1)
	if err != nil {
		return err
	}
	err = b.each(ctx, func(ctx context.Context, i int) error {
		store := storeAt(i)
		store.Spec.Replicas = int32(b.replicas)
		return b.k8s.Create(ctx, store)
	})
	if err != nil {
		return err
	}
	return wait()
}

const changedAge = 30 * 24 * time.Hour

func (b *bench) update(ctx context.Context) error {
	wait, err := b.allReady(ctx, 2)
	if err != nil {
		return err
	}
	err = b.each(ctx, func(ctx context.Context, i int) error {
		return b.k8s.Patch(ctx, storeAt(i), client.RawPatch(types.MergePatchType, []byte(`{"spec":{"retention":{"maxAge":"30d"}}}`)))
	})
	if err != nil {
		return err
	}
	return wait()
}

// checkUpdated: what the stores say of themselves is true.
func (b *bench) checkUpdated(ctx context.Context) error {
	for i := range b.stores {
		live, err := b.js.Stream(ctx, storeAt(i).EventsStreamName())
		if err != nil {
			return err
		}
		if age := live.CachedInfo().Config.MaxAge; age != changedAge {
			return fmt.Errorf("store %d is Ready, and the maxAge of its stream is %s", i, age)
		}
	}
	return nil
}

// restart waits until a new operator has looked at every store.
func (b *bench) restart(ctx context.Context) error {
	if err := b.stopOperator(); err != nil {
		return err
	}
	if err := b.startOperator(ctx); err != nil {
		return err
	}
	return b.until(ctx, "every store to be looked at", func(ctx context.Context) error {
		families, err := b.scrape(ctx)
		if n := passes(families); err != nil || int(n) < b.stores {
			return fmt.Errorf("%.0f of %d: %w", n, b.stores, err)
		}
		return nil
	})
}

// healField changes the age of a stream and waits until it is as it was.
func (b *bench) healField(ctx context.Context, i int) (time.Duration, error) {
	name := storeAt(i).EventsStreamName()
	live, err := b.js.Stream(ctx, name)
	if err != nil {
		return 0, err
	}
	config := live.CachedInfo().Config
	config.MaxAge = 2 * changedAge
	if _, err := b.js.UpdateStream(ctx, config); err != nil {
		return 0, err
	}
	started := time.Now()
	err = b.until(ctx, name+" to be healed", func(ctx context.Context) error {
		live, err := b.js.Stream(ctx, name)
		if err == nil && live.CachedInfo().Config.MaxAge != changedAge {
			err = fmt.Errorf("its maxAge is %s", live.CachedInfo().Config.MaxAge)
		}
		return err
	})
	return time.Since(started), err
}

// healStream deletes a stream that holds an event, accepts the loss once it is
// told, and waits until the stream is there again.
func (b *bench) healStream(ctx context.Context, i int) (time.Duration, error) {
	name := storeAt(i).EventsStreamName()
	if _, err := b.js.Publish(ctx, name+".events.order.order-1", []byte("{}")); err != nil {
		return 0, err
	}
	if err := b.untilStore(ctx, i, "to know of the event", func(s *v1alpha1.EventStore) bool {
		return len(s.Status.Streams) > 0 && s.Status.Streams[0].LastSequence > 0
	}); err != nil {
		return 0, err
	}
	if err := b.js.DeleteStream(ctx, name); err != nil {
		return 0, err
	}
	if err := b.untilStore(ctx, i, "to tell of the loss", func(s *v1alpha1.EventStore) bool {
		return meta.IsStatusConditionTrue(s.Status.Conditions, v1alpha1.ConditionDataLoss)
	}); err != nil {
		return 0, err
	}
	store := storeAt(i)
	if err := b.k8s.Get(ctx, client.ObjectKeyFromObject(store), store); err != nil {
		return 0, err
	}
	before := store.DeepCopy()
	told := meta.FindStatusCondition(store.Status.Conditions, v1alpha1.ConditionDataLoss).Message
	token := told[strings.LastIndex(told, "=")+1:]
	store.Annotations = map[string]string{v1alpha1.AnnotationAcceptDataLoss: token}
	started := time.Now()
	if err := b.k8s.Patch(ctx, store, client.MergeFrom(before)); err != nil {
		return 0, err
	}
	err := b.until(ctx, name+" to be made again", func(ctx context.Context) error {
		_, err := b.js.Stream(ctx, name)
		return err
	})
	return time.Since(started), err
}

func (b *bench) untilStore(ctx context.Context, i int, what string, done func(*v1alpha1.EventStore) bool) error {
	return b.until(ctx, "store "+storeAt(i).Name+" "+what, func(ctx context.Context) error {
		store := storeAt(i)
		if err := b.k8s.Get(ctx, client.ObjectKeyFromObject(store), store); err != nil {
			return err
		}
		if !done(store) {
			return fmt.Errorf("its status is %+v", store.Status)
		}
		return nil
	})
}
