package stream

import (
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// maxBytesEffect: a stream that discards what is new keeps what it has and takes
// no more, and one that discards what is old drops it. Neither is to come as a
// surprise.
func maxBytesEffect(wanted *jetstream.StreamConfig, live *jetstream.StreamInfo, _ time.Time) Effect {
	if excess(wanted, live) > 0 {
		return DestroysData
	}
	return Safe
}

// excess is how many bytes are more than wanted.
func excess(wanted *jetstream.StreamConfig, live *jetstream.StreamInfo) uint64 {
	if wanted.MaxBytes < 0 {
		return 0
	}
	return live.State.Bytes - min(uint64(wanted.MaxBytes), live.State.Bytes)
}

func maxMessagesEffect(wanted *jetstream.StreamConfig, live *jetstream.StreamInfo, _ time.Time) Effect {
	if tooMany(wanted, live) > 0 {
		return DestroysData
	}
	return Safe
}

// tooMany is how many messages are more than wanted.
func tooMany(wanted *jetstream.StreamConfig, live *jetstream.StreamInfo) uint64 {
	if wanted.MaxMsgs < 0 {
		return 0
	}
	return live.State.Msgs - min(uint64(wanted.MaxMsgs), live.State.Msgs)
}

// historyEffect: one subject may have most of the messages, so that fewer for each
// are safe only where no subject can have more.
func historyEffect(wanted *jetstream.StreamConfig, live *jetstream.StreamInfo, _ time.Time) Effect {
	if surplus(wanted, live) > 0 {
		return DestroysData
	}
	return Safe
}

// surplus is how many messages, at least, are more than the wanted number for each
// subject; and 1 where it may be none.
func surplus(wanted *jetstream.StreamConfig, live *jetstream.StreamInfo) uint64 {
	if wanted.MaxMsgsPerSubject < 0 || live.State.Msgs == 0 {
		return 0
	}
	each, subjects := uint64(wanted.MaxMsgsPerSubject), max(live.State.NumSubjects, 1)
	if now := live.Config.MaxMsgsPerSubject; now > 0 && uint64(now) <= each {
		return 0
	}
	// The most that one subject can have is all but one of each other.
	if live.State.Msgs-min(subjects-1, live.State.Msgs) <= each {
		return 0
	}
	return max(1, live.State.Msgs-min(subjects*each, live.State.Msgs))
}

// Destroyed is how many messages a plan would destroy, and how many of them and
// of their bytes there are.
type Destroyed struct {
	Messages, OfMessages uint64
	// Bytes is in proportion: the server does not tell the size of a range.
	Bytes, OfBytes uint64
	// Kept: the server keeps them and refuses every new one.
	Kept bool
}

// Destroys counts what the plan would destroy. keepFrom is the sequence of the
// first message that the new age keeps, beyond the last when it keeps none; it
// counts only where the plan shortens the age.
func (p Plan) Destroys(keepFrom uint64) Destroyed {
	state := p.Live.State
	d := Destroyed{OfMessages: state.Msgs, OfBytes: state.Bytes}
	steps := p.With(DestroysData)
	for _, step := range steps {
		gone := uint64(0)
		switch step.Field {
		case FieldMaxAge:
			gone = min(keepFrom-min(state.FirstSeq, keepFrom), state.Msgs)
		case fieldMaxBytes:
			// In proportion, and at least one.
			gone = max(1, uint64(float64(state.Msgs)*float64(excess(&p.Wanted.Config, p.Live))/float64(state.Bytes)))
			d.Kept = p.Live.Config.Discard == jetstream.DiscardNew && len(steps) == 1
		case fieldMaxMsgs:
			gone = tooMany(&p.Wanted.Config, p.Live)
		default:
			gone = p.surplus
		}
		d.Messages = max(d.Messages, gone)
	}
	if state.Msgs > 0 {
		d.Bytes = uint64(float64(state.Bytes) * float64(d.Messages) / float64(state.Msgs))
	}
	return d
}

// String reads as "2 of 10 messages, about 400 of 2000 bytes".
func (d Destroyed) String() string {
	return fmt.Sprintf("%d of %d messages, about %d of %d bytes", d.Messages, d.OfMessages, d.Bytes, d.OfBytes)
}

// Would says what the plan would do.
func (d Destroyed) Would() string {
	if d.Kept {
		return "would leave no room for " + d.String() + ", so that every new event is refused"
	}
	return "would destroy " + d.String()
}

// Did says what the plan has done.
func (d Destroyed) Did() string {
	if d.Kept {
		return "left no room for " + d.String() + ", so that every new event is refused"
	}
	return "destroyed " + d.String()
}
