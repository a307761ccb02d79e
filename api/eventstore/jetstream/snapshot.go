package jetstream

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strconv"

	"github.com/nats-io/nats.go"
	"golang.org/x/sync/errgroup"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/internal/outcome"
	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/internal/versioning"
)

// SaveSnapshot stores the state of an actor. JetStream decides between two that
// are saved at once, as for events.
func (s *Store) SaveSnapshot(ctx context.Context, snapshot eventstore.Snapshot) error {
	if err := s.saveSnapshot(ctx, snapshot); err != nil {
		outcome.Failed(&s.opts, err)
		return fmt.Errorf("save snapshot at version %d of actor %.100q in stream %s: %w", snapshot.Version, snapshot.ActorID, s.config.SnapshotsStream, err)
	}
	s.opts.Metrics.SnapshotsSaved.Add(1)
	s.snapshotSaved.Store(true)
	return nil
}

func (s *Store) saveSnapshot(ctx context.Context, snapshot eventstore.Snapshot) error {
	if err := snapshot.Validate(); err != nil {
		return err
	}
	if snapshot.Timestamp.IsZero() {
		snapshot.Timestamp = s.opts.Now()
	}
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	var sent bool
	err := retry(ctx, func() error {
		err := s.silence(ctx, s.config.SnapshotsStream, s.trySnapshot(ctx, &snapshot))
		sent = sent || errors.Is(err, errNoAnswer)
		return err
	})
	return settle(err, sent)
}

// trySnapshot reads the newest snapshot and replaces it. After a try whose
// answer was lost it writes once more, which changes nothing: one of the same
// version replaces the other.
func (s *Store) trySnapshot(ctx context.Context, snapshot *eventstore.Snapshot) error {
	stored, err := s.storedSnapshot(ctx, snapshot.ActorID)
	if err != nil {
		return err
	}
	if err := versioning.AcceptSnapshot(snapshot, stored.newest, stored.latest); err != nil {
		return err
	}
	header := remembering(snapshotHeader(s.source(), rand.Text(), snapshot), snapshot.Version, stored.latest)
	return s.writeSnapshot(ctx, snapshot.ActorID, stored.sequence, header, snapshot.Data)
}

// writeSnapshot is putSnapshot for a caller, who is owed what was stored.
func (s *Store) writeSnapshot(ctx context.Context, actorID string, before uint64, header nats.Header, data []byte) error {
	sequence, err := s.putSnapshot(ctx, actorID, before, header, data)
	if err == nil {
		s.heads.savedSnapshot(actorID, sequence)
	}
	return err
}

// putSnapshot puts a message in the place of the one at a sequence, 0 for none.
func (s *Store) putSnapshot(ctx context.Context, actorID string, before uint64, header nats.Header, data []byte) (uint64, error) {
	header[nats.ExpectedStreamHdr] = []string{s.config.SnapshotsStream}
	header[nats.ExpectedLastSubjSeqHdr] = []string{strconv.FormatUint(before, 10)}
	ack, err := s.publish(ctx, &nats.Msg{Subject: SnapshotsSubject(s.config.EventsStream, actorID), Header: header, Data: data})
	if isConflict(err) {
		return 0, fmt.Errorf("%w: %w", errAgain, err)
	}
	return ack.Sequence, err
}

// storedSnapshot is what the leaders have of an actor where a snapshot is saved or
// deleted.
type storedSnapshot struct {
	// sequence is that of the last message of the snapshots' subject, 0 for none.
	sequence uint64
	// newest is the version of the newest snapshot, 0 for none that can be read.
	newest int64
	// latest is the actor's latest version, of an event or as its snapshots remember it.
	latest int64
	// deleted says that the last message stands for a snapshot that was deleted.
	deleted bool
}

func (s *Store) storedSnapshot(ctx context.Context, actorID string) (storedSnapshot, error) {
	done, err := s.reading(ctx)
	if err != nil {
		return storedSnapshot{}, err
	}
	defer done()
	var last, event *message
	asking, askCtx := errgroup.WithContext(ctx)
	asking.Go(func() (err error) {
		last, err = s.newestSnapshot(askCtx, actorID, true)
		return err
	})
	asking.Go(func() (err error) {
		event, err = s.last(askCtx, actorID, true)
		return err
	})
	if err := asking.Wait(); err != nil {
		return storedSnapshot{}, err
	}
	var stored storedSnapshot
	if last != nil {
		stored.sequence, stored.deleted, stored.latest = last.Sequence, isDeletedSnapshot(last), remembered(last)
		// What is malformed has no version to defend.
		if snapshot, err := decodeSnapshot(last); err == nil && !stored.deleted {
			stored.newest = snapshot.Version
		}
	}
	if event == nil {
		return stored, nil
	}
	now, err := s.headOf(ctx, actorID, event)
	stored.latest = max(stored.latest, now.version)
	return stored, err
}

// mostSnapshots is how many snapshots of an actor a store keeps at most.
const mostSnapshots = 64

// DeleteSnapshot deletes the snapshots of an actor. Nobody may erase messages, so
// that what takes their place says that they are deleted, as often as it takes to
// push out all that are older. It remembers the actor's latest version.
func (s *Store) DeleteSnapshot(ctx context.Context, actorID string, version int64) error {
	if err := s.deleteSnapshot(ctx, actorID, version); err != nil {
		outcome.Failed(&s.opts, err)
		return fmt.Errorf("delete snapshot of actor %.100q in stream %s: %w", actorID, s.config.SnapshotsStream, err)
	}
	s.snapshotSaved.Store(true)
	return nil
}

func (s *Store) deleteSnapshot(ctx context.Context, actorID string, version int64) error {
	if err := eventstore.ValidateActorID(actorID); err != nil {
		return err
	}
	if err := eventstore.ValidateSnapshotVersion(version); err != nil {
		return err
	}
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	var sent bool
	for written := range mostSnapshots {
		var done bool
		err := retry(ctx, func() (err error) {
			done, err = s.tryDelete(ctx, actorID, version, written > 0)
			sent = sent || errors.Is(err, errNoAnswer)
			return err
		})
		if err != nil || done {
			return settle(err, sent)
		}
	}
	return nil
}

// tryDelete puts one message more in the place of a snapshot, and says whether there
// was no need to. begun says that one was written already.
func (s *Store) tryDelete(ctx context.Context, actorID string, version int64, begun bool) (done bool, err error) {
	stored, err := s.storedSnapshot(ctx, actorID)
	if err != nil {
		return false, err
	}
	if stored.deleted {
		left, err := s.oldestSnapshot(ctx, actorID)
		if err != nil || left == nil || isDeletedSnapshot(left) {
			return true, err
		}
	} else {
		if begun || stored.sequence == 0 || stored.latest == 0 || version > 0 && stored.newest == 0 {
			// Somebody has saved another since, or there is none that can be read.
			return true, nil
		}
		if err := versioning.AcceptDeletion(actorID, version, stored.newest); err != nil {
			return false, err
		}
	}
	header := deletedSnapshotHeader(s.source(), rand.Text(), actorID, stored.latest, s.opts.Now())
	return false, s.writeSnapshot(ctx, actorID, stored.sequence, header, nil)
}

// oldestSnapshot is the oldest message of the snapshots' subject of an actor.
func (s *Store) oldestSnapshot(ctx context.Context, actorID string) (*message, error) {
	return s.leaderGet(ctx, s.config.SnapshotsStream, getRequest{Sequence: 1, NextBySubject: SnapshotsSubject(s.config.EventsStream, actorID)})
}

// GetLatestSnapshot answers the newest snapshot of an actor, from the leader.
func (s *Store) GetLatestSnapshot(ctx context.Context, actorID string) (eventstore.Snapshot, error) {
	if err := eventstore.ValidateActorID(actorID); err != nil {
		return eventstore.Snapshot{}, fmt.Errorf("read snapshot: %w", err)
	}
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	failed := func(err error) (eventstore.Snapshot, error) {
		return eventstore.Snapshot{}, fmt.Errorf("read snapshot of actor %.100q in stream %s: %w", actorID, s.config.SnapshotsStream, err)
	}
	newest, err := s.newestSnapshot(ctx, actorID, true)
	if err != nil {
		return failed(err)
	}
	if newest == nil || isDeletedSnapshot(newest) {
		return failed(eventstore.ErrNoSnapshot)
	}
	snapshot, err := decodeSnapshot(newest)
	if err != nil {
		s.opts.Metrics.ReplayErrors.Add(1)
		// As good as none: whoever asks replays the events instead.
		return failed(fmt.Errorf("%w that can be read: %w", eventstore.ErrNoSnapshot, newest.malformed(err)))
	}
	return snapshot, nil
}

func (s *Store) newestSnapshot(ctx context.Context, actorID string, fromLeader bool) (*message, error) {
	get := getRequest{LastBySubject: SnapshotsSubject(s.config.EventsStream, actorID)}
	if fromLeader {
		m, believed, err := s.leaderLast(ctx, s.config.SnapshotsStream, get.LastBySubject, s.heads.snapshot(actorID))
		if believed {
			s.heads.forgetSnapshot(actorID)
		}
		return m, err
	}
	return s.directGet(ctx, s.config.SnapshotsStream, get)
}

// rememberedVersion is the latest version of an actor that its snapshots remember, 0 for
// none. A replica may not know of one yet that was saved some milliseconds ago; where
// this Store may have saved it, the leader is asked.
func (s *Store) rememberedVersion(ctx context.Context, actorID string, fromLeader bool) (int64, error) {
	newest, err := s.newestSnapshot(ctx, actorID, fromLeader || s.snapshotSaved.Load())
	if newest == nil || err != nil {
		return 0, err
	}
	return remembered(newest), nil
}

// source is the CloudEvents source of everything in the store.
func (s *Store) source() string { return "/" + s.config.Namespace + "/" + s.config.Store }
