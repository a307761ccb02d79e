package controller

import (
	"context"
	"errors"
	"fmt"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/stream"
)

// checkOwnership goes on only when both streams are ours, or free and ours to make
// or to take.
func (p *pass) checkOwnership(ctx context.Context) error {
	whose := p.ownerships()
	err := p.checkOwners(ctx, whose)
	p.noteOwnership(err)
	return err
}

func (p *pass) checkOwners(ctx context.Context, whose []stream.Ownership) error {
	if err := p.checkEventNamespace(whose); err != nil {
		return err
	}
	taken := map[types.UID]bool{}
	for i, live := range p.live {
		switch whose[i] {
		case stream.Nobodys:
			if err := p.checkAdoption(live); err != nil {
				return err
			}
			p.adopting[i] = true
			p.tellTaken(p.wanted[i].Role, "StreamAdopted", "AdoptStream", "Stream %s, which had no owner, is adopted with its %d messages", live.Config.Name, live.State.Msgs)
		case stream.Anothers, stream.OursBefore, stream.OursElsewhere:
			owner, _ := stream.RecordedOwner(live.Config.Metadata)
			if !taken[owner.UID] {
				// The same for both streams, nearly always, and the answer takes a while.
				if err := p.checkTakeBack(ctx, whose[i], owner, live.Config.Name); err != nil {
					return err
				}
				taken[owner.UID] = true
			}
			p.tellTaken(p.wanted[i].Role, "StreamTakenBack", "TakeStreamBack", "Stream %s of the earlier EventStore %s is taken back with its %d messages", live.Config.Name, owner, live.State.Msgs)
		case stream.Absent, stream.Ours:
		}
	}
	if !slices.Contains(whose, stream.Absent) {
		return nil
	}
	return p.run(ctx, p.checkEldest, p.checkElsewhere)
}

// ownerships are whose the streams are, in the order of wanted.
func (p *pass) ownerships() []stream.Ownership {
	whose := make([]stream.Ownership, len(p.wanted))
	for i, wanted := range p.wanted {
		if p.lost[i] {
			// A stream of another that is there in its place is not ours for that, nor is one of
			// an earlier resource of this name, which may live in a copy of this cluster.
			whose[i] = stream.OwnershipOf(p.self(), p.live[i], nil)
			if whose[i] == stream.Absent || whose[i] == stream.Nobodys {
				whose[i] = stream.Ours
			}
			continue
		}
		whose[i] = stream.OwnershipOf(p.self(), p.live[i], p.seen(wanted.Role))
	}
	return whose
}

func (p *pass) self() stream.Owner { return stream.OwnerOf(p.store, p.home) }

// checkEventNamespace stops a store that reaches for the streams of another
// namespace and has none of them yet. What it has it keeps.
func (p *pass) checkEventNamespace(whose []stream.Ownership) error {
	if ownsName(p.store) || p.class.Spec.Tenancy.EventNamespaces == v1alpha1.EventNamespacesAny || slices.Contains(whose, stream.Ours) {
		return nil
	}
	return stream.Stalled(v1alpha1.ReasonTenancyForbidden,
		"spec.namespace is %s, and EventStoreClass %s allows a store only the event namespace of its own namespace, %s: delete this EventStore and apply it again without spec.namespace; or let the platform set spec.tenancy.eventNamespaces of the class to Any; nothing was made",
		p.store.EventNamespace(), p.class.Name, p.store.Namespace)
}

// ownsName says whether the names of a store's streams are of its own namespace.
func ownsName(store *v1alpha1.EventStore) bool { return store.EventNamespace() == store.Namespace }

// checkAdoption goes on only where the class and the store let it take over a stream
// that names no owner.
func (p *pass) checkAdoption(live *liveStream) error {
	name := live.Config.Name
	allowed := p.class.Spec.Tenancy.Adoption == v1alpha1.AdoptionAllowed
	switch {
	case p.store.Spec.AdoptionPolicy == v1alpha1.AdoptionAdopt && allowed:
		return nil
	case p.store.Spec.AdoptionPolicy == v1alpha1.AdoptionAdopt:
		return stream.Stalled(v1alpha1.ReasonTenancyForbidden,
			"stream %s exists and names no EventStore as its owner, and EventStoreClass %s forbids to adopt such streams, so it is not touched: give this EventStore another name; or let the platform set spec.tenancy.adoption of the class to Allowed", name, p.class.Name)
	case allowed:
		return stream.Stalled(v1alpha1.ReasonNotOwned,
			"stream %s exists and names no EventStore as its owner, so it is not touched: set spec.adoptionPolicy to Adopt to take it over with its %d messages, or rename this EventStore", name, live.State.Msgs)
	default:
		return stream.Stalled(v1alpha1.ReasonNotOwned,
			"stream %s exists and names no EventStore as its owner, so it is not touched: give this EventStore another name", name)
	}
}

func (p *pass) notGivenBack(owner stream.Owner, name string) error {
	return stream.Stalled(v1alpha1.ReasonNotGivenBack,
		"stream %s belongs to EventStore %s with the uid %s of another namespace of that name or of another cluster (its namespace has the uid %q and its cluster %q; here they are %s and %s), and is not touched: give this EventStore another name; or, if it is the same store, let the platform add {namespace: %s, name: %s} to spec.tenancy.giveBack of EventStoreClass %s",
		name, owner, owner.UID, owner.Home.Namespace, owner.Home.Cluster, p.home.Namespace, p.home.Cluster, p.store.Namespace, p.store.Name, p.class.Name)
}

// confirmSelf reads past the cache before a stream gets another owner: an EventStore
// or a namespace of an earlier time may still be there.
func (p *pass) confirmSelf(ctx context.Context) error {
	current := &v1alpha1.EventStore{}
	key := client.ObjectKeyFromObject(p.store)
	if err := p.uncached.Get(ctx, key, current); err != nil {
		return fmt.Errorf("read EventStore %s: %w", key, err)
	}
	home, err := p.homes.now(ctx, p.store.Namespace)
	if err != nil {
		return err
	}
	if current.UID != p.store.UID || home != p.home {
		return apierrors.NewConflict(v1alpha1.GroupVersion.WithResource("eventstores").GroupResource(), p.store.Name, errors.New("the cache is behind"))
	}
	return nil
}

// checkSchema leaves what a newer operator made alone.
func (p *pass) checkSchema(context.Context) error {
	for i, live := range p.live {
		if live == nil || p.lost[i] {
			continue
		}
		if recorded := live.Config.Metadata[v1alpha1.MetadataSchema]; stream.NewerSchema(recorded) {
			return stream.Stalled(v1alpha1.ReasonNewerSchema,
				"stream %s was made by a newer operator: it has schema %q, and this operator knows %s: upgrade the operator", live.Config.Name, recorded, stream.Schema)
		}
	}
	return nil
}

// tellTaken tells of a stream that gets a new owner, once it has.
func (p *pass) tellTaken(role v1alpha1.StreamRole, reason, action, format string, args ...any) {
	if p.taken == nil {
		p.taken = map[v1alpha1.StreamRole]told{}
	}
	p.taken[role] = told{normal, string(role) + reason, action, fmt.Sprintf(format, args...)}
}

// checkEldest lets only the oldest of the stores that name a stream create it, or the
// one that had it, which may restore it. One that the class does not let name it does
// not count.
func (p *pass) checkEldest(ctx context.Context) error {
	rivals := slices.DeleteFunc(p.stores.ofStream(p.store.EventsStreamName()), func(s *v1alpha1.EventStore) bool {
		class := classInUse(s)
		return class != "" && class != p.class.Name ||
			!ownsName(s) && p.class.Spec.Tenancy.EventNamespaces != v1alpha1.EventNamespacesAny && !stream.WasMade(s)
	})
	if had := slices.DeleteFunc(slices.Clone(rivals), func(s *v1alpha1.EventStore) bool { return !stream.WasMade(s) }); stream.Eldest(had) != nil {
		rivals = had
	}
	eldest := stream.Eldest(rivals)
	if eldest == nil || eldest.UID == p.store.UID {
		return nil
	}
	return p.conflict(stream.OwnerOf(eldest, stream.Home{Cluster: p.home.Cluster}), stream.Exists, "the name "+p.store.EventsStreamName()+" of the stream is taken by")
}

// conflict tells whose a stream is; standing is what is known of that EventStore, here or
// in another cluster.
func (p *pass) conflict(owner stream.Owner, standing stream.Standing, what string) error {
	state, wayOut := "", "give this EventStore another name or spec.namespace"
	switch {
	case standing == stream.Gone:
		state = " (which does not exist any more; applied again it takes its streams back)"
		wayOut += fmt.Sprintf("; or let the platform add {namespace: %s, name: %s} to spec.tenancy.giveBack of EventStoreClass %s", p.store.Namespace, p.store.Name, p.class.Name)
	case owner.Home.Cluster != p.home.Cluster, owner.String() == p.self().String():
		state = " with the uid " + string(owner.UID) + " of " + p.clusterText(owner)
		if standing == stream.Exists || standing == stream.Ending {
			state += ", where it exists"
		}
	}
	return stream.Stalled(v1alpha1.ReasonConflict, "%s EventStore %s%s, and is not touched: %s", what, owner, state, wayOut)
}

func (p *pass) clusterText(owner stream.Owner) string {
	switch owner.Home.Cluster {
	case "":
		return "a cluster that the stream does not name"
	case p.home.Cluster:
		return fmt.Sprintf("a cluster with the uid of this one (%s), of which one was made of a backup of the other", owner.Home.Cluster)
	}
	return fmt.Sprintf("another cluster (%s)", owner.Home.Cluster)
}
