package stream

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// What is older than the stream that holds it was deleted with another one; in a
// cluster the clocks of two servers may be apart.
func TestResurrected(t *testing.T) {
	t.Parallel()
	created := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	for name, test := range map[string]struct {
		messages uint64
		first    time.Duration
		cluster  string
		want     bool
	}{
		"empty":                                {0, -time.Hour, "", false},
		"saved since":                          {1, time.Millisecond, "", false},
		"older":                                {1, -time.Millisecond, "", true},
		"saved since, by a clock that is slow": {1, -time.Millisecond, "aether", false},
		"older, in a cluster":                  {1, -time.Minute, "aether", true},
	} {
		info := &jetstream.StreamInfo{
			Created: created, Cluster: &jetstream.ClusterInfo{Name: test.cluster},
			State: jetstream.StreamState{Msgs: test.messages, FirstTime: created.Add(test.first)},
		}
		if got := resurrected(info); got != test.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
