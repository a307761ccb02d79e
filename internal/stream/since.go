package stream

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
)

// Found is what a look finds to be lost of one stream.
type Found struct {
	// Loss is of what is on record of it, and Again of what was seen there since a loss was
	// told. Nil for none.
	Loss, Again *Loss
	// IsBack: what is on record is there, as it was or restored.
	IsBack bool
}

// IsThere says whether the newest message on record is there: from is the first one of the
// stream from that place on.
func IsThere(seen *v1alpha1.StreamStatus, from Stored) bool {
	return from.Sequence == uint64(seen.LastSequence) && sameTime(seen.LastTime, from.Time)
}

// PlaceSince is the place at which a stream was seen since its loss was told, to be compared
// as the one on record is. Nil where there is none.
func PlaceSince(recorded *v1alpha1.StreamStatus) *v1alpha1.StreamStatus {
	if recorded == nil || recorded.Since == nil {
		return nil
	}
	since := recorded.Since
	return &v1alpha1.StreamStatus{
		Role: recorded.Role, Name: recorded.Name, Created: since.Created, MaxAge: since.MaxAge, Messages: since.Messages,
		FirstSequence: since.FirstSequence, LastSequence: since.LastSequence, LastTime: since.LastTime, Subjects: since.Subjects,
	}
}

// WasElsewhere says whether the place since is that of another stream than the one on record,
// which is there: no stream that is made again has the time of creation of an earlier one, so
// the class led to other servers meanwhile, and it is not lost there.
func WasElsewhere(recorded *v1alpha1.StreamStatus, live *jetstream.StreamInfo) bool {
	return live != nil && sameStream(recorded, live) && recorded.Since.Created != nil && !recorded.Since.Created.Equal(recorded.Created)
}

// RecordSince is what is to be on record of a stream since its loss was told: what was told
// stays until a person accepts it, or the stream is back and nothing else was lost. Figures
// that have hardly changed are left as they were, unless anyChange. An age counts as in
// RecordOf.
func RecordSince(wanted Wanted, recorded *v1alpha1.StreamStatus, live *jetstream.StreamInfo, found Found, now time.Time, anyChange bool) *v1alpha1.StreamSince {
	before := PlaceSince(recorded)
	if before == nil {
		if found.Loss == nil || live == nil {
			return nil
		}
		return sinceOf(wanted, live, recorded, []v1alpha1.StreamLoss{statusOf(found.Loss, now)})
	}
	losses := recorded.Since.Losses
	if found.Again != nil {
		losses = append(slices.Clone(losses), statusOf(found.Again, now))
		if len(losses) > v1alpha1.MaxStreamLosses {
			losses = slices.Delete(losses, 1, 2)
		}
	}
	if found.IsBack {
		if len(losses) == 1 {
			return nil
		}
		losses = slices.Clone(losses)
		losses[0].Reason, losses[0].Message = losses[len(losses)-1].Reason, fmt.Sprintf("stream %s was lost and is back", recorded.Name)
	}
	since := sinceOf(wanted, live, before, losses)
	if found.Again == nil && !WorthTelling(*before, *PlaceSince(&v1alpha1.StreamStatus{Role: recorded.Role, Name: recorded.Name, Since: since}), anyChange) {
		// A place that is higher is remembered, see Memory.RaiseSince.
		kept := *recorded.Since
		kept.Losses = losses
		return &kept
	}
	return since
}

func sinceOf(wanted Wanted, live *jetstream.StreamInfo, before *v1alpha1.StreamStatus, losses []v1alpha1.StreamLoss) *v1alpha1.StreamSince {
	if live == nil {
		return &v1alpha1.StreamSince{Losses: losses}
	}
	now := RecordOf(wanted, live, before)
	return &v1alpha1.StreamSince{
		Created: now.Created, MaxAge: now.MaxAge, Messages: now.Messages, FirstSequence: now.FirstSequence,
		LastSequence: now.LastSequence, LastTime: now.LastTime, Subjects: now.Subjects, Losses: losses,
	}
}

// maxLossMessage is how much a status takes of what a loss says.
const maxLossMessage = 1024

func statusOf(loss *Loss, now time.Time) v1alpha1.StreamLoss {
	return v1alpha1.StreamLoss{
		Time: metav1.NewTime(now.Truncate(time.Second)), Reason: loss.Reason,
		Message: strings.ToValidUTF8(loss.Message[:min(len(loss.Message), maxLossMessage)], ""),
	}
}

// Told is the loss that is told of a stream, with all that waits to be accepted: each more
// makes another token. seen is what is on record, with what RecordSince gave.
func Told(seen *v1alpha1.StreamStatus, live *jetstream.StreamInfo, found Found) *Loss {
	if seen == nil || seen.Since == nil {
		return found.Loss
	}
	losses, told := seen.Since.Losses, found.Loss
	if told == nil {
		told = newLoss(losses[0].Reason, seen, live, "%s", losses[0].Message)
	}
	for _, again := range losses[1:] {
		at := again.Time.UTC().Format(time.RFC3339)
		told.Message += fmt.Sprintf("; and since that was told, at %s: %s", at, again.Message)
		told.recorded += fmt.Sprintf(" %s %s %s", at, again.Reason, again.Message)
	}
	return told
}
