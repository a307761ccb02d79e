package controller

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/stream"
)

const (
	// leaderPatience is how long a stream that seems to have gone back may take to
	// show that it has not: a new leader catches up within milliseconds, and a busy
	// machine needs more. leaderPause is between two looks.
	leaderPatience = 3 * time.Second
	leaderPause    = 100 * time.Millisecond
)

// checkLoss compares the streams with what the status records of them. What was
// lost stays on record until a person accepts it, once.
func (p *pass) checkLoss(ctx context.Context) error {
	if err := p.confirmRecord(ctx); err != nil {
		return err
	}
	losses, err := p.losses(ctx)
	if err != nil {
		return err
	}
	if len(losses) == 0 {
		if len(p.store.Status.Streams) > 0 {
			meta.RemoveStatusCondition(&p.store.Status.Conditions, v1alpha1.ConditionDataLoss)
		}
		return nil
	}
	return p.lose(ctx, losses, p.forgetLost)
}

// lose holds the plan back for losses, until a person has accepted just these: then
// forget takes what was lost off the record.
func (p *pass) lose(ctx context.Context, losses []*stream.Loss, forget func()) error {
	conditions := &p.store.Status.Conditions
	messages := make([]string, len(losses))
	for i, loss := range losses {
		messages[i] = loss.Message
	}
	message := strings.Join(messages, "; ")
	token, accepted := p.offer(v1alpha1.ConditionDataLoss, func(newest string) string { return stream.LossToken(p.store.UID, newest, losses) })
	if accepted {
		forget()
		p.lost, p.partnerLost = [2]bool{}, false
		if err := p.accept(ctx, v1alpha1.Acceptance{Token: token, Reason: losses[0].Reason, Message: "a loss: " + message}, "DataLossAccepted"); err != nil {
			return err
		}
		meta.RemoveStatusCondition(conditions, v1alpha1.ConditionDataLoss)
		return nil
	}
	p.keepRecord()
	fault := stream.Stalled(losses[0].Reason,
		"stored data was lost: %s. Restore the stream from a backup, which is recognised; or accept the loss and %s: %s", message, p.afterAcceptance(), p.acceptHint(token))
	setCondition(conditions, v1alpha1.ConditionDataLoss, metav1.ConditionTrue, fault.Reason, fault.Error())
	p.holdBack(fault)
	return nil
}

// afterAcceptance says what becomes of the streams once a loss is accepted: one that others
// made, and that names no owner, is used only if it may be adopted.
func (p *pass) afterAcceptance() string {
	for i, live := range p.live {
		if !p.lost[i] || stream.OwnershipOf(p.self(), live, streamStatus(p.store, p.wanted[i].Role)) != stream.Nobodys {
			continue
		}
		if fault, refused := stream.AsFault(p.checkAdoption(live)); refused {
			return fmt.Sprintf("see to stream %s, which is not used as it is, so that EventStore %s is Stalled with the reason %s then: delete that stream, and it is made again, empty; or let it be adopted, with spec.adoptionPolicy of the EventStore Adopt and spec.tenancy.adoption of EventStoreClass %s Allowed",
				live.Config.Name, p.store.Name, fault.Reason, p.class.Name)
		}
	}
	return "go on with what is there"
}

// checkPartner tells of a stream of events that is gone while its resource was away:
// nothing is on record, and the stream of snapshots is there.
func (p *pass) checkPartner(ctx context.Context) error {
	if len(p.store.Status.Streams) > 0 {
		return nil
	}
	snapshots := p.live[1]
	if p.live[0] != nil || snapshots == nil || snapshots.State.Msgs == 0 || !p.isOurs(snapshots, nil) {
		meta.RemoveStatusCondition(&p.store.Status.Conditions, v1alpha1.ConditionDataLoss)
		return nil
	}
	p.lost[0], p.partnerLost = true, true
	return p.lose(ctx, []*stream.Loss{stream.PartnerLost(p.store.EventsStreamName(), snapshots)}, func() {
		p.store.Status.Streams = []v1alpha1.StreamStatus{stream.StatusOf(v1alpha1.StreamRoleSnapshots, snapshots)}
	})
}

// isOurs says whether the metadata of a stream names this EventStore, or one of its
// namespace and name, or it is the one on record. Whether it may take it is another question.
func (p *pass) isOurs(live *liveStream, recorded *v1alpha1.StreamStatus) bool {
	ownership := stream.OwnershipOf(p.self(), live, recorded)
	return ownership != stream.Anothers && ownership != stream.Nobodys
}

// losses compares both streams with what is known of them. That a stream went back
// is believed only when it stays so: a replica that has just become the leader may
// not have caught up with itself.
func (p *pass) losses(ctx context.Context) ([]*stream.Loss, error) {
	for deadline := time.Now().Add(leaderPatience); ; {
		found, wentBack, err := p.find(ctx)
		if err != nil {
			return nil, err
		}
		if !wentBack || time.Now().After(deadline) {
			return p.putOnRecord(ctx, found)
		}
		if err := pauseFor(ctx, leaderPause); err != nil {
			return nil, err
		}
		if err := p.look(ctx); err != nil {
			return nil, err
		}
		if err := p.confirmRecord(ctx); err != nil {
			return nil, err
		}
	}
}

// find looks for losses, and says whether a stream of several replicas seems to have gone
// back, of which nobody was told yet.
func (p *pass) find(ctx context.Context) (found [2]stream.Found, wentBack bool, err error) {
	isNew := func(i int, loss *stream.Loss) bool {
		return loss != nil && loss.Reason == v1alpha1.ReasonStreamRolledBack && p.live[i].Config.Replicas > 1
	}
	for i, wanted := range p.wanted {
		recorded := streamStatus(p.store, wanted.Role)
		wasTold := recorded != nil && recorded.Since != nil
		if found[i].Again, err = p.lossSince(ctx, i); err != nil {
			return found, false, err
		}
		compared, err := p.lossOf(ctx, i)
		if err != nil {
			return found, false, err
		}
		found[i].Loss, found[i].IsBack = compared.loss, compared.isBack
		wentBack = wentBack || isNew(i, found[i].Again) || isNew(i, found[i].Loss) && !wasTold
	}
	return found, wentBack, nil
}

// compared is what comes of comparing a stream with a place at which it was seen.
type compared struct {
	loss *stream.Loss
	// restored: it is another stream, restored to that place at least.
	restored bool
	// isBack: it is at that place or restored, or goes on from there.
	isBack bool
	// asked: the servers were asked for the message of that place.
	asked bool
}

// compare compares a stream with a place at which it was seen. told is what was told of
// the loss of that, "" for nothing: then it is asked for its message there in any case.
func (p *pass) compare(ctx context.Context, seen *v1alpha1.StreamStatus, live *liveStream, told string) (compared, error) {
	loss := stream.LossOf(seen, live, time.Now())
	restores := loss != nil && stream.MayBeRestored(seen, live) && p.isOurs(live, nil)
	asks := stream.IsElsewhere(seen, live) || told != "" && seen != nil && seen.LastSequence > 0
	if !restores && (loss != nil || !asks) {
		return compared{loss: loss, isBack: loss == nil}, nil
	}
	from, err := p.conn.FirstFrom(ctx, seen.Name, uint64(seen.LastSequence))
	if err != nil {
		return compared{}, p.lostConnection(err)
	}
	if restores {
		why := stream.NotRestored(seen, live, from, time.Now())
		if why == "" {
			return compared{restored: true, isBack: true}, nil
		}
		loss.Message += ", and this is not a copy of it: " + why
		return compared{loss: loss}, nil
	}
	// What went back and was written to since is beyond where it was.
	loss = stream.OvertakenOf(seen, live, from, told, time.Now())
	return compared{loss: loss, isBack: loss == nil && stream.IsThere(seen, from), asked: true}, nil
}

// lossOf compares one stream with what is on record of it.
func (p *pass) lossOf(ctx context.Context, i int) (compared, error) {
	seen, live := p.seen(p.wanted[i].Role), p.live[i]
	told := ""
	if condition := p.toldLoss(); condition != nil {
		told = condition.Message
	}
	found, err := p.compare(ctx, seen, live, told)
	switch {
	case err != nil:
		return compared{}, err
	case found.restored:
		p.restored(*seen, live)
	case found.asked && found.loss == nil && seen.Since == nil:
		p.memory.Note(p.class.Name, live)
	}
	return found, nil
}

// restored goes on with a stream that is the one on record, restored.
func (p *pass) restored(seen v1alpha1.StreamStatus, live *liveStream) {
	p.tell(normal, "StreamRestored", "RecogniseStream",
		"Stream %s was restored: it was made again at %s and holds what it held, up to sequence %d; its last sequence is %d",
		seen.Name, live.Created.UTC().Format(time.RFC3339), seen.LastSequence, live.State.LastSeq)
	p.memory.Forget(p.class.Name, seen.Name)
	now := stream.StatusOf(seen.Role, live)
	now.Since = seen.Since
	*streamStatus(p.store, seen.Role) = now
}

// toldLoss is what the status told of a loss already, nil for nothing.
func (p *pass) toldLoss() *metav1.Condition {
	return meta.FindStatusCondition(p.before.Status.Conditions, v1alpha1.ConditionDataLoss)
}

// preserve gives streams whose loss waits for a person the age that is asked for, where somebody
// has made theirs shorter: it would let go of what is saved meanwhile.
func (p *pass) preserve(ctx context.Context) error {
	for i, wanted := range p.wanted {
		if !p.lost[i] || p.invalid || p.live[i] == nil || !p.isOurs(p.live[i], streamStatus(p.store, wanted.Role)) {
			continue
		}
		plan := stream.NewPlan(wanted, p.live[i], time.Now()).OnlyLongerAge()
		if plan.Settled() {
			continue
		}
		config := stream.Readable(p.live[i])
		config.MaxAge = wanted.Config.MaxAge
		var err error
		if p.live[i], err = p.conn.Update(ctx, config); err != nil {
			return p.lostConnection(err)
		}
		p.tellApplied(plan)
	}
	return nil
}

// keepRecord writes down what was seen last, so that a loss is known after a
// restart as well.
func (p *pass) keepRecord() {
	for i, recorded := range p.store.Status.Streams {
		p.store.Status.Streams[i] = p.memory.Raise(p.class.Name, recorded)
	}
}

// forgetLost takes what was lost off the record, to begin anew with what is there.
func (p *pass) forgetLost() {
	var kept []v1alpha1.StreamStatus
	for i, wanted := range p.wanted {
		recorded, live := streamStatus(p.store, wanted.Role), p.live[i]
		switch {
		case recorded == nil:
		case !p.lost[i]:
			kept = append(kept, *recorded)
		default:
			p.memory.Forget(p.class.Name, recorded.Name)
			if live != nil && p.isOurs(live, recorded) {
				kept = append(kept, stream.StatusOf(wanted.Role, live))
			}
		}
	}
	p.store.Status.Streams = kept
}

// confirmRecord reads the store past the cache when a stream on record is gone:
// the cache may not have yet what this operator itself wrote a moment before, that
// the stream held events, and the stream would be made again as if it never had.
func (p *pass) confirmRecord(ctx context.Context) error {
	gone := false
	for i, wanted := range p.wanted {
		gone = gone || p.live[i] == nil && p.seen(wanted.Role) != nil
	}
	if !gone {
		return nil
	}
	current := &v1alpha1.EventStore{}
	if err := p.uncached.Get(ctx, client.ObjectKeyFromObject(p.store), current); err != nil {
		return fmt.Errorf("read EventStore %s: %w", client.ObjectKeyFromObject(p.store), err)
	}
	if current.ResourceVersion != p.store.ResourceVersion {
		return apierrors.NewConflict(v1alpha1.GroupVersion.WithResource("eventstores").GroupResource(), p.store.Name, errors.New("the cache is behind"))
	}
	return nil
}
