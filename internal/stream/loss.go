package stream

import (
	"fmt"
	"strings"
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
	// Stream is the name of the stream.
	Stream string
	// recorded and live are what was there and what is there now, as a token stands
	// for them.
	recorded, live string
}

func newLoss(reason string, seen *v1alpha1.StreamStatus, live *jetstream.StreamInfo, format string, args ...any) *Loss {
	return &Loss{
		Reason: reason, Message: fmt.Sprintf(format, args...), Stream: seen.Name,
		recorded: fmt.Sprintf("%s %d", seen.Created.UTC().Format(time.RFC3339Nano), seen.LastSequence), live: identity(live),
	}
}

// identity is the time of a stream's creation, and "absent" where there is none.
func identity(live *jetstream.StreamInfo) string {
	if live == nil {
		return "absent"
	}
	return live.Created.UTC().Format(time.RFC3339Nano)
}

// LossOf compares a stream with what the status recorded of it. Nil when nothing
// was lost: a stream that never held a message can be gone without loss. seen is
// nil when nothing is recorded, live when the stream does not exist. Messages that
// were erased one by one are none: whoever did so had a right that only
// protection Immutable takes away. Where the clock of the server and that here differ by
// more than a minute, what has expired by one alone is lost.
func LossOf(seen *v1alpha1.StreamStatus, live *jetstream.StreamInfo, now time.Time) *Loss {
	if !hasHeld(seen) {
		return nil
	}
	last := lastSeen(seen)
	switch {
	case live == nil:
		return newLoss(v1alpha1.ReasonStreamMissing, seen, live, "stream %s is gone; it held %s", seen.Name, last)
	case !sameStream(seen, live):
		return newLoss(v1alpha1.ReasonStreamRecreated, seen, live, "stream %s was deleted and made again at %s; the one of %s held %s",
			seen.Name, live.Created.UTC().Format(time.RFC3339), seen.Created.UTC().Format(time.RFC3339), last)
	case live.State.LastSeq < uint64(seen.LastSequence):
		return newLoss(v1alpha1.ReasonStreamRolledBack, seen, live, "%s to sequence %d; it held %s", wentBack(seen.Name), live.State.LastSeq, last)
	case purged(seen, live, expiryTime(live, now)):
		why := ""
		if clocksDiffer(live, now) {
			why = "; the clocks of the NATS servers and of the operator are more than a minute apart, and servers whose clock is ahead drop events before their time: set the clocks right first"
		}
		return newLoss(v1alpha1.ReasonStreamPurged, seen, live, "stream %s was purged; it held %s%s", seen.Name, last, why)
	default:
		return nil
	}
}

// hasHeld says whether messages are on record.
func hasHeld(seen *v1alpha1.StreamStatus) bool {
	return seen != nil && seen.Created != nil && seen.LastSequence > 0
}

func lastSeen(seen *v1alpha1.StreamStatus) string {
	return fmt.Sprintf("%d messages up to sequence %d when last seen", seen.Messages, seen.LastSequence)
}

func wentBack(name string) string { return "stream " + name + " went back" }

// IsElsewhere says whether a stream is not at the place that is on record of it. Then it
// was written to since, and the message at that place has to show that it goes on from
// there: its server may have come back with less than it had, whoever is connected to it.
// Nothing can be compared if no time is on record.
func IsElsewhere(seen *v1alpha1.StreamStatus, live *jetstream.StreamInfo) bool {
	return hasHeld(seen) && seen.LastTime != nil && live != nil &&
		(live.State.LastSeq != uint64(seen.LastSequence) || !sameTime(seen.LastTime, live.State.LastTime))
}

// OvertakenOf is the loss of a stream that went back, and has been written to until
// it was beyond the place where it had been: from is its first message from that place
// on, and told is what was told of losses before. Nil when it is the same message. Where
// it is missing nothing shows that the stream was back, and what was told of it stands.
func OvertakenOf(seen *v1alpha1.StreamStatus, live *jetstream.StreamInfo, from Stored, told string, now time.Time) *Loss {
	if !hasHeld(seen) || live == nil || !sameStream(seen, live) || seen.LastTime == nil {
		return nil
	}
	if from.Sequence == uint64(seen.LastSequence) {
		if sameTime(seen.LastTime, from.Time) {
			return nil
		}
	} else if !strings.Contains(told, wentBack(seen.Name)) || expired(seen, expiryTime(live, now)) {
		return nil
	}
	return newLoss(v1alpha1.ReasonStreamRolledBack, seen, live,
		"%s, and was written to since up to sequence %d; it held %s", wentBack(seen.Name), live.State.LastSeq, lastSeen(seen))
}

// PartnerLost is the loss of a stream of events of which nothing is on record, where
// its stream of snapshots is ours and holds some: snapshots are made of events.
func PartnerLost(events string, snapshots *jetstream.StreamInfo) *Loss {
	return &Loss{
		Reason: v1alpha1.ReasonStreamMissing, Stream: events, recorded: "its snapshots " + identity(snapshots), live: identity(nil),
		Message: fmt.Sprintf("stream %s is gone; its stream of snapshots %s is there and holds %d messages, which were made of its events",
			events, snapshots.Config.Name, snapshots.State.Msgs),
	}
}

// purged: nothing is left of what was seen, and it was not old enough to go by
// itself.
func purged(seen *v1alpha1.StreamStatus, live *jetstream.StreamInfo, now time.Time) bool {
	if seen.Messages == 0 {
		return false
	}
	if seen.Role == v1alpha1.StreamRoleSnapshots {
		return snapshotsPurged(seen, live)
	}
	if live.State.Msgs > 0 && live.State.FirstSeq <= uint64(seen.LastSequence) {
		return false
	}
	if seen.LastTime == nil {
		return false
	}
	return !expired(seen, now)
}

// expired says whether the newest message on record is older than messages get.
func expired(seen *v1alpha1.StreamStatus, now time.Time) bool {
	age, err := ParseMaxAge(seen.MaxAge)
	if err != nil {
		// Not what this operator writes: nothing is known of the age.
		return true
	}
	return age != 0 && !seen.LastTime.Add(age).After(now)
}

// snapshotsPurged: nothing is left of what was seen, and subjects are missing. A message of
// a subject goes when a newer one takes its place, also where an actor's snapshot or a
// durable subscription is deleted, and a lower history leaves the newest: so all that was
// seen may be gone, and each subject is there. One that was erased leaves what was seen of
// others.
func snapshotsPurged(seen *v1alpha1.StreamStatus, live *jetstream.StreamInfo) bool {
	return live.State.Msgs == 0 ||
		live.State.FirstSeq > uint64(seen.LastSequence) && live.State.NumSubjects < uint64(seen.Subjects)
}
