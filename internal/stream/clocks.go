package stream

import (
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// clockTolerance is how far the clocks of the servers and of the operator may be apart
// until neither is believed alone.
const clockTolerance = time.Minute

// LatestTime is the time by which a shorter age is judged: the latest of the clock here,
// that of the server and that of the newest message. Either clock may be behind, and when
// it is set right what was younger by it goes.
func LatestTime(live *jetstream.StreamInfo, now time.Time) time.Time {
	for _, other := range []time.Time{live.TimeStamp, live.State.LastTime} {
		if other.After(now) {
			now = other
		}
	}
	return now
}

// expiryTime is the time by which messages that are gone were old enough to go: that of the
// server, or the earlier one where the clock here is another. A clock that is ahead for a
// moment makes servers drop what no other clock explains.
func expiryTime(live *jetstream.StreamInfo, now time.Time) time.Time {
	if live.TimeStamp.IsZero() || clocksDiffer(live, now) && now.Before(live.TimeStamp) {
		return now
	}
	return live.TimeStamp
}

func clocksDiffer(live *jetstream.StreamInfo, now time.Time) bool {
	return !live.TimeStamp.IsZero() && live.TimeStamp.Sub(now).Abs() > clockTolerance
}
