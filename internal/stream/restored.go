package stream

import (
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
)

// MayBeRestored says whether a stream, whose metadata names us, has another time of
// creation than the one on record, and goes at least as far.
func MayBeRestored(seen *v1alpha1.StreamStatus, live *jetstream.StreamInfo) bool {
	return hasHeld(seen) && live != nil && !sameStream(seen, live) && live.State.LastSeq >= uint64(seen.LastSequence)
}

// NotRestored says why a stream that may be restored is not the one on record, ""
// when it is: a restore keeps sequences and times. at is the time of its message at
// the last sequence on record, zero when there is none.
func NotRestored(seen *v1alpha1.StreamStatus, live *jetstream.StreamInfo, at, now time.Time) string {
	now = expiryTime(live, now)
	switch {
	case seen.LastTime == nil:
		return "no time is on record of its last message"
	case at.IsZero() && seen.Messages > 0 && !expired(seen, now) && !replaced(seen, live):
		return fmt.Sprintf("it has no message at sequence %d", seen.LastSequence)
	case !at.IsZero() && !sameTime(seen.LastTime, at):
		return fmt.Sprintf("its message at sequence %d is of %s, and the one on record of %s",
			seen.LastSequence, at.UTC().Format(time.RFC3339Nano), seen.LastTime.UTC().Format(time.RFC3339Nano))
	}
	if fewest := fewestKept(seen, live, now); held(seen, live) < fewest {
		return fmt.Sprintf("it holds %d of at least %d messages up to sequence %d", held(seen, live), fewest, seen.LastSequence)
	}
	return ""
}

// replaced: the snapshot at the last sequence on record may have been followed by a
// newer one of its actor, and older ones than the stream itself were restored.
func replaced(seen *v1alpha1.StreamStatus, live *jetstream.StreamInfo) bool {
	return seen.Role == v1alpha1.StreamRoleSnapshots && live.State.LastSeq > uint64(seen.LastSequence) && live.State.FirstTime.Before(live.Created)
}

// held is how many messages a stream holds, at most, of those on record.
func held(seen *v1alpha1.StreamStatus, live *jetstream.StreamInfo) uint64 {
	later := live.State.LastSeq - uint64(seen.LastSequence)
	if seen.Role == v1alpha1.StreamRoleSnapshots {
		// A later one may have replaced one on record: the stream may hold as many.
		return live.State.Msgs
	}
	return live.State.Msgs - min(later, live.State.Msgs)
}

// fewestKept is how many messages of those on record a stream must hold. The oldest
// may have expired since, where messages do.
func fewestKept(seen *v1alpha1.StreamStatus, live *jetstream.StreamInfo, now time.Time) uint64 {
	fewest := uint64(seen.Messages)
	if seen.MaxAge == "0" {
		return fewest
	}
	if expired(seen, now) {
		return 0
	}
	gone := live.State.FirstSeq - min(uint64(seen.FirstSequence), live.State.FirstSeq)
	return fewest - min(gone, fewest)
}
