package controller

import (
	"context"
	"errors"

	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/stream"
)

// asking ends a pass that has asked other operators, or waits for its turn to: no worker
// waits for their answers. Nothing is written, so that what the status says stands until
// another pass has them.
type asking struct{ stream.Pending }

func (asking) Error() string { return "the operators of other clusters are asked" }

func (p *pass) asker() stream.Asker {
	return stream.Asker{UID: p.store.UID, Namespace: p.store.Namespace}
}

// awaitTurn ends the pass at once when too many ask other operators already: thousands of
// stores that wait to ask hold up nobody.
func (p *pass) awaitTurn(context.Context) error {
	if wait := p.conn.Turn(p.asker()); wait.For > 0 {
		return asking{wait}
	}
	return nil
}

// hear gives what the operators of all clusters say of EventStores, once they had the
// time to.
func (p *pass) hear(ctx context.Context, owners ...stream.Owner) ([]stream.Standings, error) {
	heard := make([]stream.Standings, len(owners))
	var longest stream.Pending
	for i, owner := range owners {
		standings, wait, err := p.conn.Inquire(ctx, p.asker(), owner)
		if err != nil {
			return nil, p.lostConnection(err)
		}
		if heard[i] = standings; wait.For > longest.For {
			longest = wait
		}
	}
	if longest.For > 0 {
		return nil, asking{longest}
	}
	return heard, nil
}

// forgetAnswers has all asked anew by the next pass, once this one went by what was said
// or did not come to it, and gives the turn to the next.
func (p *pass) forgetAnswers() {
	if p.conn != nil {
		p.conn.ForgetAnswers(p.asker())
	}
}

// Priorities of the queue. Answers count for some seconds, so a pass that comes back for
// them does not wait behind thousands of others. It is one of few, as few ask at the same
// time.
const ordinaryPriority, answersPriority = 0, 1

// prioritised says how the store that is queued again comes back: with the priority of this
// pass if nothing is said, so ahead of others only as long as there are answers to come for.
func (p *pass) prioritised(result ctrl.Result, err error) ctrl.Result {
	waits, isAsking := errors.AsType[asking](err)
	switch {
	case isAsking && waits.Asked, p.isAhead && outdated(err):
		p.ahead.Store(client.ObjectKeyFromObject(p.store), true)
		result.Priority = new(answersPriority)
	case p.isAhead:
		result.Priority = new(ordinaryPriority)
	}
	return result
}

// checkTakeBack goes on only when a stream that names another EventStore is given
// to this one: by an equal identity, or by the word of the platform. Either way the
// other must not be known to exist, here or in any cluster.
func (p *pass) checkTakeBack(ctx context.Context, whose stream.Ownership, owner stream.Owner, name string) error {
	given := p.isGiven()
	byName := whose == stream.OursElsewhere && p.class.Spec.Tenancy.TakeBack == v1alpha1.TakeBackByName
	here, err := p.homes.standing(ctx, p.stores, owner)
	switch {
	case err != nil:
		return err
	case whose == stream.OursElsewhere && !given && !byName:
		return p.notGivenBack(owner, name)
	case whose == stream.Anothers && !given, here == stream.Exists, here == stream.Ending:
		return p.conflict(owner, here, "stream "+name+" belongs to")
	}
	heard, err := p.hear(ctx, owner, p.self())
	if err != nil {
		return err
	}
	theirs, ours := heard[0], heard[1]
	switch {
	case theirs.Has(stream.Exists, stream.Ending):
		return p.conflict(owner, stream.Exists, "stream "+name+" belongs to")
	case theirs.Has(stream.Untold), ours.Has(stream.Untold):
		return p.notTold(stream.Retrying, owner, name, "an operator that is there does not say")
	case ours.Has(stream.Gone) && !given:
		return p.contradicted(name)
	case !theirs.Has(stream.Gone) && !given && whose != stream.OursBefore:
		return p.notTold(stream.Stalled, owner, name, "no operator says")
	}
	return p.confirmSelf(ctx)
}

// isGiven says whether the platform gives this store the streams of its name.
func (p *pass) isGiven() bool {
	for _, given := range p.class.Spec.Tenancy.GiveBack {
		if given == (v1alpha1.StoreReference{Namespace: p.store.Namespace, Name: p.store.Name}) {
			return true
		}
	}
	return false
}

// notTold: an operator that is held up may say it the next time, and one that does not
// run waits for a person.
func (p *pass) notTold(fault func(reason, format string, args ...any) *stream.Fault, owner stream.Owner, name, who string) error {
	return fault(v1alpha1.ReasonNotGivenBack,
		"stream %s belongs to EventStore %s with the uid %s of %s, of which %s whether it still exists, so it counts as there and nothing is touched: let the operator of that cluster run, with the permissions that the documentation of EventStoreClass lists; or, if that cluster is gone for good, add {namespace: %s, name: %s} to spec.tenancy.giveBack of EventStoreClass %s",
		name, owner, owner.UID, p.clusterText(owner), who, p.store.Namespace, p.store.Name, p.class.Name)
}

// twins are two clusters that other operators show to be there.
const twins = "one of the two clusters was made of a backup of the other"

// contradicted: what is here is gone there, where the same uids are.
func (p *pass) contradicted(name string) error {
	return stream.Stalled(v1alpha1.ReasonConflict,
		"stream %s belongs to an earlier EventStore of this name, and another operator on the NATS system of EventStoreClass %s, whose cluster has the uid of this one, says that this EventStore with the uid %s is gone: %s, and which of them the stream is of nobody can tell, so it is not touched: stop the other operator; or let the platform add {namespace: %s, name: %s} to spec.tenancy.giveBack of the class",
		name, p.class.Name, p.store.UID, twins, p.store.Namespace, p.store.Name)
}

// checkKept goes on only where no other operator has this very EventStore and keeps it,
// or has let it go and kept its streams: a cluster that was made of a backup of another
// one has the same uids.
func (p *pass) checkKept(ctx context.Context, ours []deletedStream) error {
	if len(ours) == 0 {
		return nil
	}
	cluster, err := p.homes.cluster(ctx)
	if err != nil {
		return err
	}
	heard, err := p.hear(ctx, stream.OwnerOf(p.store, stream.Home{Cluster: cluster}))
	if err != nil {
		return err
	}
	return keptFault(heard[0], p.class.Name, p.store.UID)
}

// keptFault is why the streams of a store that is deleted here stay, nil when they go.
// That another cluster deletes it with its streams too holds nothing back.
func keptFault(heard stream.Standings, class string, uid types.UID) error {
	const another = "another operator on the NATS system of EventStoreClass %s"
	switch {
	case heard.Has(stream.Exists):
		return stream.Stalled(v1alpha1.ReasonStreamsNotDeleted,
			another+" has this EventStore too, with the uid %s, and does not delete it with its streams: %s; delete it there first, if the streams are to go", class, uid, twins)
	case heard.Has(stream.Gone):
		return stream.Stalled(v1alpha1.ReasonStreamsNotDeleted,
			another+", whose cluster has the uid of this one, says that this EventStore, with the uid %s, is gone there: %s, and the streams may have been kept there; stop that operator, if they are to go", class, uid, twins)
	case heard.Has(stream.Untold):
		return stream.Retrying(v1alpha1.ReasonStreamsNotDeleted,
			another+", whose cluster has the uid of this one, does not say whether it keeps this EventStore, with the uid %s, so it counts as kept: see that it reaches its API server; one that was killed counts as there for two minutes at most", class, uid)
	}
	return nil
}
