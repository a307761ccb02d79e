package controller

import (
	"context"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	toolscache "k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/pager"
)

const (
	// listPage is how many objects are in memory as the API server gives them. They have
	// up to 1.5 MiB each, and may take four times of that while they are decoded.
	listPage = 20
	// listPatience is how long a page may take: other caches wait for it.
	listPatience = time.Minute
)

// pagedInformer lists in pages, and slims each before it asks for the next. An informer
// of client-go has the whole list in memory first, where the API server does not stream
// lists: before Kubernetes 1.34, or with the feature WatchList turned off.
type pagedInformer struct {
	toolscache.SharedIndexInformer
	pages *pagedLister
}

// newPagedInformer gives a maker of informers that share one turn: no two of them have a
// page in memory at the same time.
func newPagedInformer() func(toolscache.ListerWatcher, runtime.Object, time.Duration, toolscache.Indexers) toolscache.SharedIndexInformer {
	turn := make(chan struct{}, 1)
	return func(source toolscache.ListerWatcher, object runtime.Object, resync time.Duration, indexers toolscache.Indexers) toolscache.SharedIndexInformer {
		pages := &pagedLister{source: toolscache.ToListerWatcherWithContext(source), turn: turn}
		paged := &toolscache.ListWatch{ListWithContextFunc: pages.list, WatchFuncWithContext: pages.source.WatchWithContext}
		return &pagedInformer{SharedIndexInformer: toolscache.NewSharedIndexInformer(paged, object, resync, indexers), pages: pages}
	}
}

// SetTransform is called before the informer runs, or gives an error. The transform is
// asked twice about what is listed, here and by the informer.
func (i *pagedInformer) SetTransform(transform toolscache.TransformFunc) error {
	if err := i.SharedIndexInformer.SetTransform(transform); err != nil {
		return err
	}
	i.pages.transform = transform
	return nil
}

// pagedLister lists what an informer keeps.
type pagedLister struct {
	source    toolscache.ListerWatcherWithContext
	transform toolscache.TransformFunc
	turn      chan struct{}
}

// list gives the whole list, slim. It asks for the newest version, whatever version is
// good enough for the informer: for any other the API server gives all in one answer.
func (l *pagedLister) list(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
	options.ResourceVersion, options.ResourceVersionMatch, options.Limit = "", "", listPage
	// If a list has expired, the informer begins anew. The pager would ask for all at once.
	pages := pager.ListPager{PageFn: l.page, FullListIfExpired: false}
	list, _, err := pages.ListWithAlloc(ctx, options)
	return list, err
}

// page waits for its turn, and gives a page whose objects are slim.
func (l *pagedLister) page(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
	select {
	case l.turn <- struct{}{}:
		defer func() { <-l.turn }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	ctx, cancel := context.WithTimeout(ctx, listPatience)
	defer cancel()
	page, err := l.source.ListWithContext(ctx, options)
	if err != nil {
		return nil, err
	}
	return slimPage(page, l.transform)
}

// slimPage gives a page whose objects are as the cache keeps them.
func slimPage(page runtime.Object, transform toolscache.TransformFunc) (runtime.Object, error) {
	about, err := meta.ListAccessor(page)
	if err != nil {
		return nil, fmt.Errorf("read the page of a list, a %T: %w", page, err)
	}
	slim := &internalversion.List{ListMeta: metav1.ListMeta{ResourceVersion: about.GetResourceVersion(), Continue: about.GetContinue()}}
	err = meta.EachListItemWithAlloc(page, func(item runtime.Object) error {
		kept := any(item)
		if transform != nil {
			if kept, err = transform(item); err != nil {
				return fmt.Errorf("slim a %T of a list: %w", item, err)
			}
		}
		object, ok := kept.(runtime.Object)
		if !ok {
			return fmt.Errorf("slim a %T of a list: the transform made a %T of it, which is no object: mend the transform", item, kept)
		}
		slim.Items = append(slim.Items, object)
		return nil
	})
	return slim, err
}
