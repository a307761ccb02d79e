package controller

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/stream"
)

const (
	normal  = corev1.EventTypeNormal
	warning = corev1.EventTypeWarning
	// reportTimeout bounds the status write, which is made also after the pass ran
	// out of its own time.
	reportTimeout = 10 * time.Second
)

// told is an Event that waits for the status to be written.
type told struct{ eventType, reason, action, note string }

func (p *pass) tell(eventType, reason, action, format string, args ...any) {
	p.told = append(p.told, told{eventType, reason, action, fmt.Sprintf(format, args...)})
}

// report is the only writer of the status: it turns the outcome of the pass into
// conditions, writes them when anything changed, sends the Events, and says when
// to come back.
func (p *pass) report(ctx context.Context, err error) (ctrl.Result, error) {
	if stopping(ctx, err) {
		return ctrl.Result{}, nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), reportTimeout)
	defer cancel()
	if p.gone {
		p.forgetAnswers()
		p.sendEvents(ctx)
		return ctrl.Result{}, nil
	}
	if outdated(err) || stream.WasClosed(err) {
		return ctrl.Result{RequeueAfter: minPause}, nil
	}
	if waits, isAsking := errors.AsType[asking](err); isAsking {
		return ctrl.Result{RequeueAfter: waits.For}, nil
	}
	p.forgetAnswers()
	if fault, isFault := stream.AsFault(err); isFault && p.hold != nil && !disowns(fault.Reason) {
		// What was first is told, unless nobody may be let in.
		err = p.hold
	}
	fault, known := stream.AsFault(err)
	switch {
	case errors.Is(err, errPaused), errors.Is(err, errObserved):
		known = true
	case err != nil && !known:
		fault = stream.Retrying(v1alpha1.ReasonProgressingWithRetry, "%w", err)
	}
	p.setConditions(fault, err)
	if err := p.writeStatus(ctx); outdated(err) {
		return ctrl.Result{RequeueAfter: minPause}, nil
	} else if err != nil {
		return ctrl.Result{}, err
	}
	p.sendEvents(ctx)
	if err != nil && !known {
		return ctrl.Result{}, err
	}
	switch {
	case errors.Is(err, errPaused) && p.blind:
		return ctrl.Result{RequeueAfter: jittered(min(credentialsPause, p.resync))}, nil
	case !errors.Is(err, errPaused) && p.swept(fault):
		return ctrl.Result{}, nil
	}
	return ctrl.Result{RequeueAfter: pause(p.store.Status.Conditions, fault, p.resync)}, nil
}

// swept: nothing is to be done for the store, and the sweep of its class wakes it
// when that changes.
func (p *pass) swept(fault *stream.Fault) bool {
	return fault == nil && p.conn != nil && p.conn.CanList()
}

// outdated: the cache was behind what the API server has. Nothing is wrong, and
// the next pass reads it.
func outdated(err error) bool { return apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) }

// stopping: the operator ends in the middle of a pass, which says nothing about
// the object. The next leader starts with a pass of its own.
func stopping(ctx context.Context, err error) bool {
	return err != nil && errors.Is(ctx.Err(), context.Canceled)
}

func (p *pass) setConditions(fault *stream.Fault, err error) {
	status := &p.store.Status
	setOutcome(&status.Conditions, fault, "Both streams are as asked for, every replica is current, and the binding is written")
	switch {
	case errors.Is(err, errPaused):
		// Nobody looks, so nobody knows. That is meant so, and no failure.
		setCondition(&status.Conditions, v1alpha1.ConditionReady, metav1.ConditionUnknown, v1alpha1.ReasonPaused, err.Error())
	case errors.Is(err, errObserved):
		setCondition(&status.Conditions, v1alpha1.ConditionReady, metav1.ConditionTrue, v1alpha1.ReasonObserved, err.Error())
	}
	for _, always := range []string{v1alpha1.ConditionConnected, v1alpha1.ConditionReplicasCurrent, v1alpha1.ConditionStreamsOwned} {
		if meta.FindStatusCondition(status.Conditions, always) == nil {
			setCondition(&status.Conditions, always, metav1.ConditionUnknown, v1alpha1.ReasonUnknown, "Not seen yet")
		}
	}
	p.tellVersions()
	p.endOutdated()
	p.tellUnmatched()
	keepTransitions(p.before.Status.Conditions, status.Conditions)
	p.tellOutcome(fault)
	finishConditions(status.Conditions, p.store.Generation)
	status.ObservedGeneration, status.Schema = p.store.Generation, stream.Schema
}

// tellOutcome makes an Event of a Ready that became another.
func (p *pass) tellOutcome(fault *stream.Fault) {
	ready, changed := readyChange(p.before.Status.Conditions, p.store.Status.Conditions)
	created := p.created()
	if len(created) > 0 {
		// One Event, and not one for each part: thousands of stores may come at once.
		p.tell(normal, "StreamsCreated", "CreateStreams", "Created %s; %s", strings.Join(created, " and "), ready.Message)
	}
	switch {
	case !changed, fault == nil && len(created) > 0:
	case fault == nil:
		p.tell(normal, ready.Reason, "Reconcile", "%s", ready.Message)
	case fault.Handling != stream.Wait:
		p.metrics.countOutcome(fault)
		p.tell(warning, ready.Reason, "Reconcile", "%s", ready.Message)
	}
}

// writeStatus writes the status when it changed, and never over a newer one. The
// whole of it, since a patch costs the API server a fifth more.
func (p *pass) writeStatus(ctx context.Context) error {
	if equality.Semantic.DeepEqual(*p.written, p.store.Status) {
		p.records.read(p.store)
		return nil
	}
	if err := p.Status().Update(ctx, p.store.DeepCopy()); err != nil {
		return client.IgnoreNotFound(fmt.Errorf("write the status of EventStore %s: %w", client.ObjectKeyFromObject(p.store), err))
	}
	p.records.wrote(p.store)
	return nil
}

func (p *pass) sendEvents(ctx context.Context) {
	for _, e := range p.told {
		log.FromContext(ctx).Info("Sent an Event", "type", e.eventType, "reason", e.reason, "note", e.note)
		note := clip(e.note)
		p.recorder.Eventf(p.store, p.aspect(note), e.eventType, e.reason, e.action, "%s", note)
	}
	p.told = nil
}

// aspect is what an Event is related to. Events of one reason become a series, of
// which the first note alone is kept, where they are related to the same: so each
// note has an aspect of its own.
func (p *pass) aspect(note string) *corev1.ObjectReference {
	sum := sha256.Sum256([]byte(note))
	return &corev1.ObjectReference{
		APIVersion: v1alpha1.GroupVersion.String(), Kind: "EventStore", Namespace: p.store.Namespace, Name: p.store.Name, UID: p.store.UID,
		FieldPath: "status{" + hex.EncodeToString(sum[:4]) + "}",
	}
}

// maxNote is what the API server takes as the note of an Event.
const maxNote = 1024

func clip(note string) string {
	if len(note) <= maxNote {
		return note
	}
	const more = " ..."
	return strings.ToValidUTF8(note[:maxNote-len(more)], "") + more
}
