package stream_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/stream"
)

// What is on record of a stream since its loss was told.
func TestRecordSince(t *testing.T) {
	t.Parallel()
	at := func(last uint64) *jetstream.StreamInfo {
		info := &jetstream.StreamInfo{Created: created, State: jetstream.StreamState{Msgs: last, FirstSeq: 1, LastSeq: last, LastTime: created, NumSubjects: 2}}
		info.Config.Name = "shop_orders"
		return info
	}
	first := &stream.Loss{Reason: v1alpha1.ReasonStreamPurged, Message: "the first"}
	again := &stream.Loss{Reason: v1alpha1.ReasonStreamRolledBack, Message: "the second"}
	recorded, wanted := recordOf(30), stream.Wanted{Role: v1alpha1.StreamRoleEvents}
	record := func(live *jetstream.StreamInfo, found stream.Found, anyChange bool) *v1alpha1.StreamSince {
		recorded.Since = stream.RecordSince(wanted, recorded, live, found, created.Add(time.Hour), anyChange)
		return recorded.Since
	}
	if since := record(at(10), stream.Found{IsBack: true}, true); since != nil {
		t.Errorf("nothing was lost, and on record is %+v", since)
	}
	if since := record(nil, stream.Found{Loss: first}, true); since != nil {
		t.Errorf("there is no stream, and on record is %+v", since)
	}
	since := record(at(100), stream.Found{Loss: first}, false)
	if since == nil || since.LastSequence != 100 || since.Messages != 100 || len(since.Losses) != 1 || since.Losses[0].Message != "the first" {
		t.Fatalf("of the first loss there is %+v", since)
	}
	for _, step := range []struct {
		what      string
		last      uint64
		found     stream.Found
		anyChange bool
		want      string
	}{
		{"hardly more", 105, stream.Found{Loss: first}, false, "100 the first"},
		{"hardly more, and it is time to tell", 105, stream.Found{Loss: first}, true, "105 the first"},
		{"much more", 150, stream.Found{Loss: first}, false, "150 the first"},
		{"a second loss", 149, stream.Found{Loss: first, Again: again}, false, "149 the first, the second"},
		{"the first is not seen any more", 149, stream.Found{}, false, "149 the first, the second"},
		{"the first is back", 149, stream.Found{IsBack: true}, false, "149 stream shop_orders was lost and is back, the second"},
	} {
		since := record(at(step.last), step.found, step.anyChange)
		var losses []string
		for _, loss := range since.Losses {
			losses = append(losses, loss.Message)
		}
		if got := fmt.Sprint(since.LastSequence, " ", strings.Join(losses, ", ")); got != step.want {
			t.Errorf("%s: %s, want %s", step.what, got, step.want)
		}
	}
	for n := range 20 {
		record(at(1), stream.Found{Again: &stream.Loss{Reason: v1alpha1.ReasonStreamPurged, Message: fmt.Sprint("more ", n)}}, false)
	}
	if losses := recorded.Since.Losses; len(losses) != v1alpha1.MaxStreamLosses || !strings.Contains(losses[0].Message, "is back") || losses[9].Message != "more 19" {
		t.Errorf("of many losses there are %+v", losses)
	}
	recorded.Since = nil
	if since := record(at(10), stream.Found{Loss: first}, false); since.MaxAge != "0" {
		t.Errorf("the age is %s", since.MaxAge)
	}
	shorter := at(10)
	shorter.Config.MaxAge = time.Hour
	if since := record(shorter, stream.Found{Loss: first}, true); since.MaxAge != "0" {
		t.Errorf("somebody has made the age shorter, and on record is %s", since.MaxAge)
	}
	if since := record(at(30), stream.Found{IsBack: true}, false); since != nil {
		t.Errorf("it is back, and on record is %+v", since)
	}
}

// What was lost since is told with the first loss, and makes another token; what is saved
// makes none.
func TestToldSince(t *testing.T) {
	t.Parallel()
	live := &jetstream.StreamInfo{Created: created, State: jetstream.StreamState{LastSeq: 4, LastTime: created}}
	seen, wanted := recordOf(5), stream.Wanted{Role: v1alpha1.StreamRoleEvents}
	now := created.Add(time.Hour)
	lossOf := func() *stream.Loss { return stream.LossOf(seen, live, now) }
	token := func(found stream.Found) string {
		return stream.LossToken("uid-1", "", []*stream.Loss{stream.Told(seen, live, found)})
	}
	if told := stream.Told(seen, live, stream.Found{IsBack: true}); told != nil {
		t.Errorf("nothing was lost, and told is %+v", told)
	}
	first := stream.Found{Loss: lossOf()}
	plain := token(first)
	seen.Since = stream.RecordSince(wanted, seen, live, first, now, true)
	live.State.LastSeq = 3
	seen.Since = stream.RecordSince(wanted, seen, live, stream.Found{Loss: lossOf()}, now, true)
	if now := token(stream.Found{Loss: lossOf()}); now != plain {
		t.Errorf("without another loss the token is %s, and was %s", now, plain)
	}
	if told := stream.Told(seen, live, stream.Found{}); told == nil || told.Reason != v1alpha1.ReasonStreamRolledBack || !strings.Contains(told.Message, "held 5 messages") {
		t.Errorf("where it is not seen any more, told is %+v", told)
	}
	if now := token(stream.Found{}); now != plain {
		t.Errorf("where it is not seen any more the token is %s, and was %s", now, plain)
	}
	tokens := map[string]bool{plain: true}
	for n := range 3 {
		again := stream.Found{Loss: lossOf(), Again: &stream.Loss{Reason: v1alpha1.ReasonStreamPurged, Message: "once more"}}
		seen.Since = stream.RecordSince(wanted, seen, live, again, now.Add(time.Duration(n)*time.Second), false)
		told := stream.Told(seen, live, stream.Found{Loss: lossOf()})
		if strings.Count(told.Message, "once more") != n+1 || !strings.Contains(told.Message, "held 5 messages") {
			t.Errorf("told is %q", told.Message)
		}
		tokens[token(stream.Found{Loss: lossOf()})] = true
	}
	if len(tokens) != 4 {
		t.Errorf("four losses have %d tokens", len(tokens))
	}
}
