package stream

import (
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
)

// The answers are those that nats-server 2.15 gave: the first for some
// milliseconds after three servers had found each other, which cannot be caused
// at will.
func TestNoSuitablePeers(t *testing.T) {
	t.Parallel()
	for description, handling := range map[string]Handling{
		"no suitable peers for placement, peer offline":         Retry,
		"no suitable peers for placement, tags not matched":     Stall,
		"no suitable peers for placement, insufficient storage": Stall,
	} {
		err := apiFault("create", &jetstream.APIError{Code: 400, ErrorCode: errNoSuitablePeers, Description: description})
		if fault, ok := AsFault(err); !ok || fault.Handling != handling || fault.Reason != v1alpha1.ReasonInsufficientPeers {
			t.Errorf("%s: got %v, want a fault with handling %d", description, err, handling)
		}
	}
}
