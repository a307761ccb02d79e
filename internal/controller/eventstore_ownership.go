package controller

import (
	"context"
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/types"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/stream"
)

// checkOwnership goes on only when both streams are ours or free.
func (p *pass) checkOwnership(ctx context.Context) error {
	self := stream.OwnerOf(p.store)
	free := false
	var gone types.UID
	for i, wanted := range p.wanted {
		if p.lost[i] {
			continue
		}
		name := wanted.Config.Name
		switch stream.OwnershipOf(self, p.live[i], p.seen(wanted.Role)) {
		case stream.Absent:
			free = true
		case stream.Anothers:
			owner, _ := stream.RecordedOwner(p.live[i].Config.Metadata)
			return p.conflict(ctx, owner, "stream "+name+" belongs to")
		case stream.Nobodys:
			if p.store.Spec.AdoptionPolicy != v1alpha1.AdoptionAdopt {
				return stream.Stalled(v1alpha1.ReasonNotOwned,
					"stream %s exists and names no EventStore as its owner, so it is not touched: set spec.adoptionPolicy to Adopt to take it over with its %d messages, or rename this EventStore", name, p.live[i].State.Msgs)
			}
			p.adopting[i] = true
			p.tellTaken(wanted.Role, "StreamAdopted", "AdoptStream", "Stream %s, which had no owner, is adopted with its %d messages", name, p.live[i].State.Msgs)
		case stream.OursBefore:
			owner, _ := stream.RecordedOwner(p.live[i].Config.Metadata)
			if owner.UID != gone {
				// The same for both streams, nearly always, and the answer takes a while.
				if err := p.checkGone(ctx, owner, name); err != nil {
					return err
				}
				gone = owner.UID
			}
			p.tellTaken(wanted.Role, "StreamTakenBack", "TakeStreamBack", "Stream %s of the earlier EventStore of this name is taken back with its %d messages", name, p.live[i].State.Msgs)
		case stream.Ours:
		}
	}
	if free {
		return p.checkEldest(ctx)
	}
	return nil
}

// checkGone goes on only when the EventStore of our namespace and name that a
// stream names is gone: it may live in another cluster, whose operator answers.
func (p *pass) checkGone(ctx context.Context, owner stream.Owner, name string) error {
	exists, err := p.conn.Exists(ctx, owner.UID)
	if err != nil {
		return p.lostConnection(err)
	}
	if !exists {
		return nil
	}
	return stream.Stalled(v1alpha1.ReasonConflict,
		"stream %s belongs to EventStore %s with the uid %s of another cluster, whose operator is at work, and is not touched: delete that one with deletionPolicy Retain to move the stream here, or give this EventStore another name or spec.namespace",
		name, owner, owner.UID)
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
	p.taken = append(p.taken, told{normal, string(role) + reason, action, fmt.Sprintf(format, args...)})
}

// checkEldest lets only the oldest of the stores that name a stream create it.
func (p *pass) checkEldest(ctx context.Context) error {
	rivals := slices.DeleteFunc(p.stores.ofStream(p.store.EventsStreamName()), func(s *v1alpha1.EventStore) bool {
		class := classInUse(s)
		return class != "" && class != p.class.Name
	})
	eldest := stream.Eldest(rivals)
	if eldest == nil || eldest.UID == p.store.UID {
		return nil
	}
	return p.conflict(ctx, stream.OwnerOf(eldest), "the name "+p.store.EventsStreamName()+" of the stream is taken by")
}

func (p *pass) conflict(ctx context.Context, owner stream.Owner, what string) error {
	state := ""
	if !p.stores.exists(owner.UID) {
		elsewhere, err := p.conn.Exists(ctx, owner.UID)
		switch {
		case err != nil:
			return p.lostConnection(err)
		case elsewhere:
			state = " of another cluster"
		default:
			state = " (which does not exist any more; applied again it takes its streams back)"
		}
	}
	return stream.Stalled(v1alpha1.ReasonConflict,
		"%s EventStore %s%s, and is not touched: give this EventStore another name or spec.namespace", what, owner, state)
}
