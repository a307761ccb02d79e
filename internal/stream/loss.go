package stream

import (
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
)

// Loss is stored messages that are gone.
type Loss struct {
	// Reason is one of ReasonStreamMissing, ReasonStreamRecreated,
	// ReasonStreamRolledBack and ReasonStreamPurged.
	Reason  string
	Message string
}

// LossOf compares a stream with what the status recorded of it. Nil when nothing
// was lost: a stream that never held a message can be gone without loss. seen is
// nil when nothing is recorded, live when the stream does not exist. Messages that
// were erased one by one are none: whoever did so had a right that only
// protection Immutable takes away.
func LossOf(seen *v1alpha1.StreamStatus, live *jetstream.StreamInfo, now time.Time) *Loss {
	if seen == nil || seen.Created == nil || seen.LastSequence == 0 {
		return nil
	}
	last := fmt.Sprintf("%d messages up to sequence %d when last seen", seen.Messages, seen.LastSequence)
	switch {
	case live == nil:
		return &Loss{v1alpha1.ReasonStreamMissing, fmt.Sprintf("stream %s is gone; it held %s", seen.Name, last)}
	case !sameStream(seen, live):
		return &Loss{v1alpha1.ReasonStreamRecreated, fmt.Sprintf(
			"stream %s was deleted and made again at %s; the one of %s held %s",
			seen.Name, live.Created.UTC().Format(time.RFC3339), seen.Created.UTC().Format(time.RFC3339), last)}
	case live.State.LastSeq < uint64(seen.LastSequence):
		return &Loss{v1alpha1.ReasonStreamRolledBack, fmt.Sprintf(
			"stream %s went back to sequence %d; it held %s", seen.Name, live.State.LastSeq, last)}
	case purged(seen, live, now):
		return &Loss{v1alpha1.ReasonStreamPurged, fmt.Sprintf("stream %s was purged; it held %s", seen.Name, last)}
	default:
		return nil
	}
}

// purged: nothing is left of what was seen, and it was not old enough to go by
// itself. Of snapshots the newest of each actor stays for ever.
func purged(seen *v1alpha1.StreamStatus, live *jetstream.StreamInfo, now time.Time) bool {
	if seen.Messages == 0 {
		return false
	}
	if seen.Role == v1alpha1.StreamRoleSnapshots {
		return live.State.Msgs == 0
	}
	if live.State.Msgs > 0 && live.State.FirstSeq <= uint64(seen.LastSequence) {
		return false
	}
	age, err := ParseMaxAge(seen.MaxAge)
	if err != nil || seen.LastTime == nil {
		return false
	}
	return age == 0 || seen.LastTime.Add(age).After(now)
}
