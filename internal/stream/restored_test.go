package stream_test

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/stream"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv/natsserver"
)

// recordOf is what a status records of a stream of so many events, one an hour.
func recordOf(last int64) *v1alpha1.StreamStatus {
	micro, at := metav1.NewMicroTime(created.Truncate(time.Microsecond)), metav1.NewMicroTime(created.Truncate(time.Microsecond))
	return &v1alpha1.StreamStatus{
		Role: v1alpha1.StreamRoleEvents, Name: "shop_orders", Created: &micro, MaxAge: "0",
		Messages: last, FirstSequence: 1, LastSequence: last, LastTime: &at,
	}
}

func TestNotRestored(t *testing.T) {
	t.Parallel()
	live := func(first, last, messages uint64) *jetstream.StreamInfo {
		return &jetstream.StreamInfo{Created: created.Add(day), State: jetstream.StreamState{FirstSeq: first, LastSeq: last, Msgs: messages, FirstTime: created}}
	}
	aged := func(age string) *v1alpha1.StreamStatus {
		s := recordOf(5)
		s.MaxAge = age
		return s
	}
	snapshots := func(messages int64) *v1alpha1.StreamStatus {
		s := recordOf(5)
		s.Role, s.Messages, s.FirstSequence = v1alpha1.StreamRoleSnapshots, messages, 4
		return s
	}
	from := func(sequence uint64, at time.Time) stream.Stored { return stream.Stored{Sequence: sequence, Time: at} }
	none := stream.Stored{}
	before, since := created.Add(day-2*time.Second), created.Add(day+time.Second)
	clustered := live(4, 7, 3)
	clustered.Cluster = &jetstream.ClusterInfo{Name: "C"}
	for name, test := range map[string]struct {
		seen *v1alpha1.StreamStatus
		live *jetstream.StreamInfo
		from stream.Stored
		may  bool
		is   bool
	}{
		"the same":                               {recordOf(5), live(1, 5, 5), from(5, created), true, true},
		"and written to since":                   {recordOf(5), live(1, 9, 9), from(5, created), true, true},
		"another last message":                   {recordOf(5), live(1, 5, 5), from(5, created.Add(time.Second)), true, false},
		"no message there":                       {recordOf(5), live(1, 5, 4), none, true, false},
		"no message there, and one beyond":       {recordOf(5), live(1, 6, 5), from(6, before), true, false},
		"fewer messages":                         {recordOf(5), live(1, 5, 4), from(5, created), true, false},
		"fewer messages, and written to since":   {recordOf(5), live(1, 9, 8), from(5, created), true, false},
		"less far":                               {recordOf(5), live(1, 4, 4), none, false, false},
		"the oldest missing, which never expire": {recordOf(5), live(3, 5, 3), from(5, created), true, false},
		"the oldest expired":                     {aged("2d"), live(3, 5, 3), from(5, created), true, true},
		"the oldest expired, and one is missing": {aged("2d"), live(3, 5, 2), from(5, created), true, false},
		"all expired":                            {aged("1h"), live(6, 5, 0), none, true, true},
		"snapshots":                              {snapshots(2), live(4, 5, 2), from(5, created), true, true},
		"snapshots, fewer":                       {snapshots(2), live(5, 5, 1), from(5, created), true, false},
		// The last one on record was replaced before the backup was made.
		"snapshots, of a later backup":            {snapshots(2), live(4, 6, 2), from(6, before), true, true},
		"snapshots, of a later one on three":      {snapshots(2), clustered, from(6, before), true, true},
		"snapshots, beyond which nothing is left": {snapshots(2), live(4, 6, 2), none, true, false},
		// The backup went to 4, or to 5: what was saved since has taken the place of either.
		"snapshots, of an older backup":         {snapshots(2), live(2, 6, 2), from(6, since), true, false},
		"snapshots, of an older one on three":   {snapshots(2), clustered, from(6, created.Add(day-time.Millisecond)), true, false},
		"snapshots, replaced at once after all": {snapshots(2), live(4, 6, 2), from(6, since), true, false},
	} {
		if may := stream.MayBeRestored(test.seen, test.live); may != test.may {
			t.Errorf("%s: may be restored: %v", name, may)
		} else if !may {
			continue
		}
		if why := stream.NotRestored(test.seen, test.live, test.from, created.Add(day)); (why == "") != test.is {
			t.Errorf("%s: %q", name, why)
		}
	}
	if stream.MayBeRestored(nil, live(1, 5, 5)) || stream.MayBeRestored(recordOf(0), live(1, 5, 5)) || stream.MayBeRestored(recordOf(5), nil) {
		t.Error("nothing that is compared with nothing may be restored")
	}
	same := live(1, 5, 5)
	same.Created = created
	if stream.MayBeRestored(recordOf(5), same) {
		t.Error("the stream itself is no copy")
	}
}

func TestIsElsewhere(t *testing.T) {
	t.Parallel()
	at := func(last uint64, at time.Time) *jetstream.StreamInfo {
		return &jetstream.StreamInfo{Created: created, State: jetstream.StreamState{LastSeq: last, LastTime: at}}
	}
	timeless := recordOf(5)
	timeless.LastTime = nil
	for name, test := range map[string]struct {
		seen *v1alpha1.StreamStatus
		live *jetstream.StreamInfo
		want bool
	}{
		"where it was":                     {recordOf(5), at(5, created), false},
		"beyond":                           {recordOf(5), at(6, created), true},
		"short of it":                      {recordOf(5), at(4, created), true},
		"another message in that place":    {recordOf(5), at(5, created.Add(time.Second)), true},
		"gone":                             {recordOf(5), nil, false},
		"nothing was on record":            {nil, at(6, created), false},
		"it was empty":                     {recordOf(0), at(6, created), false},
		"no time of the last is on record": {timeless, at(6, created), false},
	} {
		if got := stream.IsElsewhere(test.seen, test.live); got != test.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}

func TestOvertakenOf(t *testing.T) {
	t.Parallel()
	live := &jetstream.StreamInfo{Created: created, State: jetstream.StreamState{LastSeq: 9}}
	aged := recordOf(5)
	aged.MaxAge = "1h"
	there, beyond := stream.Stored{Sequence: 5, Time: created}, stream.Stored{Sequence: 6, Time: created.Add(time.Hour)}
	const told = "stored data was lost: stream shop_orders went back to sequence 4; it held 5 messages"
	for name, test := range map[string]struct {
		seen *v1alpha1.StreamStatus
		from stream.Stored
		told string
		want bool
	}{
		"the same message":                   {recordOf(5), there, told, false},
		"another message":                    {recordOf(5), stream.Stored{Sequence: 5, Time: created.Add(time.Second)}, "", true},
		"none there, and nothing was told":   {recordOf(5), beyond, "", false},
		"none there, and another went back":  {recordOf(5), beyond, "stream shop_orders_snapshots went back to sequence 4", false},
		"none there, and it is told":         {recordOf(5), beyond, told, true},
		"none at all, and it is told":        {recordOf(5), stream.Stored{}, told, true},
		"none there, as all of them expired": {aged, beyond, told, false},
	} {
		loss := stream.OvertakenOf(test.seen, live, test.from, test.told, created.Add(day))
		if got := loss != nil && loss.Reason == v1alpha1.ReasonStreamRolledBack; got != test.want {
			t.Errorf("%s: %+v", name, loss)
		}
	}
}

// patient publishes again where nobody answers: servers hear from each other of a stream that
// was just made.
var patient = jetstream.WithRetryAttempts(40)

// What a restore keeps is what a restored stream is known by; it has another time of
// creation.
func TestRestoreKeepsSequencesAndTimes(t *testing.T) {
	t.Parallel()
	for name, size := range map[string]int{"one server": 1, "three servers": 3} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			servers := natsserver.Run(t, size)
			conn, _ := connect(t, servers, nil)
			nc := servers.Connect(t)
			js, err := jetstream.New(nc)
			fail(t, err)
			wanted := desired(t, orders(func(s *v1alpha1.EventStore) { s.Spec.Replicas = int32(size) }))[0]
			create(t, conn, wanted.Config)
			for range 5 {
				_, err := js.Publish(t.Context(), wanted.Config.Name+".events.a.b", []byte("{}"), patient)
				fail(t, err)
			}
			before, err := conn.Stream(t.Context(), wanted.Config.Name)
			fail(t, err)
			seen := stream.StatusOf(wanted.Role, before)
			backup, err := natsserver.TakeBackup(t.Context(), nc, wanted.Config.Name)
			fail(t, err)
			fail(t, conn.Delete(t.Context(), wanted.Config.Name))
			fail(t, backup.Restore(t.Context(), nc))
			after, err := conn.Stream(t.Context(), wanted.Config.Name)
			fail(t, err)
			from, err := conn.FirstFrom(t.Context(), wanted.Config.Name, 5)
			fail(t, err)
			if !stream.MayBeRestored(&seen, after) || from.Sequence != 5 || !from.Time.Equal(before.State.LastTime) {
				t.Errorf("restored as %+v of %+v, last message %+v", after, before, from)
			}
			if why := stream.NotRestored(&seen, after, from, time.Now()); why != "" {
				t.Error(why)
			}
			if none, err := conn.FirstFrom(t.Context(), wanted.Config.Name, 6); err != nil || none != (stream.Stored{}) {
				t.Errorf("a message that is not there is %+v, %v", none, err)
			}
		})
	}
}
