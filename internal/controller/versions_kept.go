package controller

import (
	"context"
	"errors"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
	layout "git.flowmade.one/flowmade-one/aether-operator/api/eventstore/jetstream"
	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/stream"
)

// watchEvery is how often it is looked for stores that wait too long.
const watchEvery = time.Second

// keptStore is how far the versions of one store are kept.
type keptStore struct {
	// lower is an age that max_age is to be lowered to, once all is kept that then
	// expires; 0 for none.
	lower time.Duration
	// fault is why nothing can be kept until a person does something; nil for nothing.
	fault *stream.Fault
	// left is why versions of some actors are not kept though the servers answer, which may pass;
	// nil for none.
	left *stream.Fault
	// late: the last turn has ended since an answer did not come, or not in time.
	late bool
	// looked: a turn has come to an end. age is that of events, 0 for ever, and before a
	// turn what the status has.
	looked bool
	age    time.Duration
	// due is when there is something to do, zero for never, and behind since when it should
	// have been done, zero for done.
	due, behind time.Time
	// woken: the reconciler of EventStores was woken to tell that it is late.
	woken bool
}

// ageOnRecord is after how long events of a store expire, as its status has it; 0 is never,
// or not known.
func ageOnRecord(store *v1alpha1.EventStore) time.Duration {
	recorded := streamStatus(store, v1alpha1.StreamRoleEvents)
	if recorded == nil || recorded.MaxAge == "" {
		return 0
	}
	// Who has written something else there hears of it when the store is looked at.
	age, _ := stream.ParseMaxAge(recorded.MaxAge)
	return age
}

// since is since when, or from when on, there is something to do; zero for never.
func (s keptStore) since() time.Time {
	if !s.behind.IsZero() {
		return s.behind
	}
	return s.due
}

// ends is when events expire of which nobody has looked at the first ones; zero for never.
func (s keptStore) ends() time.Time {
	if s.age == 0 || s.since().IsZero() {
		return time.Time{}
	}
	return s.since().Add(layout.KeepWindow(s.age))
}

// waiting is the store before its first turn: it waits since now at the latest.
func (s keptStore) waiting(store *v1alpha1.EventStore, now time.Time) keptStore {
	age := ageOnRecord(store)
	if age == 0 || s.age != 0 && s.age <= age {
		return s
	}
	if s.age = age; s.since().IsZero() {
		s.due = now
	}
	return s
}

// outcome is what is told of a store. An outage that passes is not, until half of the
// time is over that there is: Connected and Ready have it.
func (s keptStore) outcome(now time.Time) *stream.Fault {
	if s.fault != nil {
		return s.fault
	}
	ends := s.ends()
	if ends.IsZero() || now.Sub(s.since()) < layout.KeepWindow(s.age)/2 {
		return nil
	}
	if s.left != nil {
		return s.left
	}
	return stream.Retrying(v1alpha1.ReasonVersionsBehind,
		"events have been waiting since %s to be looked at; those expire from %s on, and the latest versions of their actors go back then: see that the NATS servers answer and are not too busy, and that not too many other stores wait, or set spec.retention.maxAge higher; the metric aether_eventstore_versions_behind_seconds tells for how long",
		s.since().UTC().Format(time.RFC3339), ends.UTC().Format(time.RFC3339))
}

// unfinished is a store of which not all could be kept that was due.
func (s keptStore) unfinished(kept layout.KeptVersions, now time.Time) keptStore {
	if s.looked = true; kept.MaxAge != 0 {
		s.age = kept.MaxAge
	}
	switch {
	case kept.Behind > 0:
		s.behind = now.Add(-kept.Behind)
	case s.behind.IsZero() && s.due.IsZero():
		s.behind = now
	case s.behind.IsZero():
		s.behind = s.due
	}
	return s
}

// failed is a store whose last turn has ended with an error, nil for none.
func (s keptStore) failed(err error) keptStore {
	s.fault, s.left = nil, nil
	switch fault, isFault := stream.AsFault(err); {
	case isFault && fault.Handling == stream.Stall:
		s.fault = fault
	case isFault && fault.Reason == v1alpha1.ReasonVersionsBehind:
		s.left = fault
	}
	return s
}

// note remembers what came of a turn, and says whether the reconciler of EventStores has
// something to do or to tell.
func (r *VersionReconciler) note(store *v1alpha1.EventStore, opts layout.KeepOptions, kept layout.KeptVersions, err error) bool {
	key, now := client.ObjectKeyFromObject(store), time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.kept[key]
	lowered, leftBefore := false, s.left != nil
	switch done := err == nil && !kept.More; {
	case done && opts.MaxAge != 0:
		// What is due for the age that the stream has comes next.
		lowered = s.lower == opts.MaxAge
		if lowered {
			s.lower = 0
		}
	case done:
		s = keptStore{lower: s.lower, looked: true, age: kept.MaxAge, woken: s.woken}
		if kept.MaxAge != 0 {
			s.due = now.Add(kept.Next)
		}
	case opts.MaxAge == 0:
		s = s.unfinished(kept, now)
	}
	if opts.MaxAge == 0 || err != nil {
		s = s.failed(err)
	}
	s.late = errors.Is(err, eventstore.ErrUnavailable)
	outcome, told := s.outcome(now), meta.FindStatusCondition(store.Status.Conditions, v1alpha1.ConditionVersionsNotKept)
	// Why max_age cannot be lowered it finds out by itself, once woken.
	held := opts.MaxAge != 0 && s.left != nil && !leftBefore
	// What it was woken for need not be in the status that this turn began with.
	wakes := lowered || held || (outcome != nil) != (told != nil) || outcome != nil && outcome.Reason != told.Reason || outcome == nil && s.woken
	s.woken = s.woken && outcome != nil
	r.kept[key] = s
	return wakes
}

// watch has it told that versions of stores are behind which do not come to their turn, until
// the context ends.
func (r *VersionReconciler) watch(ctx context.Context) error {
	ticker := time.NewTicker(watchEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		for _, late := range r.becameLate(time.Now()) {
			r.wake(late)
		}
	}
}

// becameLate are the stores of which it is to be told that they are behind, and was not.
func (r *VersionReconciler) becameLate(now time.Time) (late []stream.Notice) {
	// A store that is forgotten is none of the index any more, or not to be kept there.
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, store := range r.stores.all() {
		if !keepsVersions(store) {
			continue
		}
		key := client.ObjectKeyFromObject(store)
		before, known := r.kept[key]
		s := before.waiting(store, now)
		if !s.woken && s.fault == nil && s.outcome(now) != nil {
			s.woken = true
			late = append(late, stream.Notice{Class: classInUse(store), Stream: store.EventsStreamName()})
		}
		if known && s != before || !known && s.age != 0 {
			r.kept[key] = s
		}
	}
	return late
}

// facts are what is known of a store that comes into the line.
func (r *VersionReconciler) facts(key types.NamespacedName) keepFacts {
	now := time.Now()
	store := r.stores.named(key)
	if store == nil {
		// Its turn is to forget it.
		return keepFacts{ends: now.Add(keepForever)}
	}
	r.mu.Lock()
	kept := r.kept[key].waiting(store, now)
	r.mu.Unlock()
	ends := kept.ends()
	if ends.IsZero() {
		ends = now.Add(keepForever)
	}
	return keepFacts{class: classInUse(store), ends: ends, late: kept.late}
}

// outcome is why versions of a store are not kept, nil for nothing, where that is known.
func (r *VersionReconciler) outcome(key types.NamespacedName) (fault *stream.Fault, known bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s, known := r.kept[key]
	fault = s.outcome(time.Now())
	return fault, known && (s.looked || fault != nil)
}

// behind is for how long events of a store have not been looked at that should have been.
func (r *VersionReconciler) behind(key types.NamespacedName, now time.Time) (late time.Duration, known bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s, known := r.kept[key]
	if s.since().IsZero() {
		return 0, known
	}
	return max(now.Sub(s.since()), 0), known
}

// hurry has all kept of a store that expires when max_age is lowered to an age, and wakes
// the reconciler of EventStores then.
func (r *VersionReconciler) hurry(store *v1alpha1.EventStore, age time.Duration) {
	key := client.ObjectKeyFromObject(store)
	r.mu.Lock()
	s := r.kept[key]
	s.lower = age
	r.kept[key] = s
	r.mu.Unlock()
	r.hurried.send(stream.Notice{Stream: store.EventsStreamName()})
}

// calm takes a lowering back.
func (r *VersionReconciler) calm(store *v1alpha1.EventStore) {
	key := client.ObjectKeyFromObject(store)
	r.mu.Lock()
	defer r.mu.Unlock()
	if s, known := r.kept[key]; known {
		s.lower = 0
		r.kept[key] = s
	}
}

// lowering is the age that max_age is to be lowered to, 0 for none.
func (r *VersionReconciler) lowering(key types.NamespacedName) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.kept[key].lower
}

func (r *VersionReconciler) forget(key types.NamespacedName) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.kept, key)
}
