package controller

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/stream"
)

// setCondition keeps the time of the transition when the status stays.
func setCondition(conditions *[]metav1.Condition, conditionType string, status metav1.ConditionStatus, reason, message string) {
	meta.SetStatusCondition(conditions, metav1.Condition{Type: conditionType, Status: status, Reason: reason, Message: message})
}

// setOutcome sets Ready, and Reconciling or Stalled while they are true, from
// what a pass came to; the fault is nil when all is as asked.
func setOutcome(conditions *[]metav1.Condition, fault *stream.Fault, ready string) {
	switch {
	case fault == nil:
		setCondition(conditions, v1alpha1.ConditionReady, metav1.ConditionTrue, v1alpha1.ReasonReady, ready)
		meta.RemoveStatusCondition(conditions, v1alpha1.ConditionReconciling)
		meta.RemoveStatusCondition(conditions, v1alpha1.ConditionStalled)
	case fault.Handling == stream.Stall:
		setCondition(conditions, v1alpha1.ConditionReady, metav1.ConditionFalse, fault.Reason, fault.Error())
		setCondition(conditions, v1alpha1.ConditionStalled, metav1.ConditionTrue, fault.Reason, fault.Error())
		meta.RemoveStatusCondition(conditions, v1alpha1.ConditionReconciling)
	default:
		reason := v1alpha1.ReasonProgressingWithRetry
		if fault.Handling == stream.Wait {
			reason = v1alpha1.ReasonProgressing
		}
		setCondition(conditions, v1alpha1.ConditionReady, metav1.ConditionFalse, fault.Reason, fault.Error())
		setCondition(conditions, v1alpha1.ConditionReconciling, metav1.ConditionTrue, reason, fault.Error())
		meta.RemoveStatusCondition(conditions, v1alpha1.ConditionStalled)
	}
}

// readyChange gives Ready as it is now, and whether its status or reason is
// another than before.
func readyChange(before, now []metav1.Condition) (ready *metav1.Condition, changed bool) {
	ready = meta.FindStatusCondition(now, v1alpha1.ConditionReady)
	was := meta.FindStatusCondition(before, v1alpha1.ConditionReady)
	return ready, was == nil || was.Status != ready.Status || was.Reason != ready.Reason
}

// conditionOrder is the order in which conditions are told; others follow by name.
var conditionOrder = []string{v1alpha1.ConditionReady, v1alpha1.ConditionConnected, v1alpha1.ConditionReplicasCurrent, v1alpha1.ConditionStreamsOwned}

// finishConditions stamps the generation on every condition and puts them in one
// order, so that the same state is always written the same.
func finishConditions(conditions []metav1.Condition, generation int64) {
	for i := range conditions {
		conditions[i].ObservedGeneration = generation
	}
	rank := func(c metav1.Condition) int {
		if i := slices.Index(conditionOrder, c.Type); i >= 0 {
			return i
		}
		return len(conditionOrder)
	}
	slices.SortStableFunc(conditions, func(a, b metav1.Condition) int {
		return cmp.Or(rank(a)-rank(b), strings.Compare(a.Type, b.Type))
	})
}

// keepTransitions gives a condition that a pass has changed, and changed back, the time of
// its transition again: nothing became of it, and nothing is written for it.
func keepTransitions(before, now []metav1.Condition) {
	for i := range now {
		if was := meta.FindStatusCondition(before, now[i].Type); was != nil && was.Status == now[i].Status {
			now[i].LastTransitionTime = was.LastTransitionTime
		}
	}
}

const (
	minPause = 200 * time.Millisecond
	maxPause = 15 * time.Second
	// credentialsPause is how soon a fault of credentials is tried again: Secrets
	// with credentials are not watched, which would take a right to, and the memory
	// for, every Secret of the cluster.
	credentialsPause = 10 * time.Second
)

// pause is when to look again, 0 for when the outcome is an error of its own. It
// grows with how long the object has been waiting: a quarter of that time.
func pause(conditions []metav1.Condition, fault *stream.Fault, resync time.Duration) time.Duration {
	switch {
	case fault == nil:
		return jittered(resync)
	case fault.Handling == stream.Stall:
		switch fault.Reason {
		case v1alpha1.ReasonCredentialsInvalid, v1alpha1.ReasonAuthenticationFailed, v1alpha1.ReasonCertificateInvalid, v1alpha1.ReasonPermissionDenied,
			v1alpha1.ReasonInsufficientPeers, v1alpha1.ReasonOutOfStorage, v1alpha1.ReasonCalloutUnavailable:
			return jittered(min(credentialsPause, resync))
		}
		return jittered(resync)
	}
	reconciling := meta.FindStatusCondition(conditions, v1alpha1.ConditionReconciling)
	waited := time.Since(reconciling.LastTransitionTime.Time)
	return jittered(min(max(waited/4, minPause), maxPause))
}

// pauseFor waits within a pass.
func pauseFor(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
