package stream_test

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"k8s.io/apimachinery/pkg/types"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/stream"
)

// A token stands for exactly what waits: whatever of that is another gives another
// token, and nothing else does.
func TestPlanToken(t *testing.T) {
	t.Parallel()
	now := created.Add(100 * day)
	type facts struct {
		uid, newest string
		store       func(*v1alpha1.EventStore)
		live        func(*jetstream.StreamInfo)
	}
	token := func(change func(*facts)) string {
		f := facts{uid: "uid-1", newest: "", store: func(*v1alpha1.EventStore) {}, live: func(*jetstream.StreamInfo) {}}
		change(&f)
		wanted := desired(t, orders(f.store))[0]
		live := liveAs(wanted)
		live.Config.MaxAge = 90 * day
		live.State = jetstream.StreamState{Msgs: 10, Bytes: 1000, FirstSeq: 11, LastSeq: 20, FirstTime: now.Add(-60 * day), NumSubjects: 4}
		f.live(live)
		plans := []stream.Plan{stream.NewPlan(wanted, live, now)}
		if len(plans[0].Waiting()) != 1 {
			t.Fatalf("%d steps wait: %+v", len(plans[0].Waiting()), plans[0].Steps)
		}
		return stream.PlanToken(orders().UID, f.newest, plans)
	}
	first := token(func(*facts) {})
	if len(first) != stream.TokenLength {
		t.Errorf("the token %q has %d characters", first, len(first))
	}
	for name, change := range map[string]func(*facts){
		"more events":   func(f *facts) { f.live = func(l *jetstream.StreamInfo) { l.State.Msgs, l.State.LastSeq = 20, 30 } },
		"a safe change": func(f *facts) { f.live = func(l *jetstream.StreamInfo) { l.Config.Description = "edited" } },
	} {
		if token(change) != first {
			t.Errorf("%s: another token", name)
		}
	}
	for name, change := range map[string]func(*facts){
		"an acceptance":   func(f *facts) { f.newest = "0123456789abcdef" },
		"another age":     func(f *facts) { f.store = func(s *v1alpha1.EventStore) { s.Spec.Retention.MaxAge = "29d" } },
		"another drift":   func(f *facts) { f.live = func(l *jetstream.StreamInfo) { l.Config.MaxAge = 91 * day } },
		"another stream":  func(f *facts) { f.live = func(l *jetstream.StreamInfo) { l.Created = created.Add(time.Second) } },
		"another name":    func(f *facts) { f.store = func(s *v1alpha1.EventStore) { s.Name = "others" } },
		"forever, before": func(f *facts) { f.live = func(l *jetstream.StreamInfo) { l.Config.MaxAge = 0 } },
	} {
		if token(change) == first {
			t.Errorf("%s: the same token", name)
		}
	}
	if stream.PlanToken("uid-2", "", nil) == stream.PlanToken("uid-1", "", nil) {
		t.Error("another resource: the same token")
	}
	if stream.PlanToken("uid-1", "", nil) == stream.LossToken("uid-1", "", nil) {
		t.Error("a loss and a change have one token")
	}
}

func TestLossToken(t *testing.T) {
	t.Parallel()
	token := func(last int64, at *time.Time, now uint64) string {
		var live *jetstream.StreamInfo
		if at != nil {
			live = &jetstream.StreamInfo{Created: *at, State: jetstream.StreamState{LastSeq: now}}
		}
		loss := stream.LossOf(recordOf(last), live, created.Add(time.Hour))
		if loss == nil {
			t.Fatal("no loss")
		}
		return stream.LossToken("uid-1", "", []*stream.Loss{loss})
	}
	same, later, latest := created, created.Add(time.Second), created.Add(time.Minute)
	if token(5, &same, 3) != token(5, &same, 4) {
		t.Error("events that are saved while it waits give another token")
	}
	tokens := map[string]string{
		token(5, nil, 0): "missing", token(6, nil, 0): "missing, more on record", token(5, &same, 3): "went back",
		token(5, &later, 3): "made again", token(5, &latest, 3): "made again, later",
	}
	if len(tokens) != 5 {
		t.Errorf("different losses have one token: %v", tokens)
	}
}

// One edit of the resource or of its class may leave what was accepted as it is. Two may
// have taken it back and made it again.
func TestIsAskedFor(t *testing.T) {
	t.Parallel()
	store, class := orders(), &v1alpha1.EventStoreClass{}
	store.Generation, class.UID, class.Generation = 7, "class-1", 3
	var accepted v1alpha1.Acceptance
	stream.AskedFor(&accepted, store, class)
	for name, test := range map[string]struct {
		generation int64
		class      types.UID
		classes    int64
		want       bool
	}{
		"as it was":               {7, "class-1", 3, true},
		"edited":                  {8, "class-1", 3, true},
		"edited twice":            {9, "class-1", 3, false},
		"class edited":            {7, "class-1", 4, true},
		"class edited twice":      {7, "class-1", 5, false},
		"both edited":             {8, "class-1", 4, false},
		"class made again":        {7, "class-2", 3, false},
		"as it was before":        {6, "class-1", 3, false},
		"class of before":         {7, "class-1", 2, false},
		"edited, class of before": {9, "class-1", 2, false},
	} {
		store.Generation, class.UID, class.Generation = test.generation, test.class, test.classes
		if got := stream.IsAskedFor(accepted, store, class); got != test.want {
			t.Errorf("%s: %t, want %t", name, got, test.want)
		}
	}
	if stream.IsAskedFor(v1alpha1.Acceptance{}, store, class) {
		t.Error("what is on record of no class is asked for")
	}
}

// Of a stream that had no owner, what leads its messages elsewhere waits; all else is
// as for a stream that is ours.
func TestPlanOfAnAdoptedStream(t *testing.T) {
	t.Parallel()
	for field, test := range map[string]struct {
		edit func(*jetstream.StreamConfig)
		want stream.Effect
	}{
		"subjects":         {func(c *jetstream.StreamConfig) { c.Subjects = []string{"billing.>"} }, stream.ReachesOthers},
		"republish":        {func(c *jetstream.StreamConfig) { c.RePublish = nil }, stream.ReachesOthers},
		"mirror":           {func(c *jetstream.StreamConfig) { c.Mirror = &jetstream.StreamSource{Name: "x"} }, stream.ReachesOthers},
		"sources":          {func(c *jetstream.StreamConfig) { c.Sources = []*jetstream.StreamSource{{Name: "x"}} }, stream.ReachesOthers},
		"subjectTransform": {func(c *jetstream.StreamConfig) { c.SubjectTransform = &jetstream.SubjectTransformConfig{Source: ">"} }, stream.ReachesOthers},
		"storage":          {func(c *jetstream.StreamConfig) { c.Storage = jetstream.MemoryStorage }, stream.Impossible},
		"description":      {func(c *jetstream.StreamConfig) { c.Description = "theirs" }, stream.Safe},
		"metadata":         {func(c *jetstream.StreamConfig) { c.Metadata = nil }, stream.Safe},
		"retention":        {func(c *jetstream.StreamConfig) { c.Retention = jetstream.InterestPolicy }, stream.Safe},
	} {
		wanted := desired(t, orders())[0]
		live := liveAs(wanted)
		test.edit(&live.Config)
		plan := stream.NewPlan(wanted, live, created)
		if len(plan.Steps) != 1 || plan.Steps[0].Field != field {
			t.Errorf("%s: steps %+v", field, plan.Steps)
			continue
		}
		if test.want == stream.ReachesOthers && plan.Steps[0].Effect != stream.Safe {
			t.Errorf("%s of a stream that is ours: %+v", field, plan.Steps)
		}
		adopting := plan.Adopting()
		if adopting.Steps[0].Effect != test.want || len(adopting.Waiting()) > 0 != (test.want == stream.ReachesOthers) {
			t.Errorf("%s: %+v, want effect %d", field, adopting.Steps, test.want)
		}
	}
}

// Which actor has how many snapshots is not known: fewer are safe only where none can
// have more.
func TestPlanOfFewerSnapshots(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		messages, subjects uint64
		before             int64
		history            int32
		want               stream.Effect
	}{
		"none":                       {0, 0, 5, 1, stream.Safe},
		"one of each":                {4, 4, 5, 1, stream.Safe},
		"more were not kept before":  {9, 2, 1, 3, stream.Safe},
		"as many as one may have":    {6, 4, 5, 3, stream.Safe},
		"one actor may have more":    {6, 4, 5, 2, stream.DestroysData},
		"one actor has two at least": {6, 4, 5, 1, stream.DestroysData},
		"no limit before":            {6, 4, -1, 1, stream.DestroysData},
	} {
		wanted := desired(t, orders(func(s *v1alpha1.EventStore) { s.Spec.Snapshots.History = test.history }))[1]
		live := liveAs(wanted)
		live.Config.MaxMsgsPerSubject = test.before
		live.State = jetstream.StreamState{Msgs: test.messages, NumSubjects: test.subjects, FirstTime: created, LastTime: created}
		plan := stream.NewPlan(wanted, live, created)
		if len(plan.Steps) != 1 || plan.Steps[0].Effect != test.want || plan.MustCount() != (test.want == stream.DestroysData) {
			t.Errorf("%s: %+v, want effect %d", name, plan.Steps, test.want)
			continue
		}
		if counted := plan.Counted(0); counted.Steps[0].Effect != stream.Safe || plan.Steps[0].Effect != test.want {
			t.Errorf("%s: counted as none: %+v of %+v", name, counted.Steps, plan.Steps)
		}
		if got := plan.Counted(2).Destroys(0).Messages; test.want == stream.DestroysData && got != 2 {
			t.Errorf("%s: counted as two: %d", name, got)
		}
	}
}

func TestImmutableKeepsItsAge(t *testing.T) {
	t.Parallel()
	immutable := func(s *v1alpha1.EventStore) { s.Spec.Protection = v1alpha1.ProtectionImmutable }
	for name, test := range map[string]struct {
		before time.Duration
		want   stream.Effect
	}{
		"shorter":           {31 * day, stream.Impossible},
		"shorter than ever": {0, stream.Impossible},
		"longer":            {29 * day, stream.Safe},
	} {
		wanted := desired(t, orders(immutable))[0]
		live := liveAs(wanted)
		live.Config.MaxAge = test.before
		plan := stream.NewPlan(wanted, live, created)
		if len(plan.Steps) != 1 || plan.Steps[0].Effect != test.want {
			t.Errorf("%s: %+v, want effect %d", name, plan.Steps, test.want)
		}
	}
}

// What was set before a token was told accepts nothing, however often it is looked at:
// it is left over from a time that the status knows nothing of any more.
func TestOffer(t *testing.T) {
	t.Parallel()
	after := func(newest string) string { return "after " + newest }
	const first, second = "after newest", "after after newest"
	for name, c := range map[string]struct {
		set, told string
		token     string
		accepted  bool
	}{
		"nothing set, nothing told":            {"", "", first, false},
		"nothing set, told":                    {"", first, first, false},
		"set once it was told":                 {first, first, first, true},
		"left over":                            {first, "", second, false},
		"left over, and the other told":        {first, second, second, false},
		"taken away once the other was told":   {"", second, second, false},
		"the other set once it was told":       {second, second, second, true},
		"the other left over":                  {second, "", first, false},
		"the other left over, and first told":  {second, first, first, false},
		"something else set, whatever is told": {"true", first, first, false},
	} {
		token, accepted := stream.Offer(after, "newest", c.set, func(token string) bool { return token == c.told })
		if token != c.token || accepted != c.accepted {
			t.Errorf("%s: %q, accepted %t, want %q, %t", name, token, accepted, c.token, c.accepted)
		}
	}
}
