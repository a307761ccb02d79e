package controller

import (
	"context"
	"strings"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/stream"
)

// checkLimits holds back what the class does not allow: a store that is new is not
// made, and one that exists stays as it is.
func (p *pass) checkLimits(context.Context) error {
	limits := p.class.Spec.Limits
	over, err := stream.OverLimits(stream.RecordedDeletionPolicy(p.before), p.asked, limits, p.live)
	if err != nil {
		p.holdBack(stream.Stalled(v1alpha1.ReasonInvalidSpec, "%w", err))
		return nil
	}
	if len(over) > 0 {
		p.holdBack(stream.Stalled(v1alpha1.ReasonLimitExceeded,
			"this EventStore asks for more than spec.limits of EventStoreClass %s allows: %s. Ask for less; nothing was made or changed", p.class.Name, strings.Join(over, "; ")))
		return nil
	}
	wanted, err := stream.Reserved(p.asked)
	if err != nil {
		p.holdBack(stream.Stalled(v1alpha1.ReasonInvalidSpec, "%w", err))
		return nil
	}
	if full := p.quotas.admit(p.class, p.store, wanted, p.stores.inNamespace(p.store.Namespace)); full != "" {
		p.holdBack(stream.Stalled(v1alpha1.ReasonLimitExceeded,
			"the EventStores of namespace %s reach spec.limits.perNamespace of EventStoreClass %s: %s. Ask for less, or delete one that is not needed; nothing was made or changed, and this one goes on by itself when there is room", p.store.Namespace, p.class.Name, full))
	}
	return nil
}
