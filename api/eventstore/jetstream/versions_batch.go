package jetstream

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"
)

// A batch is a page of batchBytes, so that headers of thousands of names, which take 18 times
// their bytes when they are read, take 6 MiB. Of it, batchPart messages are kept at a time:
// then it is known whether there is time for more, also where each actor has a large snapshot.
const (
	batchBytes = 256 << 10
	batchPart  = 32
)

// batch looks at a page of messages, and says whether there may be more to look at.
func (p *versionsPass) batch(ctx context.Context) (more bool, err error) {
	s := p.store
	p.began = time.Now()
	done, err := s.reading(ctx)
	if err != nil {
		return false, err
	}
	defer done()
	messages, more, err := p.page(ctx)
	if err != nil {
		return false, err
	}
	due, left, err := p.split(messages)
	if err != nil {
		return false, err
	}
	looked, err := p.keepInParts(ctx, due)
	if err != nil && looked == 0 {
		return false, err
	}
	p.kept.Looked += looked
	if looked < len(due) {
		p.oldest = due[looked].Time
	}
	more = looked < len(due) || more && len(left) == 0
	return more, errors.Join(err, p.advance(ctx, due[:looked], left, more))
}

// page reads a page of messages up to one whose header cannot be read, which is one of its own.
func (p *versionsPass) page(ctx context.Context) (messages []*message, more bool, err error) {
	s := p.store
	ctx, cancel := s.timed(ctx)
	defer cancel()
	messages, more, err = s.page(ctx, s.config.EventsStream, ">", p.next(), batchBytes)
	if !errors.Is(err, errUnreadable) {
		return messages, more, err
	}
	if len(messages) > 0 {
		return messages, true, nil
	}
	m, err := s.leaderGet(ctx, s.config.EventsStream, p.following())
	if err != nil || m == nil {
		return nil, false, err
	}
	return []*message{m}, true, nil
}

// keepInParts keeps the versions of messages, and says how many it has looked at: what was
// done counts, also when the rest fails or there is no time for it.
func (p *versionsPass) keepInParts(ctx context.Context, due []*message) (looked int, err error) {
	for part := range slices.Chunk(due, batchPart) {
		if looked > 0 && p.over(0) {
			return looked, nil
		}
		err := p.keep(ctx, newestVersions(eventsPrefix(p.store.config.EventsStream), part))
		if errors.Is(err, errOver) {
			return looked, nil
		}
		if err != nil {
			return looked, err
		}
		looked += len(part)
	}
	return looked, nil
}

// actorVersion is a version that an actor has, with the sequence of its event, and when that
// was stored.
type actorVersion struct {
	ActorID  string    `json:"actorId"`
	Version  int64     `json:"version"`
	Sequence uint64    `json:"sequence"`
	Time     time.Time `json:"time"`
}

// newestVersions are the greatest versions of the actors in a page of messages whose
// subjects begin with a prefix. What is no event has none.
func newestVersions(prefix string, messages []*message) []actorVersion {
	var newest []actorVersion
	at := map[string]int{}
	for _, m := range messages {
		event, err := decodeEvent(m)
		if err != nil || !strings.HasPrefix(m.Subject, prefix) {
			continue
		}
		i, met := at[event.ActorID]
		if !met {
			i = len(newest)
			at[event.ActorID] = i
			newest = append(newest, actorVersion{ActorID: event.ActorID})
		}
		if event.Version > newest[i].Version {
			newest[i].Version, newest[i].Sequence, newest[i].Time = event.Version, m.Sequence, m.Time
		}
	}
	return newest
}

// outlived says whether the last message of an actor, nil for none, makes it needless to
// remember one of its versions: it is a later event, which has its own turn.
func (v actorVersion) outlived(last *message) bool {
	if last == nil || last.Sequence <= v.Sequence {
		return false
	}
	event, err := decodeEvent(last)
	return err == nil && event.Version >= v.Version
}

// keep has the versions remembered of those actors that have no later event. A replica
// that is behind has less than there is: then more is remembered than need be.
func (p *versionsPass) keep(ctx context.Context, actors []actorVersion) error {
	s := p.store
	events, err := s.lastOf(ctx, s.config.EventsStream, EventsSubject, actors)
	if err != nil {
		return err
	}
	var ending []actorVersion
	for i, actor := range actors {
		if !actor.outlived(events[i]) {
			ending = append(ending, actor)
		}
	}
	snapshots, err := s.lastOf(ctx, s.config.SnapshotsStream, SnapshotsSubject, ending)
	if err != nil {
		return err
	}
	return p.mark(ctx, ending, snapshots)
}

// lastOf gets the last message of each actor in a stream, without its data.
func (s *Store) lastOf(ctx context.Context, stream string, subject func(stream, actorID string) string, actors []actorVersion) ([]*message, error) {
	ctx, cancel := s.timed(ctx)
	defer cancel()
	requests := make([]getRequest, len(actors))
	for i, actor := range actors {
		requests[i] = getRequest{LastBySubject: subject(s.config.EventsStream, actor.ActorID)}
	}
	return s.getAny(ctx, stream, requests)
}
