package stream

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
	layout "git.flowmade.one/flowmade-one/aether-operator/api/eventstore/jetstream"
	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
)

// Each way in which versions are not kept has its reason, and what a person must do comes before
// what may pass.
func TestKeepFault(t *testing.T) {
	t.Parallel()
	store := &v1alpha1.EventStore{}
	store.Namespace, store.Name = "shop", "orders"
	contested := fmt.Errorf("actor order-1: %w", layout.ErrContested)
	for _, c := range []struct {
		err      error
		handling Handling
		reason   string
	}{
		{eventstore.ErrStoreFull, Stall, v1alpha1.ReasonSnapshotsFull},
		{eventstore.ErrPermissionDenied, Stall, v1alpha1.ReasonPermissionDenied},
		{errors.Join(contested, eventstore.ErrTooLarge), Stall, v1alpha1.ReasonRefusedByServer},
		{contested, Retry, v1alpha1.ReasonVersionsBehind},
		{errors.Join(contested, eventstore.ErrUnavailable), Retry, v1alpha1.ReasonJetStreamUnavailable},
		{eventstore.ErrUnavailable, Retry, v1alpha1.ReasonJetStreamUnavailable},
	} {
		fault, isFault := AsFault(keepFault(t.Context(), store, c.err))
		if !isFault || fault.Handling != c.handling || fault.Reason != c.reason || !strings.Contains(fault.Error(), c.err.Error()) {
			t.Errorf("%v is %+v, want %s", c.err, fault, c.reason)
		}
	}
	if err := keepFault(t.Context(), store, nil); err != nil {
		t.Errorf("nothing is %v", err)
	}
}
