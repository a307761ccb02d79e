package controller

import (
	"errors"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	layout "git.flowmade.one/flowmade-one/aether-operator/api/eventstore/jetstream"
	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/stream"
)

func keptStoreOf(change func(*v1alpha1.EventStore)) *v1alpha1.EventStore {
	created := metav1.NowMicro()
	store := &v1alpha1.EventStore{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "orders"}}
	setCondition(&store.Status.Conditions, v1alpha1.ConditionStreamsOwned, metav1.ConditionTrue, v1alpha1.ReasonOwned, "owned")
	store.Status.Streams = []v1alpha1.StreamStatus{{Role: v1alpha1.StreamRoleEvents, Created: &created}, {Role: v1alpha1.StreamRoleSnapshots, Created: &created}}
	if change != nil {
		change(store)
	}
	return store
}

// The operator writes only into streams that are known to be the store's, and where it may.
func TestKeepsVersions(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*v1alpha1.EventStore){
		"observed": func(s *v1alpha1.EventStore) { s.Spec.ManagementPolicy = v1alpha1.ManagementObserve },
		"paused":   func(s *v1alpha1.EventStore) { s.Spec.ManagementPolicy = v1alpha1.ManagementPaused },
		"deleted":  func(s *v1alpha1.EventStore) { s.DeletionTimestamp = &metav1.Time{Time: time.Unix(1, 0)} },
		"another's": func(s *v1alpha1.EventStore) {
			setCondition(&s.Status.Conditions, v1alpha1.ConditionStreamsOwned, metav1.ConditionFalse, v1alpha1.ReasonConflict, "no")
		},
		"not looked at": func(s *v1alpha1.EventStore) { s.Status.Conditions = nil },
		"not made":      func(s *v1alpha1.EventStore) { s.Status.Streams = s.Status.Streams[:1] },
	} {
		if keepsVersions(keptStoreOf(change)) {
			t.Errorf("versions are kept of a store that is %s", name)
		}
	}
	if !keepsVersions(keptStoreOf(nil)) {
		t.Error("versions are not kept of a store that is as it should be")
	}
}

// What is told of a store, and when it is time for that.
func TestVersionsThatAreNotKept(t *testing.T) {
	t.Parallel()
	full := stream.Stalled(v1alpha1.ReasonSnapshotsFull, "full")
	away := stream.Retrying(v1alpha1.ReasonJetStreamUnavailable, "away")
	contested := stream.Retrying(v1alpha1.ReasonVersionsBehind, "actor order-1")
	turn := layout.KeptVersions{MaxAge: time.Hour, Next: time.Minute}
	late := layout.KeptVersions{MaxAge: time.Hour, Behind: 20 * time.Minute}
	for _, c := range []struct {
		name string
		kept layout.KeptVersions
		err  error
		want string
	}{
		{"all is done", turn, nil, ""},
		{"the stream is full", turn, full, v1alpha1.ReasonSnapshotsFull},
		{"an outage begins", turn, away, ""},
		{"an outage lasts", late, away, v1alpha1.ReasonVersionsBehind},
		{"a snapshot is written all the time", layout.KeptVersions{MaxAge: time.Hour, Behind: time.Minute}, contested, ""},
		{"it is for long", late, contested, v1alpha1.ReasonVersionsBehind},
		{"there is more to do", layout.KeptVersions{MaxAge: time.Hour, More: true, Behind: time.Minute}, nil, ""},
		{"there is too much to do", layout.KeptVersions{MaxAge: time.Hour, More: true, Behind: 20 * time.Minute}, nil, v1alpha1.ReasonVersionsBehind},
	} {
		r, store := newVersionReconciler(nil, nil, storeIndex{}, nil), keptStoreOf(nil)
		key := client.ObjectKeyFromObject(store)
		if wakes := r.note(store, layout.KeepOptions{}, c.kept, c.err); wakes != (c.want != "") {
			t.Errorf("%s: the store is woken: %t", c.name, wakes)
		}
		fault, known := r.outcome(key)
		if !known || (fault != nil) != (c.want != "") || fault != nil && fault.Reason != c.want {
			t.Errorf("%s: %v is told (known: %t), want %q", c.name, fault, known, c.want)
		}
		if c.err == error(contested) && fault != nil && fault != contested {
			t.Errorf("%s: %v is told, and not which actor it is", c.name, fault)
		}
		behind, _ := r.behind(key, time.Now())
		if unfinished := c.err != nil || c.kept.More; behind < c.kept.Behind || behind > 0 != unfinished {
			t.Errorf("%s: behind by %s", c.name, behind)
		}
		// What was told is taken back.
		setCondition(&store.Status.Conditions, v1alpha1.ConditionVersionsNotKept, metav1.ConditionTrue, "Told", "told")
		if !r.note(store, layout.KeepOptions{}, turn, nil) {
			t.Errorf("%s: nobody takes back what was told", c.name)
		}
		r.forget(key)
		if _, known := r.outcome(key); known {
			t.Errorf("%s: it is not forgotten", c.name)
		}
	}
}

// An age that is to be lowered to counts until all is kept for it, or it is taken back.
func TestVersionsBeforeAnAgeIsLowered(t *testing.T) {
	t.Parallel()
	r, store := newVersionReconciler(nil, nil, storeIndex{}, nil), keptStoreOf(nil)
	key, lower := client.ObjectKeyFromObject(store), layout.KeepOptions{MaxAge: time.Minute}
	r.hurry(store, time.Minute)
	if told := <-r.hurried; told.Object.Stream != store.EventsStreamName() {
		t.Errorf("%q is hurried", told.Object.Stream)
	}
	if r.note(store, lower, layout.KeptVersions{MaxAge: time.Minute, More: true}, nil) || r.lowering(key) != time.Minute {
		t.Errorf("in the middle it is told, and lowers to %s", r.lowering(key))
	}
	if _, known := r.outcome(key); known {
		t.Error("a turn for another age says how far the versions are")
	}
	if !r.note(store, lower, layout.KeptVersions{MaxAge: time.Minute}, nil) || r.lowering(key) != 0 {
		t.Errorf("at its end it is not told, and lowers to %s", r.lowering(key))
	}
	r.hurry(store, time.Minute)
	contested := stream.Retrying(v1alpha1.ReasonVersionsBehind, "actor order-1")
	if !r.note(store, lower, layout.KeptVersions{MaxAge: time.Minute}, contested) || r.lowering(key) != time.Minute {
		t.Errorf("what it cannot be lowered for is not told, and lowers to %s", r.lowering(key))
	}
	if r.note(store, lower, layout.KeptVersions{MaxAge: time.Minute}, contested) {
		t.Error("it is told again with each turn")
	}
	r.calm(store)
	if r.lowering(key) != 0 {
		t.Error("it is not taken back")
	}
}

func TestUntilVersionsAreKept(t *testing.T) {
	t.Parallel()
	hour := layout.KeptVersions{MaxAge: time.Hour, Next: time.Minute}
	for _, c := range []struct {
		name     string
		kept     layout.KeptVersions
		opts     layout.KeepOptions
		err      error
		from, to time.Duration
	}{
		{"all is done", hour, layout.KeepOptions{}, nil, time.Minute, time.Minute},
		{"there is more", layout.KeptVersions{MaxAge: time.Hour, More: true}, layout.KeepOptions{}, nil, 1, minPause},
		{"it was for another age", hour, layout.KeepOptions{MaxAge: time.Hour}, nil, 1, minPause},
		{"events do not expire", layout.KeptVersions{}, layout.KeepOptions{}, nil, keepForever, 2 * keepForever},
		{"nobody answers", layout.KeptVersions{}, layout.KeepOptions{}, errors.New("no"), keepAgain, 2 * keepAgain},
		{"a short age fails", layout.KeptVersions{MaxAge: 16 * time.Second}, layout.KeepOptions{}, errors.New("no"), time.Second, 2 * time.Second},
	} {
		if until := untilKept(c.kept, c.opts, c.err); until < c.from || until > c.to {
			t.Errorf("%s: again after %s, want %s to %s", c.name, until, c.from, c.to)
		}
	}
}
