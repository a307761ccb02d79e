package main

import (
	"context"
	"encoding/json"
	"fmt"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
)

// breakThings lets four writers save, each to actors of its own and one that
// they share, while servers and programs end under them.
func (d *demo) breakThings(ctx context.Context) error {
	const writers = 4
	before := len(d.app.acknowledged)
	saving, savingCtx := errgroup.WithContext(ctx)
	broken := make(chan struct{})
	for writer := range writers {
		saving.Go(func() error { return d.app.writeUntil(savingCtx, broken, writer) })
	}
	saving.Go(func() error {
		defer close(broken)
		return d.inject(savingCtx)
	})
	if err := saving.Wait(); err != nil {
		return err
	}
	checked, err := d.app.checkAcknowledged(ctx)
	if err != nil {
		return err
	}
	d.show("%d events acknowledged meanwhile; all %d are stored, once, in order", checked-before, checked)
	return nil
}

// writeUntil saves until done is closed.
func (a *application) writeUntil(ctx context.Context, done <-chan struct{}, writer int) error {
	for i := 0; ; i++ {
		select {
		case <-done:
			return nil
		default:
		}
		actorID := fmt.Sprintf("writer-%d", writer)
		if i%2 == 0 {
			actorID = "shared-1"
		}
		err := a.saveUntilAcknowledged(ctx, event{
			ID: fmt.Sprintf("w-%d-%d", writer, i), EventType: "Counted", ActorID: actorID,
			Data: json.RawMessage(fmt.Sprintf(`{"writer":%d,"count":%d}`, writer, i)),
		})
		if err != nil {
			return err
		}
		// Enough to keep every fault company, without filling the machine.
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// inject breaks one thing after the other, and waits after each until a save
// has passed.
func (d *demo) inject(ctx context.Context) error {
	for node := range d.system.nats.Size() {
		d.system.nats.StopNode(node)
		d.show("nats-server %d of %d stopped", node+1, d.system.nats.Size())
		if err := d.awaitSave(ctx, fmt.Sprintf("nats-%d", node)); err != nil {
			return err
		}
		if err := d.system.nats.StartNode(node); err != nil {
			return err
		}
		if err := d.system.nats.WaitCurrent(ctx); err != nil {
			return err
		}
	}
	d.pod.sidecar.signal(syscall.SIGKILL)
	d.show("sidecar killed; it is started again as a kubelet would")
	if err := d.awaitSave(ctx, "sidecar-killed"); err != nil {
		return err
	}
	d.pod.sidecar.signal(syscall.SIGTERM)
	d.show("sidecar told to end, and started again")
	if err := d.awaitSave(ctx, "sidecar-ended"); err != nil {
		return err
	}
	d.system.operator.stop()
	d.show("operator stopped")
	if err := d.awaitSave(ctx, "operator"); err != nil {
		return err
	}
	d.show("operator started")
	return d.system.operator.start()
}

func (d *demo) awaitSave(ctx context.Context, fault string) error {
	return d.app.saveUntilAcknowledged(ctx, event{ID: "after-" + fault, EventType: "Survived", ActorID: "fault-1", Data: json.RawMessage(`{}`)})
}
