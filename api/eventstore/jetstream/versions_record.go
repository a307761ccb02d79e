package jetstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
)

// How the latest versions of actors are kept whose events expire after an age. Each event
// is looked at once it has come into a window before it expires.
const (
	// maxKeepWindow is how long the window is at most: for so long nobody need be there
	// who keeps.
	maxKeepWindow = 30 * 24 * time.Hour
	// minKeepPause and maxKeepPause are the bounds of the time between two passes.
	minKeepPause, maxKeepPause = 250 * time.Millisecond, 5 * time.Minute
)

// KeepWindow is how long before they expire events are looked at: half of their age, at
// most 30 days.
func KeepWindow(age time.Duration) time.Duration { return min(age/2, maxKeepWindow) }

// keepPause is the least time between two passes.
func keepPause(age time.Duration) time.Duration {
	return min(max(age/16, minKeepPause), maxKeepPause)
}

// keepIdle is the most time between two passes, also while nothing expires for long.
func keepIdle(age time.Duration) time.Duration { return max(keepPause(age), KeepWindow(age)/64) }

// versionsRecord says how far the latest versions of a stream's actors are kept. All times
// are those of the servers.
type versionsRecord struct {
	// StreamCreated is when the stream of events was made: in another one of its name
	// other events have the same sequences.
	StreamCreated time.Time `json:"streamCreated"`
	// LastSequence is the last message that was looked at, 0 for none, and LastTime when it
	// was stored: after a stream went back another message may have its sequence.
	LastSequence uint64    `json:"lastSequence"`
	LastTime     time.Time `json:"lastTime"`
	// Due is when there is something to do again, with events that expire after MaxAge;
	// while a pass is under way, when it counts as given up.
	Due    time.Time     `json:"due"`
	MaxAge time.Duration `json:"maxAge"`
	// Left are actors up to LastSequence whose versions could not be stored.
	Left []actorVersion `json:"left,omitempty"`
}

// isOf says whether the record is about a stream as it is, with messages from first to
// last; there is its message at LastSequence, nil for none. If not, what nobody has looked
// at may be before that place: the stream went back, or a copy of it was restored, and
// others were stored since.
func (r versionsRecord) isOf(first, last uint64, there *message) bool {
	switch {
	case r.LastSequence == 0:
		return true
	case r.LastSequence > last:
		return false
	case r.LastSequence < first:
		// Nothing is left up to that place.
		return true
	}
	// One that somebody has erased shows nothing.
	return there != nil && there.Time.Equal(r.LastTime)
}

// isDue says whether somebody should keep now, in a stream whose events expire after an
// age. What was found for a shorter age is due no later than for a longer one.
func (r versionsRecord) isDue(now time.Time, age time.Duration) bool {
	return r.MaxAge == 0 || r.MaxAge > age || !now.Before(r.Due)
}

// nextDue is when there is something to do again, at a time when all was done; first is
// when the first event that is left comes into its window.
func nextDue(now, first time.Time, age time.Duration) time.Time {
	earliest, latest := now.Add(keepPause(age)), now.Add(keepIdle(age))
	switch {
	case first.Before(earliest):
		return earliest
	case first.After(latest):
		return latest
	}
	return first
}

// versionsSubject is where that record is, in the snapshots stream. No actor has this
// subject, since "%ve" is not how EncodeToken encodes anything.
func versionsSubject(stream string) string { return stream + ".snapshots.%versions.kept" }

// readVersions reads the record about a stream of events that was made at a time, and
// answers its sequence, 0 for none. One that cannot be read, or is about another stream,
// is an empty one.
func (s *Store) readVersions(ctx context.Context, created time.Time) (versionsRecord, uint64, error) {
	empty := versionsRecord{StreamCreated: created}
	ctx, cancel := s.timed(ctx)
	defer cancel()
	m, err := s.leaderGet(ctx, s.config.SnapshotsStream, getRequest{LastBySubject: versionsSubject(s.config.EventsStream)})
	if err != nil || m == nil {
		return empty, 0, err
	}
	var record versionsRecord
	if json.Unmarshal(m.Data, &record) != nil || !record.StreamCreated.Equal(created) {
		record = empty
	}
	return record, m.Sequence, nil
}

// writeVersions writes the record in the place of the one of a sequence. errReplaced says
// that another was first.
func (s *Store) writeVersions(ctx context.Context, before uint64, record versionsRecord) (uint64, error) {
	data, err := json.Marshal(record)
	if err != nil {
		return 0, fmt.Errorf("encode how far versions are kept: %w", err)
	}
	ctx, cancel := s.timed(ctx)
	defer cancel()
	written, err := s.replace(ctx, versionsSubject(s.config.EventsStream), before, data)
	if err != nil {
		return 0, fmt.Errorf("write in stream %s how far versions are kept: %w", s.config.SnapshotsStream, err)
	}
	return written, nil
}

func (p *versionsPass) read(ctx context.Context) (err error) {
	before := p.record
	if p.record, p.sequence, err = p.store.readVersions(ctx, p.info.Created); err != nil {
		return err
	}
	if before.LastSequence > p.record.LastSequence {
		// What was looked at was for any age.
		p.record.LastSequence, p.record.LastTime = before.LastSequence, before.LastTime
	}
	for _, left := range before.Left {
		if !p.record.leave(left) {
			return fmt.Errorf("%w: two keepers have left out more than %d actors", eventstore.ErrUnavailable, mostLeft)
		}
	}
	return nil
}

// recognise drops a record that is not about the stream as it is: then all that it holds
// is looked at again. The message on record is asked for when something is due.
func (p *versionsPass) recognise(ctx context.Context) (err error) {
	first, last := p.info.State.FirstSequence, p.info.State.LastSequence
	var there *message
	if recorded := p.record.LastSequence; recorded > 0 && first <= recorded && recorded <= last {
		if !p.wanted() {
			return nil
		}
		bounded, cancel := p.store.timed(ctx)
		defer cancel()
		if there, err = p.store.leaderGet(bounded, p.store.config.EventsStream, getRequest{Sequence: recorded}); err != nil {
			return err
		}
	}
	if !p.record.isOf(first, last, there) {
		p.record = versionsRecord{StreamCreated: p.info.Created, Left: p.record.Left}
	}
	return nil
}

// recordTries is how often a pass that is forced writes the record while others do: some 250 ms
// in all.
const recordTries = 9

// write writes the record. Who is forced to goes on where another was first.
func (p *versionsPass) write(ctx context.Context) error {
	ours := p.record
	for try := 1; ; try++ {
		written, err := p.store.writeVersions(ctx, p.sequence, p.record)
		if err == nil {
			p.sequence = written
			return nil
		}
		if !errors.Is(err, errReplaced) || !p.forced() {
			return err
		}
		if try == recordTries {
			return fmt.Errorf("%w: others write it all the time: %v", eventstore.ErrUnavailable, err)
		}
		if err := pause(ctx, waitAfter(err, try)); err != nil {
			return err
		}
		if err := p.read(ctx); err != nil {
			return err
		}
		p.record.Due, p.record.MaxAge = ours.Due, ours.MaxAge
	}
}
