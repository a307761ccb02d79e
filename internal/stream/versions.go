package stream

import (
	"context"
	"errors"
	"fmt"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
	layout "git.flowmade.one/flowmade-one/aether-operator/api/eventstore/jetstream"
	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
)

// KeepVersions has an EventStore remember the latest versions of actors whose events
// expire, as KeepVersions of the engine does. Answered says whether the servers answer anything.
func (c *Conn) KeepVersions(ctx context.Context, store *v1alpha1.EventStore, opts layout.KeepOptions) (layout.KeptVersions, error) {
	engine, err := layout.New(c.nc, layout.Config{
		Namespace: store.EventNamespace(), Store: store.Name, EventsStream: store.EventsStreamName(), SnapshotsStream: store.SnapshotsStreamName(),
		Domain: c.domain, Heads: 1, ReadAheadBytes: layout.MinReadAheadBytes, Timeout: requestTimeout,
	})
	if err != nil {
		// The API server has checked the names: only a mistake in the code can fail here.
		return layout.KeptVersions{}, Stalled(v1alpha1.ReasonInvalidSpec, "keep the latest versions of actors: %w", err)
	}
	// It has no subscriptions that could fail to close.
	defer func() { _ = engine.Close() }()
	kept, err := engine.KeepVersions(ctx, opts)
	if errors.Is(err, eventstore.ErrUnavailable) && !kept.Answered {
		kept.Answered = c.answersAnything(ctx)
	}
	return kept, keepFault(ctx, store, err)
}

// answersAnything says whether JetStream answers what is about no stream, also where a context has no time
// left for that: what is asked of one may wait for those who write very much into it.
func (c *Conn) answersAnything(ctx context.Context) bool {
	if errors.Is(ctx.Err(), context.Canceled) {
		return false
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), pingTimeout)
	defer cancel()
	_, err := c.Account(ctx)
	return err == nil
}

func keepFault(ctx context.Context, store *v1alpha1.EventStore, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(ctx.Err(), context.Canceled):
		return fmt.Errorf("%w: %w", context.Cause(ctx), err)
	case errors.Is(err, eventstore.ErrStoreFull):
		return Stalled(v1alpha1.ReasonSnapshotsFull,
			"%w: stream %s remembers the latest versions of actors whose events expire, and takes no more: set spec.snapshots.maxBytes higher, raise the limits of JetStream of the account, or make room on the disks of the servers", err, store.SnapshotsStreamName())
	case errors.Is(err, eventstore.ErrPermissionDenied):
		return Stalled(v1alpha1.ReasonPermissionDenied,
			"%w: give the NATS user of the operator the permissions of section Credentials in the documentation of EventStoreClass (docs/eventstoreclass.md)", err)
	case errors.Is(err, eventstore.ErrTooLarge):
		return Stalled(v1alpha1.ReasonRefusedByServer,
			"%w: the snapshot of the actor leaves no room for the version beside it: save a smaller one, or delete it", err)
	case errors.Is(err, layout.ErrContested) && !errors.Is(err, eventstore.ErrUnavailable):
		return Retrying(v1alpha1.ReasonVersionsBehind,
			"%w: versions of other actors are stored, and theirs once that ends: find what writes into stream %s without an end", err, store.SnapshotsStreamName())
	}
	return Retrying(v1alpha1.ReasonJetStreamUnavailable, "%w: the operator tries again by itself", err)
}
