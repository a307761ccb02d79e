package sidecar

import (
	"context"
	"fmt"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/internal/outcome"
	eventstorev1 "git.flowmade.one/flowmade-one/aether-operator/api/eventstore/v1"
)

// SaveSnapshot stores the state of an actor.
func (s *Store) SaveSnapshot(ctx context.Context, snapshot eventstore.Snapshot) error {
	if err := s.saveSnapshot(ctx, snapshot); err != nil {
		outcome.Failed(&s.opts, err)
		return fmt.Errorf("save snapshot through the sidecar: %w", err)
	}
	s.opts.Metrics.SnapshotsSaved.Add(1)
	return nil
}

func (s *Store) saveSnapshot(ctx context.Context, snapshot eventstore.Snapshot) error {
	if err := notSent(ctx); err != nil {
		return err
	}
	if err := snapshot.Validate(); err != nil {
		return err
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
	_, err := s.client.SaveSnapshot(ctx, &eventstorev1.SaveSnapshotRequest{Store: s.name, Snapshot: eventstorev1.FromSnapshot(&snapshot)})
	if err != nil {
		return saveError(ctx, err)
	}
	return nil
}

// GetLatestSnapshot answers the newest snapshot of an actor.
func (s *Store) GetLatestSnapshot(ctx context.Context, actorID string) (eventstore.Snapshot, error) {
	if err := readable(ctx, actorID); err != nil {
		return eventstore.Snapshot{}, fmt.Errorf("read snapshot through the sidecar: %w", err)
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
	response, err := s.client.GetLatestSnapshot(ctx, &eventstorev1.GetLatestSnapshotRequest{Store: s.name, ActorId: actorID})
	if err != nil {
		return eventstore.Snapshot{}, fmt.Errorf("read snapshot of actor %.100q through the sidecar: %w", actorID, readError(ctx, err))
	}
	return response.GetSnapshot().ToSnapshot()
}

// DeleteSnapshot deletes the snapshots of an actor.
func (s *Store) DeleteSnapshot(ctx context.Context, actorID string, version int64) error {
	if err := s.deleteSnapshot(ctx, actorID, version); err != nil {
		outcome.Failed(&s.opts, err)
		return fmt.Errorf("delete snapshot of actor %.100q through the sidecar: %w", actorID, err)
	}
	return nil
}

func (s *Store) deleteSnapshot(ctx context.Context, actorID string, version int64) error {
	if err := readable(ctx, actorID); err != nil {
		return err
	}
	if err := eventstore.ValidateSnapshotVersion(version); err != nil {
		return err
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
	_, err := s.client.DeleteSnapshot(ctx, &eventstorev1.DeleteSnapshotRequest{Store: s.name, ActorId: actorID, Version: version})
	if err != nil {
		return saveError(ctx, err)
	}
	return nil
}
