package stream_test

import (
	"cmp"
	"errors"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/stream"
)

var created = time.Date(2026, 11, 1, 12, 0, 0, 123456789, time.UTC)

func orders(change ...func(*v1alpha1.EventStore)) *v1alpha1.EventStore {
	store := &v1alpha1.EventStore{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "orders", UID: "uid-1"},
		Spec: v1alpha1.EventStoreSpec{
			Retention: v1alpha1.Retention{MaxAge: "30d"}, Replicas: 3, Storage: v1alpha1.StorageFile, DeletionPolicy: v1alpha1.DeletionPolicyRetain,
		},
	}
	for _, c := range change {
		c(store)
	}
	return store
}

func desired(t *testing.T, store *v1alpha1.EventStore) []stream.Wanted {
	t.Helper()
	wanted, err := stream.Desired(store, stream.Home{}, v1alpha1.Defaults{})
	if err != nil {
		t.Fatal(err)
	}
	return wanted
}

// liveAs is a stream that is just as it is asked for.
func liveAs(wanted stream.Wanted) *jetstream.StreamInfo {
	info := &jetstream.StreamInfo{Config: wanted.Config, Created: created}
	info.Config.Metadata = map[string]string{"_nats.ver": "2.15.2", "_nats.level": "5", "_nats.req.level": "2"}
	for key, value := range wanted.Config.Metadata {
		info.Config.Metadata[key] = value
	}
	return info
}

func TestDesired(t *testing.T) {
	t.Parallel()
	wanted := desired(t, orders(func(s *v1alpha1.EventStore) { s.Spec.Namespace = "sales" }))
	events, snapshots := wanted[0].Config, wanted[1].Config
	if events.Name != "sales_orders" || snapshots.Name != "sales_orders_snapshots" {
		t.Errorf("streams %s and %s", events.Name, snapshots.Name)
	}
	// The owner is named by where the resource is, not by its event namespace.
	if owner, ok := stream.RecordedOwner(events.Metadata); !ok || owner != (stream.Owner{UID: "uid-1", Namespace: "shop", Name: "orders"}) {
		t.Errorf("owner %v, %v", owner, ok)
	}
	if events.MaxAge != 30*day || snapshots.MaxAge != 0 {
		t.Errorf("ages %v and %v", events.MaxAge, snapshots.MaxAge)
	}
	if events.Discard != jetstream.DiscardNew || snapshots.Discard != jetstream.DiscardNew || snapshots.MaxMsgsPerSubject != 1 {
		t.Errorf("limits %+v and %+v", events, snapshots)
	}
}

func TestDesiredDuplicateWindow(t *testing.T) {
	t.Parallel()
	for age, want := range map[string]time.Duration{"0": 2 * time.Minute, "1s": time.Second, "2m": 2 * time.Minute, "30d": 2 * time.Minute} {
		store := orders(func(s *v1alpha1.EventStore) { s.Spec.Retention.MaxAge = age })
		if got := desired(t, store)[0].Config.Duplicates; got != want {
			t.Errorf("maxAge %s: duplicate window %v, want %v", age, got, want)
		}
	}
}

func TestDesiredMemoryIsNotCompressed(t *testing.T) {
	t.Parallel()
	for _, wanted := range desired(t, orders(func(s *v1alpha1.EventStore) { s.Spec.Storage = v1alpha1.StorageMemory })) {
		if wanted.Config.Storage != jetstream.MemoryStorage || wanted.Config.Compression != jetstream.NoCompression {
			t.Errorf("%s: storage %v, compression %v", wanted.Role, wanted.Config.Storage, wanted.Config.Compression)
		}
	}
}

// What a store leaves out its class says, and what neither says Aether.
func TestDesiredDefaults(t *testing.T) {
	t.Parallel()
	quantity := resource.MustParse("1Gi")
	class := v1alpha1.Defaults{
		Replicas: 5, Retention: v1alpha1.Retention{MaxAge: "7d", MaxBytes: &quantity}, Storage: v1alpha1.StorageMemory,
		Compression: v1alpha1.CompressionNone, Placement: &v1alpha1.Placement{Tags: []string{"ssd"}},
	}
	empty := func(s *v1alpha1.EventStore) { s.Spec = v1alpha1.EventStoreSpec{} }
	own := func(s *v1alpha1.EventStore) {
		bytes := resource.MustParse("2Ki")
		s.Spec = v1alpha1.EventStoreSpec{
			Replicas: 3, Retention: v1alpha1.Retention{MaxAge: "1d", MaxBytes: &bytes}, Storage: v1alpha1.StorageFile,
			Compression: v1alpha1.CompressionS2, Placement: &v1alpha1.Placement{Cluster: "east"}, DuplicateWindow: "1h",
			Snapshots: v1alpha1.Snapshots{History: 9}, Protection: v1alpha1.ProtectionImmutable,
		}
	}
	for name, test := range map[string]struct {
		change func(*v1alpha1.EventStore)
		class  v1alpha1.Defaults
		want   jetstream.StreamConfig
	}{
		"of Aether": {empty, v1alpha1.Defaults{}, jetstream.StreamConfig{
			Replicas: 1, MaxAge: 365 * day, MaxBytes: -1, Compression: jetstream.S2Compression, Duplicates: 2 * time.Minute,
		}},
		"of the class": {empty, class, jetstream.StreamConfig{
			Replicas: 5, MaxAge: 7 * day, MaxBytes: 1 << 30, Storage: jetstream.MemoryStorage, Duplicates: 2 * time.Minute,
			Placement: &jetstream.Placement{Tags: []string{"ssd"}},
		}},
		"of the store": {own, class, jetstream.StreamConfig{
			Replicas: 3, MaxAge: day, MaxBytes: 2048, Compression: jetstream.S2Compression, Duplicates: time.Hour,
			Placement: &jetstream.Placement{Cluster: "east"}, DenyDelete: true, DenyPurge: true,
		}},
	} {
		wanted, err := stream.Desired(orders(test.change), stream.Home{}, test.class)
		if err != nil {
			t.Fatal(err)
		}
		got := wanted[0].Config
		got = jetstream.StreamConfig{
			Replicas: got.Replicas, MaxAge: got.MaxAge, MaxBytes: got.MaxBytes, Storage: got.Storage, Compression: got.Compression,
			Duplicates: got.Duplicates, Placement: got.Placement, DenyDelete: got.DenyDelete, DenyPurge: got.DenyPurge,
		}
		if !reflect.DeepEqual(got, test.want) {
			t.Errorf("%s: events are %+v, want %+v", name, got, test.want)
		}
		// Snapshots do not expire, are not limited, and can be erased.
		snapshots := wanted[1].Config
		if snapshots.MaxAge != 0 || snapshots.MaxBytes != -1 || snapshots.DenyDelete || snapshots.Replicas != test.want.Replicas || snapshots.Storage != test.want.Storage {
			t.Errorf("%s: snapshots are %+v", name, snapshots)
		}
		if want := int64(cmp.Or(orders(test.change).Spec.Snapshots.History, 1)); snapshots.MaxMsgsPerSubject != want {
			t.Errorf("%s: %d snapshots are kept, want %d", name, snapshots.MaxMsgsPerSubject, want)
		}
	}
}

func TestDesiredOfAnInvalidSpec(t *testing.T) {
	t.Parallel()
	_, err := stream.Desired(orders(func(s *v1alpha1.EventStore) { s.Spec.Retention.MaxAge = "293y" }), stream.Home{}, v1alpha1.Defaults{})
	fault, ok := stream.AsFault(err)
	if !ok || fault.Handling != stream.Stall || fault.Reason != v1alpha1.ReasonInvalidSpec {
		t.Errorf("%v", err)
	}
}

func TestPlanOfASettledStreamIsEmpty(t *testing.T) {
	t.Parallel()
	for _, wanted := range desired(t, orders()) {
		if plan := stream.NewPlan(wanted, liveAs(wanted), created); !plan.Settled() {
			t.Errorf("%s: %v", wanted.Role, plan.Steps)
		}
	}
}

// Every field of the configuration that the client library knows is compared: a
// field that a later version of it adds fails here until it is decided about.
func TestPlanSeesEveryField(t *testing.T) {
	t.Parallel()
	// The name is what streams are compared by; the others count at creation only.
	ignored := []string{"Name", "FirstSeq", "Template"}
	wanted := desired(t, orders())[0]
	config := reflect.TypeFor[jetstream.StreamConfig]()
	for i := range config.NumField() {
		field := config.Field(i)
		if slices.Contains(ignored, field.Name) {
			continue
		}
		live := liveAs(wanted)
		alter(reflect.ValueOf(&live.Config).Elem().Field(i))
		if plan := stream.NewPlan(wanted, live, created); len(plan.Steps) != 1 {
			t.Errorf("a change of %s gives the steps %v", field.Name, plan.Steps)
		}
	}
}

// alter gives a field another value.
func alter(v reflect.Value) {
	switch v.Kind() {
	case reflect.Bool:
		v.SetBool(!v.Bool())
	case reflect.Int, reflect.Int32, reflect.Int64:
		v.SetInt(v.Int() + 1)
	case reflect.Uint8:
		v.SetUint(1 - v.Uint())
	case reflect.String:
		v.SetString(v.String() + "x")
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		if v.Type().Elem().Kind() == reflect.Pointer {
			v.Index(0).Set(reflect.New(v.Type().Elem().Elem()))
		}
	case reflect.Map:
		v.SetZero()
	case reflect.Struct:
		alter(v.Field(0))
	case reflect.Pointer:
		changed := reflect.New(v.Type().Elem())
		alter(changed.Elem().Field(0))
		v.Set(changed)
	default:
		panic("no other value for " + v.Type().String())
	}
}

func TestPlanEffects(t *testing.T) {
	t.Parallel()
	now := created.Add(100 * day)
	held := func(live *jetstream.StreamInfo) {
		live.State = jetstream.StreamState{Msgs: 10, Bytes: 1000, FirstSeq: 11, LastSeq: 20, FirstTime: now.Add(-60 * day), NumSubjects: 4}
	}
	tests := map[string]struct {
		role  int
		edit  func(*jetstream.StreamInfo)
		field string
		want  stream.Effect
	}{
		"shorter age, older events":   {0, func(l *jetstream.StreamInfo) { held(l); l.Config.MaxAge = 90 * day }, "maxAge", stream.DestroysData},
		"shorter age, from for ever":  {0, func(l *jetstream.StreamInfo) { held(l); l.Config.MaxAge = 0 }, "maxAge", stream.DestroysData},
		"shorter age, younger events": {0, func(l *jetstream.StreamInfo) { held(l); l.Config.MaxAge = 90 * day; l.State.FirstTime = now }, "maxAge", stream.Safe},
		"shorter age, no events":      {0, func(l *jetstream.StreamInfo) { l.Config.MaxAge = 90 * day }, "maxAge", stream.Safe},
		"longer age":                  {0, func(l *jetstream.StreamInfo) { l.Config.MaxAge = day }, "maxAge", stream.Safe},
		"fewer snapshots, surplus":    {1, func(l *jetstream.StreamInfo) { held(l); l.Config.MaxMsgsPerSubject = 5 }, "maxMessagesPerSubject", stream.DestroysData},
		"fewer snapshots, none more": {1, func(l *jetstream.StreamInfo) {
			held(l)
			l.Config.MaxMsgsPerSubject, l.State.NumSubjects = 5, 10
		}, "maxMessagesPerSubject", stream.Safe},
		"replicas":                    {0, func(l *jetstream.StreamInfo) { l.Config.Replicas = 5 }, "replicas", stream.Safe},
		"storage":                     {0, func(l *jetstream.StreamInfo) { l.Config.Storage = jetstream.MemoryStorage }, "storage", stream.Impossible},
		"from a work queue":           {0, func(l *jetstream.StreamInfo) { l.Config.Retention = jetstream.WorkQueuePolicy }, "retention", stream.Impossible},
		"from interest":               {0, func(l *jetstream.StreamInfo) { l.Config.Retention = jetstream.InterestPolicy }, "retention", stream.Safe},
		"smaller than what is stored": {0, func(l *jetstream.StreamInfo) { held(l); l.Config.MaxBytes = 1 << 40 }, "maxBytes", stream.Safe},
		"not immutable any more":      {0, func(l *jetstream.StreamInfo) { l.Config.DenyPurge = true }, "denyPurge", stream.Impossible},
		"from sealed":                 {0, func(l *jetstream.StreamInfo) { l.Config.Sealed = true }, "sealed", stream.Impossible},
		"from message TTLs":           {0, func(l *jetstream.StreamInfo) { l.Config.AllowMsgTTL = true }, "allowMessageTTL", stream.Impossible},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			wanted := desired(t, orders())[test.role]
			live := liveAs(wanted)
			test.edit(live)
			plan := stream.NewPlan(wanted, live, now)
			if len(plan.Steps) != 1 || plan.Steps[0].Field != test.field || plan.Steps[0].Effect != test.want {
				t.Errorf("steps %+v, want %s with effect %d", plan.Steps, test.field, test.want)
			}
		})
	}
}

// A full store refuses new events; one that is made smaller than what it holds
// would lose the oldest.
func TestPlanOfFewerBytes(t *testing.T) {
	t.Parallel()
	bytes := resource.MustParse("400")
	wanted := desired(t, orders(func(s *v1alpha1.EventStore) { s.Spec.Retention.MaxBytes = &bytes }))[0]
	for held, want := range map[uint64]stream.Effect{399: stream.Safe, 400: stream.Safe, 401: stream.DestroysData, 1000: stream.DestroysData} {
		live := liveAs(wanted)
		live.Config.MaxBytes = -1
		live.State = jetstream.StreamState{Msgs: 10, Bytes: held, FirstSeq: 11, LastSeq: 20, FirstTime: created, LastTime: created}
		plan := stream.NewPlan(wanted, live, created)
		if len(plan.Steps) != 1 || plan.Steps[0].Effect != want {
			t.Errorf("%d bytes are stored: steps %+v, want effect %d", held, plan.Steps, want)
		}
		if held == 1000 {
			if got, want := plan.Destroys(0), (stream.Destroyed{Messages: 6, OfMessages: 10, Bytes: 600, OfBytes: 1000, Kept: true}); got != want {
				t.Errorf("destroys %v, want %v", got, want)
			}
		}
	}
}

func TestPlanStatus(t *testing.T) {
	t.Parallel()
	wanted := desired(t, orders())[0]
	live := liveAs(wanted)
	live.Config.Storage, live.Config.Replicas = jetstream.MemoryStorage, 1
	got := stream.NewPlan(wanted, live, created).Status()
	want := []v1alpha1.PlanStep{
		{Stream: "shop_orders", Field: "storage", From: "Memory", To: "File", Effect: v1alpha1.EffectImpossible},
		{Stream: "shop_orders", Field: "replicas", From: "1", To: "3", Effect: v1alpha1.EffectSafe},
	}
	if !slices.Equal(got, want) {
		t.Errorf("status %+v, want %+v", got, want)
	}
	if got := stream.NewPlan(wanted, nil, created).Status(); len(got) != 1 || got[0].Field != "stream" || got[0].To != "created" {
		t.Errorf("status of a stream that is absent: %+v", got)
	}
}

func TestDestroys(t *testing.T) {
	t.Parallel()
	now := created.Add(100 * day)
	wanted := desired(t, orders())[0]
	live := liveAs(wanted)
	live.Config.MaxAge = 0
	live.State = jetstream.StreamState{Msgs: 10, Bytes: 1000, FirstSeq: 11, LastSeq: 20, FirstTime: now.Add(-60 * day)}
	plan := stream.NewPlan(wanted, live, now)
	for keepFrom, want := range map[uint64]stream.Destroyed{
		11: {0, 10, 0, 1000, false},
		15: {4, 10, 400, 1000, false},
		21: {10, 10, 1000, 1000, false},
		// More sequences than messages: some were deleted before.
		99: {10, 10, 1000, 1000, false},
	} {
		if got := plan.Destroys(keepFrom); got != want {
			t.Errorf("first kept %d: %v, want %v", keepFrom, got, want)
		}
	}
}

func TestPlanKeepsWhatOthersWrote(t *testing.T) {
	t.Parallel()
	wanted := desired(t, orders())[0]
	live := liveAs(wanted)
	live.Config.Metadata["example.com/team"] = "sales"
	live.Config.Description, live.Config.FirstSeq = "edited", 7
	config := stream.NewPlan(wanted, live, created).Config()
	if config.Metadata["example.com/team"] != "sales" || config.Metadata["_nats.ver"] != "" || config.FirstSeq != 7 || config.Description == "edited" {
		t.Errorf("%+v", config)
	}
	if _, shared := wanted.Config.Metadata["example.com/team"]; shared {
		t.Error("the plan changed what is wanted")
	}
}

func TestOwnershipOf(t *testing.T) {
	t.Parallel()
	self := stream.OwnerOf(orders(), stream.Home{Namespace: "namespace-1", Cluster: "cluster-1"})
	with := func(uid, namespace, name string) *jetstream.StreamInfo {
		return &jetstream.StreamInfo{Created: created, Config: jetstream.StreamConfig{Metadata: map[string]string{
			v1alpha1.MetadataUID: uid, v1alpha1.MetadataNamespace: namespace, v1alpha1.MetadataName: name,
		}}}
	}
	in := func(namespace, cluster string, live *jetstream.StreamInfo) *jetstream.StreamInfo {
		live.Config.Metadata[v1alpha1.MetadataNamespaceUID], live.Config.Metadata[v1alpha1.MetadataClusterUID] = namespace, cluster
		return live
	}
	seen := func(at time.Time) *v1alpha1.StreamStatus {
		micro := metav1.NewMicroTime(at.Truncate(time.Microsecond))
		return &v1alpha1.StreamStatus{Created: &micro}
	}
	tests := map[string]struct {
		live *jetstream.StreamInfo
		seen *v1alpha1.StreamStatus
		want stream.Ownership
	}{
		"absent":                         {nil, nil, stream.Absent},
		"absent, seen before":            {nil, seen(created), stream.Absent},
		"ours":                           {with("uid-1", "shop", "orders"), nil, stream.Ours},
		"ours, name edited":              {with("uid-1", "x", "y"), nil, stream.Ours},
		"of an earlier resource":         {in("namespace-1", "cluster-1", with("uid-0", "shop", "orders")), nil, stream.OursBefore},
		"ours, uid edited away":          {in("namespace-1", "cluster-1", with("", "shop", "orders")), nil, stream.OursBefore},
		"of an earlier namespace":        {in("namespace-0", "cluster-1", with("uid-0", "shop", "orders")), nil, stream.OursElsewhere},
		"of another cluster":             {in("namespace-1", "cluster-2", with("uid-0", "shop", "orders")), nil, stream.OursElsewhere},
		"of a home that nobody knows":    {with("uid-0", "shop", "orders"), nil, stream.OursElsewhere},
		"another's":                      {with("uid-2", "other", "orders"), nil, stream.Anothers},
		"another's, though seen as ours": {with("uid-2", "other", "orders"), seen(created), stream.Anothers},
		"nobody's":                       {with("", "", ""), nil, stream.Nobodys},
		"ours, owner edited away":        {with("", "", ""), seen(created), stream.Ours},
		"nobody's, made after ours":      {with("", "", ""), seen(created.Add(-time.Second)), stream.Nobodys},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := stream.OwnershipOf(self, test.live, test.seen); got != test.want {
				t.Errorf("got %d, want %d", got, test.want)
			}
		})
	}
}

func TestEldest(t *testing.T) {
	t.Parallel()
	at := func(uid string, second int) *v1alpha1.EventStore {
		return orders(func(s *v1alpha1.EventStore) {
			s.UID, s.CreationTimestamp = types.UID(uid), metav1.NewTime(created.Add(time.Duration(second)*time.Second))
		})
	}
	leaving := at("a", 0)
	leaving.DeletionTimestamp = &metav1.Time{Time: created}
	stores := []*v1alpha1.EventStore{at("d", 2), at("c", 1), at("b", 1), leaving}
	if got := stream.Eldest(stores); got == nil || got.UID != "b" {
		t.Errorf("eldest %v", got)
	}
	if got := stream.Eldest([]*v1alpha1.EventStore{leaving}); got != nil {
		t.Errorf("eldest of none %v", got)
	}
}

func TestLossOf(t *testing.T) {
	t.Parallel()
	seen := func(last int64) *v1alpha1.StreamStatus {
		micro := metav1.NewMicroTime(created.Truncate(time.Microsecond))
		return &v1alpha1.StreamStatus{Name: "shop_orders", Created: &micro, Messages: last, LastSequence: last}
	}
	live := func(at time.Time, last uint64) *jetstream.StreamInfo {
		return &jetstream.StreamInfo{Created: at, State: jetstream.StreamState{LastSeq: last}}
	}
	aged := func(age string) func(*v1alpha1.StreamStatus) *v1alpha1.StreamStatus {
		return func(s *v1alpha1.StreamStatus) *v1alpha1.StreamStatus {
			s.Role, s.MaxAge, s.LastTime = v1alpha1.StreamRoleEvents, age, &metav1.MicroTime{Time: created}
			return s
		}
	}
	// An hour has gone since.
	young, old := aged("2h"), aged("30m")
	snapshots := func(s *v1alpha1.StreamStatus) *v1alpha1.StreamStatus {
		s.Role, s.MaxAge = v1alpha1.StreamRoleSnapshots, "0"
		return s
	}
	subjects := func(s *v1alpha1.StreamStatus, count int64) *v1alpha1.StreamStatus {
		s.Subjects = count
		return s
	}
	purgedAt := func(l *jetstream.StreamInfo, first uint64) *jetstream.StreamInfo {
		l.State.FirstSeq = first
		return l
	}
	holding := func(l *jetstream.StreamInfo) *jetstream.StreamInfo {
		l.State.Msgs = l.State.LastSeq - l.State.FirstSeq + 1
		return l
	}
	onSubjects := func(l *jetstream.StreamInfo, count uint64) *jetstream.StreamInfo {
		l.State.NumSubjects = count
		return l
	}
	tests := map[string]struct {
		seen *v1alpha1.StreamStatus
		live *jetstream.StreamInfo
		want string
	}{
		"never seen":                        {nil, nil, ""},
		"the same":                          {seen(5), live(created, 5), ""},
		"grown":                             {seen(5), live(created, 9), ""},
		"purged keeps its sequence":         {seen(5), live(created, 5), ""},
		"gone":                              {seen(5), nil, v1alpha1.ReasonStreamMissing},
		"gone when empty":                   {seen(0), nil, ""},
		"purged":                            {young(seen(5)), purgedAt(live(created, 5), 6), v1alpha1.ReasonStreamPurged},
		"purged, and written to since":      {young(seen(5)), holding(purgedAt(live(created, 9), 6)), v1alpha1.ReasonStreamPurged},
		"purged in part":                    {young(seen(5)), holding(purgedAt(live(created, 5), 5)), ""},
		"expired":                           {old(seen(5)), purgedAt(live(created, 5), 6), ""},
		"snapshots purged":                  {snapshots(seen(5)), purgedAt(live(created, 5), 6), v1alpha1.ReasonStreamPurged},
		"snapshots replaced":                {snapshots(seen(5)), holding(purgedAt(live(created, 9), 7)), ""},
		"snapshots purged, and saved since": {subjects(snapshots(seen(5)), 5), onSubjects(holding(purgedAt(live(created, 6), 6)), 1), v1alpha1.ReasonStreamPurged},
		"all snapshots replaced":            {subjects(snapshots(seen(5)), 2), onSubjects(holding(purgedAt(live(created, 9), 8)), 2), ""},
		"some snapshots erased":             {subjects(snapshots(seen(5)), 5), onSubjects(holding(purgedAt(live(created, 7), 4)), 3), ""},
		"made again":                        {seen(5), live(created.Add(time.Second), 0), v1alpha1.ReasonStreamRecreated},
		"made again and fuller":             {seen(5), live(created.Add(time.Second), 9), v1alpha1.ReasonStreamRecreated},
		"made again when empty":             {seen(0), live(created.Add(time.Second), 0), ""},
		"went back":                         {seen(5), live(created, 4), v1alpha1.ReasonStreamRolledBack},
		"created as a status keeps it":      {seen(5), live(created.Truncate(time.Microsecond), 5), ""},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := ""
			if loss := stream.LossOf(test.seen, test.live, created.Add(time.Hour)); loss != nil {
				got = loss.Reason
			}
			if got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

func TestStoreOfStream(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"shop_orders":              "shop_orders",
		"shop_orders_snapshots":    "shop_orders",
		"shop_snapshots":           "shop_snapshots",
		"shop_snapshots_snapshots": "shop_snapshots",
		"orders":                   "",
		"shop_orders_other":        "",
		"a_b_c_snapshots":          "",
	} {
		if got, ok := stream.StoreOfStream(name); got != want || ok != (want != "") {
			t.Errorf("StoreOfStream(%q) = %q, %v", name, got, ok)
		}
	}
}

func TestReplicasCurrent(t *testing.T) {
	t.Parallel()
	peer := func(change ...func(*jetstream.PeerInfo)) *jetstream.PeerInfo {
		p := &jetstream.PeerInfo{Name: "n", Current: true}
		for _, c := range change {
			c(p)
		}
		return p
	}
	in := func(replicas int, cluster *jetstream.ClusterInfo) *jetstream.StreamInfo {
		return &jetstream.StreamInfo{Config: jetstream.StreamConfig{Name: "s", Replicas: replicas}, Cluster: cluster}
	}
	tests := map[string]struct {
		info *jetstream.StreamInfo
		want bool
	}{
		"a server that is alone": {in(1, nil), true},
		"one replica":            {in(1, &jetstream.ClusterInfo{RaftGroup: "g", Leader: "a"}), true},
		"all current":            {in(3, &jetstream.ClusterInfo{RaftGroup: "g", Leader: "a", Replicas: []*jetstream.PeerInfo{peer(), peer()}}), true},
		"no leader":              {in(3, &jetstream.ClusterInfo{RaftGroup: "g", Replicas: []*jetstream.PeerInfo{peer(), peer(), peer()}}), false},
		"one missing":            {in(3, &jetstream.ClusterInfo{RaftGroup: "g", Leader: "a", Replicas: []*jetstream.PeerInfo{peer()}}), false},
		"one too many":           {in(1, &jetstream.ClusterInfo{RaftGroup: "g", Leader: "a", Replicas: []*jetstream.PeerInfo{peer()}}), false},
		"one behind":             {in(2, &jetstream.ClusterInfo{RaftGroup: "g", Leader: "a", Replicas: []*jetstream.PeerInfo{peer(func(p *jetstream.PeerInfo) { p.Current = false })}}), false},
		"one offline":            {in(2, &jetstream.ClusterInfo{RaftGroup: "g", Leader: "a", Replicas: []*jetstream.PeerInfo{peer(func(p *jetstream.PeerInfo) { p.Offline = true })}}), false},
		"one joining":            {in(2, &jetstream.ClusterInfo{RaftGroup: "g", Leader: "a", Replicas: []*jetstream.PeerInfo{peer(func(p *jetstream.PeerInfo) { p.Pending = true })}}), false},
		"moving":                 {in(1, &jetstream.ClusterInfo{RaftGroup: "g", Leader: "a", Desired: &jetstream.DesiredClusterInfo{}}), false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got, why := stream.ReplicasCurrent(test.info); got != test.want || got != (why == "") {
				t.Errorf("got %v because %q, want %v", got, why, test.want)
			}
		})
	}
}

func TestFaultKeepsItsCause(t *testing.T) {
	t.Parallel()
	cause := errors.New("cause")
	fault, ok := stream.AsFault(stream.Retrying(v1alpha1.ReasonUnreachable, "try: %w", cause))
	if !ok || !errors.Is(fault, cause) || fault.Error() != "try: cause" {
		t.Errorf("%v", fault)
	}
}

func TestWorthTelling(t *testing.T) {
	t.Parallel()
	told := func(change func(*v1alpha1.StreamStatus)) v1alpha1.StreamStatus {
		s := v1alpha1.StreamStatus{
			Name: "shop_orders", MaxAge: "30d", Messages: 1000, Bytes: 100_000, FirstSequence: 1, LastSequence: 1000,
			Leader: "a", Replicas: []v1alpha1.ReplicaStatus{{Name: "a", Current: true}, {Name: "b", Current: true}},
		}
		change(&s)
		return s
	}
	same := func(*v1alpha1.StreamStatus) {}
	for name, test := range map[string]struct {
		before, now func(*v1alpha1.StreamStatus)
		any, want   bool
	}{
		"nothing":           {same, same, true, false},
		"a few messages":    {same, func(s *v1alpha1.StreamStatus) { s.Messages, s.LastSequence = 1050, 1050 }, false, false},
		"a few, in time":    {same, func(s *v1alpha1.StreamStatus) { s.Messages, s.LastSequence = 1050, 1050 }, true, true},
		"many messages":     {same, func(s *v1alpha1.StreamStatus) { s.Messages, s.LastSequence = 1101, 1101 }, false, true},
		"many fewer":        {same, func(s *v1alpha1.StreamStatus) { s.Messages, s.FirstSequence = 800, 201 }, false, true},
		"many bytes":        {same, func(s *v1alpha1.StreamStatus) { s.Bytes = 120_000 }, false, true},
		"the first message": {func(s *v1alpha1.StreamStatus) { s.Messages, s.LastSequence = 0, 0 }, func(s *v1alpha1.StreamStatus) { s.Messages, s.LastSequence = 1, 1 }, false, true},
		"another leader":    {same, func(s *v1alpha1.StreamStatus) { s.Leader = "b" }, false, true},
		"a replica behind":  {same, func(s *v1alpha1.StreamStatus) { s.Replicas[1].Current = false }, false, true},
		"a replica's lag":   {same, func(s *v1alpha1.StreamStatus) { s.Replicas[1].Lag = 3 }, false, false},
		"one consumer more": {same, func(s *v1alpha1.StreamStatus) { s.Consumers = 1 }, false, false},
		"an edited age":     {same, func(s *v1alpha1.StreamStatus) { s.MaxAge = "1d" }, false, true},
	} {
		if got := stream.WorthTelling(told(test.before), told(test.now), test.any); got != test.want {
			t.Errorf("%s: %v, want %v", name, got, test.want)
		}
	}
}

// An age that somebody else made shorter is not the one by which a loss is judged; what
// the store asks for is, and a longer one.
func TestRecordOf(t *testing.T) {
	t.Parallel()
	created := time.Now().Truncate(time.Microsecond)
	live := func(age time.Duration, created time.Time) *jetstream.StreamInfo {
		return &jetstream.StreamInfo{Created: created, Config: jetstream.StreamConfig{Name: "shop_orders", MaxAge: age}}
	}
	const day = 24 * time.Hour
	for name, test := range map[string]struct {
		recorded, live, wanted time.Duration
		again                  bool
		want                   string
	}{
		"as asked for":              {day, day, day, false, "1d"},
		"shorter by hand":           {day, time.Hour, day, false, "1d"},
		"from no end by hand":       {0, time.Hour, day, false, "0"},
		"longer by hand":            {time.Hour, day, time.Hour, false, "1d"},
		"shorter, as asked for":     {day, time.Hour, time.Hour, false, "1h"},
		"longer is asked for":       {time.Hour, time.Hour, day, false, "1h"},
		"without end by hand":       {time.Hour, 0, time.Hour, false, "0"},
		"of a stream that is again": {day, time.Hour, day, true, "1h"},
	} {
		recorded := stream.StatusOf(v1alpha1.StreamRoleEvents, live(test.recorded, created))
		now := created
		if test.again {
			now = created.Add(time.Second)
		}
		wanted := stream.Wanted{Role: v1alpha1.StreamRoleEvents, Config: jetstream.StreamConfig{MaxAge: test.wanted}}
		if got := stream.RecordOf(wanted, live(test.live, now), &recorded).MaxAge; got != test.want {
			t.Errorf("%s: %s, want %s", name, got, test.want)
		}
	}
}
