package jetstream

import "git.flowmade.one/flowmade-one/aether-operator/api/eventstore"

// KeyOf tells tests where a member listens.
func KeyOf(member eventstore.DurableSubscription) (key, id string) {
	d := member.(*durable)
	return d.key, d.id
}
