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
// when it is: a restore keeps sequences and times. from is its first message from the
// last sequence on record on.
func NotRestored(seen *v1alpha1.StreamStatus, live *jetstream.StreamInfo, from Stored, now time.Time) string {
	now = expiryTime(live, now)
	isThere := from.Sequence == uint64(seen.LastSequence)
	switch {
	case seen.LastTime == nil:
		return "no time is on record of its last message"
	case !isThere && seen.Messages > 0 && !expired(seen, now) && !goesBeyond(seen, live, from):
		return fmt.Sprintf("it has no message at sequence %d, and nothing else shows that its backup went so far", seen.LastSequence)
	case isThere && !sameTime(seen.LastTime, from.Time):
		return fmt.Sprintf("its message at sequence %d is of %s, and the one on record of %s",
			seen.LastSequence, from.Time.UTC().Format(time.RFC3339Nano), seen.LastTime.UTC().Format(time.RFC3339Nano))
	}
	if fewest := fewestKept(seen, live, now); held(seen, live) < fewest {
		return fmt.Sprintf("it holds %d of at least %d messages up to sequence %d", held(seen, live), fewest, seen.LastSequence)
	}
	return ""
}

// goesBeyond: the snapshot at the last sequence on record may have been followed by a
// newer one of its actor. Then one beyond it shows that the backup went so far, if it is
// older than the stream itself; those that were saved to the stream since show nothing.
func goesBeyond(seen *v1alpha1.StreamStatus, live *jetstream.StreamInfo, from Stored) bool {
	return seen.Role == v1alpha1.StreamRoleSnapshots && from.Sequence > uint64(seen.LastSequence) && from.Time.Before(born(live))
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
