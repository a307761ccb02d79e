package stream_test

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/stream"
)

// By the age that the operator was about to set events have expired once the stream has it,
// and by no other: it may have ended before it set it, or before it wrote that it did.
func TestLossWithNextAge(t *testing.T) {
	t.Parallel()
	now := created.Add(10 * day)
	empty := func(age time.Duration, made time.Time) *jetstream.StreamInfo {
		return &jetstream.StreamInfo{
			Created: made, TimeStamp: now, Config: jetstream.StreamConfig{Name: "shop_orders", MaxAge: age},
			State: jetstream.StreamState{FirstSeq: 6, LastSeq: 5, LastTime: created},
		}
	}
	for name, test := range map[string]struct {
		next   string
		live   *jetstream.StreamInfo
		reason string
		age    string
	}{
		"set":                       {"1h", empty(time.Hour, created), "", "1h"},
		"not set":                   {"1h", empty(30*day, created), v1alpha1.ReasonStreamPurged, "30d"},
		"another by hand":           {"1h", empty(2*time.Hour, created), v1alpha1.ReasonStreamPurged, "30d"},
		"set, and not old enough":   {"20d", empty(20*day, created), v1alpha1.ReasonStreamPurged, "20d"},
		"none, and shorter by hand": {"", empty(time.Hour, created), v1alpha1.ReasonStreamPurged, "30d"},
		"of a stream that is again": {"1h", empty(time.Hour, created.Add(time.Second)), v1alpha1.ReasonStreamRecreated, "30d"},
		"of one that is gone":       {"1h", nil, v1alpha1.ReasonStreamMissing, "30d"},
	} {
		recorded := *recordOf(5)
		last := metav1.NewMicroTime(created.Truncate(time.Microsecond))
		recorded.Role, recorded.LastTime, recorded.Messages = v1alpha1.StreamRoleEvents, &last, 5
		recorded.MaxAge, recorded.NextMaxAge = "30d", test.next
		seen := stream.WithNextAge(recorded, test.live)
		reason := ""
		if loss := stream.LossOf(&seen, test.live, now); loss != nil {
			reason = loss.Reason
		}
		if reason != test.reason || seen.MaxAge != test.age {
			t.Errorf("%s: %q by the age %s, want %q by %s", name, reason, seen.MaxAge, test.reason, test.age)
		}
	}
}
