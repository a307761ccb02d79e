package jetstream

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strconv"

	"github.com/nats-io/nats.go"

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
	done, err := s.reading(ctx)
	if err != nil {
		return err
	}
	defer done()
	newest, err := s.newestSnapshot(ctx, snapshot.ActorID, true)
	if err != nil {
		return err
	}
	var sequence uint64
	if newest != nil {
		sequence = newest.Sequence
		// What is malformed has no version to defend.
		if stored, err := decodeSnapshot(newest); err == nil {
			if err := versioning.ValidateSnapshotVersion(snapshot, stored.Version); err != nil {
				return err
			}
		}
	}
	header := snapshotHeader(s.source(), rand.Text(), snapshot)
	header[nats.ExpectedStreamHdr] = []string{s.config.SnapshotsStream}
	header[nats.ExpectedLastSubjSeqHdr] = []string{strconv.FormatUint(sequence, 10)}
	ack, err := s.publish(ctx, &nats.Msg{Subject: SnapshotsSubject(s.config.EventsStream, snapshot.ActorID), Header: header, Data: snapshot.Data})
	if isConflict(err) {
		return fmt.Errorf("%w: %w", errAgain, err)
	}
	if err == nil {
		s.heads.savedSnapshot(snapshot.ActorID, ack.Sequence)
	}
	return err
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
	if newest == nil {
		return failed(eventstore.ErrNoSnapshot)
	}
	snapshot, err := decodeSnapshot(newest)
	if err != nil {
		s.opts.Metrics.ReplayErrors.Add(1)
		// As good as none: whoever asks replays the events instead.
		return failed(fmt.Errorf("%w that can be read: %w", eventstore.ErrNoSnapshot, &eventstore.ReplayError{Sequence: newest.Sequence, RawData: newest.Data, Err: err}))
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

// snapshotVersion is the version of the newest snapshot of an actor, 0 for none.
// A replica may not know of one yet that was saved some milliseconds ago; where
// this Store may have saved it, the leader is asked.
func (s *Store) snapshotVersion(ctx context.Context, actorID string, fromLeader bool) (int64, error) {
	newest, err := s.newestSnapshot(ctx, actorID, fromLeader || s.snapshotSaved.Load())
	if newest == nil || err != nil {
		return 0, err
	}
	snapshot, err := decodeSnapshot(newest)
	if err != nil {
		// Unreadable, it remembers nothing.
		return 0, nil
	}
	return snapshot.Version, nil
}

// source is the CloudEvents source of everything in the store.
func (s *Store) source() string { return "/" + s.config.Namespace + "/" + s.config.Store }
