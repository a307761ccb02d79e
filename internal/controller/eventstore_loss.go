package controller

import (
	"context"
	"errors"
	"fmt"
	"strconv"
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

// accepted says whether a person accepted the loss of data for this generation.
func (p *pass) accepted() bool {
	return p.store.Annotations[v1alpha1.AnnotationAcceptDataLoss] == strconv.FormatInt(p.store.Generation, 10)
}

// acceptHint is how to accept it.
func (p *pass) acceptHint() string {
	return fmt.Sprintf("kubectl annotate --overwrite eventstore %s -n %s %s=%d",
		p.store.Name, p.store.Namespace, v1alpha1.AnnotationAcceptDataLoss, p.store.Generation)
}

// checkLoss compares the streams with what the status records of them. What was
// lost stays on record until a person accepts it, once.
func (p *pass) checkLoss(ctx context.Context) error {
	if err := p.confirmRecord(ctx); err != nil {
		return err
	}
	status := &p.store.Status
	if !p.accepted() {
		status.AcceptedDataLoss = 0
	}
	losses, err := p.losses(ctx)
	if err != nil {
		return err
	}
	if len(losses) == 0 {
		meta.RemoveStatusCondition(&status.Conditions, v1alpha1.ConditionDataLoss)
		return nil
	}
	messages := make([]string, len(losses))
	for i, loss := range losses {
		messages[i] = loss.Message
	}
	message := strings.Join(messages, "; ")
	if p.accepted() && status.AcceptedDataLoss != p.store.Generation {
		status.AcceptedDataLoss = p.store.Generation
		p.forgetStreams()
		meta.RemoveStatusCondition(&status.Conditions, v1alpha1.ConditionDataLoss)
		p.tell(warning, "DataLossAccepted", "AcceptDataLoss", "A loss was accepted: %s", message)
		return nil
	}
	hint := p.acceptHint()
	if status.AcceptedDataLoss == p.store.Generation {
		hint = fmt.Sprintf("kubectl annotate eventstore %s -n %s %s- and then %s",
			p.store.Name, p.store.Namespace, v1alpha1.AnnotationAcceptDataLoss, hint)
	}
	p.keepRecord()
	fault := stream.Stalled(losses[0].Reason,
		"stored data was lost: %s. Restore the stream from a backup; or accept the loss and go on with what is there: %s", message, hint)
	setCondition(&status.Conditions, v1alpha1.ConditionDataLoss, metav1.ConditionTrue, fault.Reason, fault.Error())
	return fault
}

// losses compares both streams with what is known of them. That a stream went back
// is believed only when it stays so: a replica that has just become the leader may
// not have caught up with itself.
func (p *pass) losses(ctx context.Context) ([]*stream.Loss, error) {
	for deadline := time.Now().Add(leaderPatience); ; {
		var losses []*stream.Loss
		wentBack := false
		for i, wanted := range p.wanted {
			if loss := stream.LossOf(p.seen(wanted.Role), p.live[i], time.Now()); loss != nil {
				losses = append(losses, loss)
				wentBack = wentBack || loss.Reason == v1alpha1.ReasonStreamRolledBack && p.live[i].Config.Replicas > 1
			}
		}
		if !wentBack || time.Now().After(deadline) || p.reported(losses) {
			return losses, nil
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

// reported says whether the status told of the loss already.
func (p *pass) reported(losses []*stream.Loss) bool {
	told := meta.FindStatusCondition(p.before.Status.Conditions, v1alpha1.ConditionDataLoss)
	return told != nil && told.Reason == losses[0].Reason
}

// keepRecord writes down what was seen last, so that a loss is known after a
// restart as well.
func (p *pass) keepRecord() {
	for i, recorded := range p.store.Status.Streams {
		p.store.Status.Streams[i] = p.memory.Raise(p.class.Name, recorded)
	}
}

// forgetStreams begins anew with what is there.
func (p *pass) forgetStreams() {
	for _, recorded := range p.store.Status.Streams {
		p.memory.Forget(p.class.Name, recorded.Name)
	}
	p.store.Status.Streams = nil
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
