package stream_test

import (
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/stream"
)

// Retain never becomes Delete by what a class says: the streams carry it, so that it holds
// also where the status does not say it any more, or never came to say it.
func TestRetainIsMarked(t *testing.T) {
	t.Parallel()
	byDefaultDelete := &v1alpha1.EventStoreClass{}
	byDefaultDelete.Spec.Defaults.DeletionPolicy = v1alpha1.DeletionPolicyDelete
	unset := func(s *v1alpha1.EventStore) { s.Spec.DeletionPolicy = "" }
	of := func(policy v1alpha1.DeletionPolicy) func(*v1alpha1.EventStore) {
		return func(s *v1alpha1.EventStore) { s.Spec.DeletionPolicy = policy }
	}
	recorded := func(policy v1alpha1.DeletionPolicy) func(*v1alpha1.EventStore) {
		return func(s *v1alpha1.EventStore) { s.Status.Effective = &v1alpha1.EffectiveSpec{DeletionPolicy: policy} }
	}
	marked := func(policy string, change ...func(*v1alpha1.EventStore)) *jetstream.StreamInfo {
		live := liveAs(desired(t, orders(change...))[0])
		if live.Config.Metadata[v1alpha1.MetadataDeletionPolicy] = policy; policy == "" {
			delete(live.Config.Metadata, v1alpha1.MetadataDeletionPolicy)
		}
		return live
	}
	earlier := func(s *v1alpha1.EventStore) { s.UID = "uid-0" }
	another := func(s *v1alpha1.EventStore) { s.UID, s.Name = "uid-2", "payments" }
	const retain, remove = v1alpha1.DeletionPolicyRetain, v1alpha1.DeletionPolicyDelete
	for name, c := range map[string]struct {
		store *v1alpha1.EventStore
		live  *jetstream.StreamInfo
		want  v1alpha1.DeletionPolicy
	}{
		"new":                                      {orders(unset), nil, remove},
		"marked, and no status":                    {orders(unset), marked("Retain"), retain},
		"marked, whatever the status says":         {orders(unset, recorded(remove)), marked("Retain"), retain},
		"marked to be deleted":                     {orders(unset), marked("Delete"), remove},
		"marked to be deleted, and retained since": {orders(unset, recorded(retain)), marked("Delete"), retain},
		"the mark was taken away, and the status":  {orders(unset), marked(""), retain},
		"the mark is no policy":                    {orders(unset), marked("Keep"), retain},
		"the mark alone was taken away":            {orders(unset, recorded(remove)), marked(""), remove},
		"of an earlier resource":                   {orders(unset), marked("Delete", earlier), retain},
		"of another":                               {orders(unset), marked("Delete", another), retain},
		"asked for":                                {orders(of(remove), recorded(retain)), marked("Retain"), remove},
	} {
		for role, live := range [][]*jetstream.StreamInfo{{c.live, nil}, {nil, c.live}} {
			wanted, err := stream.Desired(c.store, stream.Home{}, stream.DefaultsFor(byDefaultDelete, c.store, live))
			if err != nil {
				t.Fatal(err)
			}
			for _, w := range wanted {
				if got := w.Config.Metadata[v1alpha1.MetadataDeletionPolicy]; got != string(c.want) {
					t.Errorf("%s (%d): %s is marked %q, want %s", name, role, w.Config.Name, got, c.want)
				}
			}
		}
	}
}
