package controller

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/types"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/stream"
)

// sweeper looks at the streams of all stores of a class together, and wakes those
// of which something is to be done or told. Settled stores need not look for
// themselves then: thousands of them cost a few requests.
type sweeper struct {
	connector
	stores storeIndex
	homes  homes
	memory *stream.Memory
	// every is how long after a sweep the next one is made, at least.
	every time.Duration
	// wake wakes the store of a stream, or all of the class.
	wake func(stream.Notice)

	mu      sync.Mutex
	classes map[string]*sweptClass
}

// sweptClass is what is known of the sweeps of one class.
type sweptClass struct {
	// sweeps counts them, and workloads is what the credentials of its workloads
	// were.
	sweeps    int
	workloads [sha256.Size]byte
	// first makes the first sweep of a connection, conn, for all who ask.
	conn  *stream.Conn
	first *sync.Once

	// settled are the stores that the sweep of that time has seen to be just as they
	// should be, in that generation of the class.
	settled         map[types.UID]settledStore
	at              time.Time
	classGeneration int64
}

type settledStore struct {
	generation int64
	// empty: no event was ever stored.
	empty bool
}

const (
	// figuresEvery is in which sweep figures that have hardly changed are told: every
	// five minutes with the usual interval.
	figuresEvery = 10
	// sweepAge is how long a sweep stands for a look at a store of which nothing was
	// told since: as long as it takes to go through thousands of stores once.
	sweepAge = 30 * time.Second
)

func newSweeper(c connector, stores storeIndex, homes homes, memory *stream.Memory, every time.Duration, wake func(stream.Notice)) *sweeper {
	return &sweeper{connector: c, stores: stores, homes: homes, memory: memory, every: every, wake: wake, classes: map[string]*sweptClass{}}
}

// of is what is known of a class; its fields are guarded by s.mu.
func (s *sweeper) of(class string) *sweptClass {
	if s.classes[class] == nil {
		s.classes[class] = &sweptClass{}
	}
	return s.classes[class]
}

// forget forgets a class that is gone, but not what was seen of the streams of stores that
// name it still: it may be applied again, as when it is replaced.
func (s *sweeper) forget(class string) {
	kept := map[string]bool{}
	for _, store := range s.stores.ofClass(class) {
		kept[store.EventsStreamName()], kept[store.SnapshotsStreamName()] = true, true
	}
	s.memory.Keep(class, kept)
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.classes, class)
}

// sawSettled says whether a sweep of a moment ago has seen a store to be just as it
// should be, and nothing was told since. The first to ask on a connection sweeps:
// after a start all stores ask at once.
func (s *sweeper) sawSettled(ctx context.Context, class *v1alpha1.EventStoreClass, conn *stream.Conn, store *v1alpha1.EventStore) (settledStore, bool) {
	s.firstOn(class.Name, conn).Do(func() {
		// When it fails each store looks for itself.
		_ = s.look(ctx, class, conn)
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	swept := s.of(class.Name)
	if time.Since(swept.at) > sweepAge || swept.classGeneration != class.Generation {
		return settledStore{}, false
	}
	seen, ok := swept.settled[store.UID]
	ok = ok && seen.generation == store.Generation && !conn.Told(store.EventsStreamName()) && !conn.Told(store.SnapshotsStreamName())
	return seen, ok
}

func (s *sweeper) firstOn(class string, conn *stream.Conn) *sync.Once {
	s.mu.Lock()
	defer s.mu.Unlock()
	swept := s.of(class)
	if swept.conn != conn {
		swept.conn, swept.first = conn, &sync.Once{}
	}
	return swept.first
}

// sweep looks at all stores of a class, unless that was done a moment ago: a class
// is looked at for other reasons too.
func (s *sweeper) sweep(ctx context.Context, class *v1alpha1.EventStoreClass, conn *stream.Conn) error {
	if s.isFresh(class, conn) {
		return nil
	}
	if err := s.checkWorkloads(ctx, class); err != nil {
		return err
	}
	var err error
	swept := false
	s.firstOn(class.Name, conn).Do(func() { err, swept = s.look(ctx, class, conn), true })
	if !swept {
		err = s.look(ctx, class, conn)
	}
	if fault, ok := stream.AsFault(err); ok && fault.Reason == v1alpha1.ReasonPermissionDenied {
		// Then each store looks for itself.
		return nil
	}
	return err
}

// tellsAll says whether it is time to tell of the smallest change of a figure.
func (s *sweeper) tellsAll(class string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.of(class).sweeps%figuresEvery == 0
}

func (s *sweeper) isFresh(class *v1alpha1.EventStoreClass, conn *stream.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	swept := s.of(class.Name)
	return swept.conn == conn && swept.classGeneration == class.Generation && time.Since(swept.at) < s.every
}

// expire says that what was seen of a class does not hold any more.
func (s *sweeper) expire(class string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.of(class).at = time.Time{}
}

// look lists all streams and judges the stores that have settled.
func (s *sweeper) look(ctx context.Context, class *v1alpha1.EventStoreClass, conn *stream.Conn) error {
	looked := &lookAt{sweeper: s, class: class, conn: conn, started: time.Now(), waiting: map[string]*pair{}, settled: map[types.UID]settledStore{}}
	looked.asking.SetLimit(asked)
	looked.prepare(ctx)
	// The status of a store whose pass began before has been written, and says its class.
	conn.KeepFirstEvents(looked.kept, looked.started.Add(-passTimeout-reportTimeout))
	err := conn.List(ctx, func(name string, live *liveStream) { looked.found(ctx, name, live) })
	// None of them fails: each ends in what is known of a store.
	_ = looked.asking.Wait()
	if err != nil {
		return err
	}
	looked.end()
	return nil
}

// lookAt is one look at all stores of a class.
type lookAt struct {
	*sweeper
	class   *v1alpha1.EventStoreClass
	conn    *stream.Conn
	started time.Time
	// anyChange: the smallest change of a figure is worth telling.
	anyChange bool
	// waiting are the stores that have settled, by the name of their stream of
	// events, until both streams were found.
	waiting map[string]*pair
	kept    map[string]bool
	// asking are the questions about the places of streams, and unanswered counts those
	// that failed.
	asking     errgroup.Group
	unanswered atomic.Int32

	judging sync.Mutex
	settled map[types.UID]settledStore
}

// pair is a store and its streams, as far as they were found.
type pair struct {
	store *v1alpha1.EventStore
	home  stream.Home
	live  [2]*liveStream
}

// prepare finds the stores to judge. One that has not settled looks for itself.
func (l *lookAt) prepare(ctx context.Context) {
	stores := l.stores.ofClass(l.class.Name)
	l.mu.Lock()
	swept := l.of(l.class.Name)
	swept.sweeps++
	// What was told until now is forgotten as the listing begins, and what the sweep
	// before has seen counts only together with it.
	swept.settled = nil
	l.anyChange = swept.sweeps%figuresEvery == 0
	l.mu.Unlock()
	l.kept = make(map[string]bool, 2*len(stores))
	homes := map[string]stream.Home{}
	for _, store := range stores {
		l.kept[store.EventsStreamName()], l.kept[store.SnapshotsStreamName()] = true, true
		if hasSettled(store) {
			if _, known := homes[store.Namespace]; !known {
				// When it fails the streams seem to be another's, and the store looks for itself.
				homes[store.Namespace], _ = l.homes.of(ctx, store.Namespace)
			}
			l.waiting[store.EventsStreamName()] = &pair{store: store, home: homes[store.Namespace]}
		} else if len(store.Status.Conditions) == 0 {
			// Nobody has looked yet, or the status was taken away, of which no watch tells.
			l.wake(stream.Notice{Class: l.class.Name, Stream: store.EventsStreamName()})
		}
	}
}

func hasSettled(store *v1alpha1.EventStore) bool {
	ready, _ := readyChange(nil, store.Status.Conditions)
	return ready != nil && (ready.Reason == v1alpha1.ReasonReady || ready.Reason == v1alpha1.ReasonObserved)
}

// found takes a stream of the listing, nil where no server could tell.
func (l *lookAt) found(ctx context.Context, name string, live *liveStream) {
	events, _ := stream.StoreOfStream(name)
	p := l.waiting[events]
	if p == nil {
		return
	}
	role := 0
	if name != events {
		role = 1
	}
	if live == nil {
		// Its replicas are not current.
		delete(l.waiting, events)
		l.judged(p, false)
		return
	}
	p.live[role] = live
	if p.live[0] == nil || p.live[1] == nil {
		return
	}
	delete(l.waiting, events)
	if l.wantsLook(p) {
		l.judged(p, false)
		return
	}
	places := l.elsewhere(p)
	if places == [2]*v1alpha1.StreamStatus{} {
		l.judged(p, true)
		return
	}
	l.asking.Go(func() error {
		l.judged(p, l.goesOn(ctx, p, places))
		return nil
	})
}

func (l *lookAt) judged(p *pair, settled bool) {
	for _, live := range p.live {
		switch {
		case live == nil:
		case settled:
			l.memory.Note(l.class.Name, live)
		default:
			l.memory.NoteUnjudged(l.class.Name, live)
		}
	}
	if !settled {
		l.wake(stream.Notice{Class: l.class.Name, Stream: p.store.EventsStreamName()})
		return
	}
	l.judging.Lock()
	defer l.judging.Unlock()
	l.settled[p.store.UID] = settledStore{generation: p.store.Generation, empty: p.live[0].State.LastSeq == 0}
}

// end wakes the stores whose streams are not there.
func (l *lookAt) end() {
	for _, p := range l.waiting {
		l.judged(p, false)
	}
	l.memory.Keep(l.class.Name, l.kept)
	l.mu.Lock()
	defer l.mu.Unlock()
	swept := l.of(l.class.Name)
	swept.settled, swept.at, swept.classGeneration = l.settled, l.started, l.class.Generation
}

// wantsLook says whether something is to be done or told.
func (l *lookAt) wantsLook(p *pair) bool {
	wanted := wantedOf(p.store, p.home, l.class, p.live[:])
	if !l.isSettled(p, wanted) {
		return true
	}
	if was := isFull(p.store); p.store.Status.Effective == nil || was != (len(fullTexts(p.live[:], was)) > 0) {
		return true
	}
	for i, w := range wanted {
		told := streamStatus(p.store, w.Role)
		if told == nil || stream.WorthTelling(*told, stream.RecordOf(w, p.live[i], told), l.anyChange) {
			return true
		}
	}
	return false
}

// isSettled says whether the streams of a store are just as they should be.
func (l *lookAt) isSettled(p *pair, wanted []stream.Wanted) bool {
	if wanted == nil || slices.Contains(p.live[:], nil) {
		return false
	}
	now := time.Now()
	for i, w := range wanted {
		live, seen := p.live[i], seenOf(p.store, l.class, l.memory, w.Role)
		current, _ := stream.ReplicasCurrent(live)
		if !current || stream.OwnershipOf(stream.OwnerOf(p.store, p.home), live, seen) != stream.Ours || stream.LossOf(seen, live, now) != nil ||
			!stream.NewPlan(w, live, now).Settled() {
			return false
		}
	}
	return true
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
	swept := s.of(class.Name)
	before := swept.workloads
	swept.workloads = now
	s.mu.Unlock()
	if before != [sha256.Size]byte{} && before != now {
		s.wake(stream.Notice{Class: class.Name})
	}
	return nil
}
