package jetstream

import (
	"context"
	"fmt"
	"strconv"

	"github.com/nats-io/nats.go"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
)

// headerAfter is the version that an actor had whose earlier events were all gone
// when the message was saved.
const headerAfter = "aether-after"

// replay turns messages of one actor into events and errors for a reader.
type replay struct {
	store   *Store
	actorID string
	// from and fromSequence are where the reader begins: above the version, and at the
	// sequence where that is not 0.
	from         int64
	fromSequence uint64
	yield        func(eventstore.Event, error) bool
	// first is the first message, and latest the version of the last event.
	first  *message
	latest int64
	// told says that the reader knows whether events are missing.
	told bool
	// held are errors that were met before an event above from: the reader has
	// asked for none of what an event at or below from comes after. size is that of
	// their messages.
	held []*eventstore.ReplayError
	size int
}

// add says whether the reader wants more.
func (r *replay) add(m *message) bool {
	if m.Sequence < r.fromSequence {
		return true
	}
	if r.first == nil {
		r.first = m
	}
	event, err := decodeEvent(m)
	if err == nil && event.Version <= r.latest {
		err = fmt.Errorf("version %d comes after version %d", event.Version, r.latest)
	}
	if err != nil {
		return r.hold(m.malformed(err))
	}
	before := r.latest
	r.latest = event.Version
	if event.Version <= r.from {
		r.held, r.size = nil, 0
		return true
	}
	if !r.tell(before, event.Version) || !r.flush() {
		return false
	}
	r.store.opts.Metrics.EventsRead.Add(1)
	return r.yield(event, nil)
}

// hold keeps an error until it is known whether the reader has asked for it, or there
// is too much of them.
func (r *replay) hold(err *eventstore.ReplayError) bool {
	r.held = append(r.held, err)
	r.size += len(err.RawData)
	// From the start, or above from, nothing can come that makes it moot.
	return r.from > 0 && r.latest <= r.from && r.fromSequence == 0 && r.size < r.store.config.ReadAheadBytes && len(r.held) < pageMessages || r.flush()
}

func (r *replay) flush() bool {
	held := r.held
	r.held, r.size = nil, 0
	for _, err := range held {
		r.store.opts.Metrics.ReplayErrors.Add(1)
		if !r.yield(eventstore.Event{}, err) {
			return false
		}
	}
	return true
}

// tell says once, before the first event, whether others that came before it and
// that the reader has asked for are gone.
func (r *replay) tell(before, version int64) bool {
	if r.told {
		return true
	}
	r.told = true
	missing := follower(r.first) >= max(r.fromSequence, 1)
	if r.fromSequence == 0 {
		missing = before == 0 && version > r.from+1 && (missing || continued(r.first) > r.from)
	}
	return !missing || r.yield(eventstore.Event{}, &eventstore.TruncatedError{ActorID: r.actorID, FirstVersion: version})
}

// nothing tells the reader of an actor without events whether it had some.
func (r *replay) nothing(ctx context.Context) error {
	version, err := r.store.rememberedVersion(ctx, r.actorID, false)
	if err == nil && (version > r.from || r.fromSequence > 0) {
		r.yield(eventstore.Event{}, &eventstore.TruncatedError{ActorID: r.actorID})
	}
	return err
}

// follower is the sequence of the message of the same actor that a message was stored
// after, 0 for none or one that is not known.
func follower(m *message) uint64 {
	for sequence := range indexOf(m).descending {
		return sequence
	}
	if len(m.Header[headerExpectedSubject]) > 0 || len(m.Header[headerStreamSource]) > 0 {
		return 0
	}
	// It is no number where another has written it, and then not known.
	expected, _ := strconv.ParseUint(m.Header.Get(nats.ExpectedLastSubjSeqHdr), 10, 64)
	return expected
}

// continued is the version that the actor of a message had before it without an
// event, 0 for none.
func continued(m *message) int64 {
	// It is no number where another has written it, and then not known.
	version, _ := strconv.ParseInt(m.Header.Get(headerAfter), 10, 64)
	return version
}
