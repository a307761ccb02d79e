// Package kstatus has a gomega matcher for the contract that tools such as Flux,
// Argo CD and kubectl wait rely on: how a status tells whether an object is done.
package kstatus

import (
	"fmt"
	"slices"

	"github.com/onsi/gomega/types"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
)

// BeConsistent succeeds for an EventStore or EventStoreClass that no controller
// has seen yet, or whose status keeps the contract.
func BeConsistent() types.GomegaMatcher { return &consistent{} }

type consistent struct{ violation error }

func (c *consistent) Match(actual any) (bool, error) {
	object, ok := actual.(client.Object)
	if !ok {
		return false, fmt.Errorf("BeConsistent takes a Kubernetes object, not %T", actual)
	}
	c.violation = Violation(object)
	return c.violation == nil, nil
}

func (c *consistent) FailureMessage(actual any) string {
	return fmt.Sprintf("%s: %v", client.ObjectKeyFromObject(actual.(client.Object)), c.violation)
}

func (c *consistent) NegatedFailureMessage(actual any) string {
	return fmt.Sprintf("%s keeps the contract of kstatus", client.ObjectKeyFromObject(actual.(client.Object)))
}

// Violation is how an object breaks the contract, nil when it does not.
func Violation(object client.Object) error {
	var observed int64
	var conditions []metav1.Condition
	switch o := object.(type) {
	case *v1alpha1.EventStore:
		observed, conditions = o.Status.ObservedGeneration, o.Status.Conditions
	case *v1alpha1.EventStoreClass:
		observed, conditions = o.Status.ObservedGeneration, o.Status.Conditions
	default:
		return fmt.Errorf("%T has no status that is known here", object)
	}
	if observed == -1 {
		if len(conditions) > 0 {
			return fmt.Errorf("conditions without an observed generation: %+v", conditions)
		}
		return nil
	}
	return violation(observed, object.GetGeneration(), conditions)
}

// abnormal conditions are present only while they are true, and never beside a Ready
// that is True, except those that warn.
var abnormal = []string{
	v1alpha1.ConditionFull, v1alpha1.ConditionVersionsNotKept, v1alpha1.ConditionAccessIgnored, v1alpha1.ConditionAcceptanceUnmatched,
	v1alpha1.ConditionReconciling, v1alpha1.ConditionStalled,
	v1alpha1.ConditionDataLoss, v1alpha1.ConditionDataLossPrevented,
}

var warns = []string{v1alpha1.ConditionFull, v1alpha1.ConditionVersionsNotKept, v1alpha1.ConditionAccessIgnored, v1alpha1.ConditionAcceptanceUnmatched}

func violation(observed, generation int64, conditions []metav1.Condition) error {
	if observed < 1 || observed > generation {
		return fmt.Errorf("observedGeneration is %d and the generation %d", observed, generation)
	}
	for _, c := range conditions {
		if c.ObservedGeneration != observed {
			return fmt.Errorf("condition %s is of generation %d and the status of %d", c.Type, c.ObservedGeneration, observed)
		}
		if c.Reason == "" || c.Message == "" {
			return fmt.Errorf("condition %s lacks a reason or a message", c.Type)
		}
	}
	ready := meta.FindStatusCondition(conditions, v1alpha1.ConditionReady)
	if ready == nil {
		return fmt.Errorf("no Ready in %+v", conditions)
	}
	working := 0
	for _, name := range abnormal {
		c := meta.FindStatusCondition(conditions, name)
		switch {
		case c == nil:
			continue
		case c.Status != metav1.ConditionTrue:
			return fmt.Errorf("%s is present and %s", name, c.Status)
		case ready.Status == metav1.ConditionTrue && !slices.Contains(warns, name):
			return fmt.Errorf("%s and Ready are both True", name)
		}
		if name == v1alpha1.ConditionReconciling || name == v1alpha1.ConditionStalled {
			working++
		}
	}
	if ready.Reason == v1alpha1.ReasonPaused {
		if ready.Status != metav1.ConditionUnknown || working != 0 {
			return fmt.Errorf("paused, which is no failure, and Ready is %s with %d of Reconciling and Stalled", ready.Status, working)
		}
		return nil
	}
	if ready.Status != metav1.ConditionTrue && working != 1 {
		return fmt.Errorf("condition Ready is %s with %d of Reconciling and Stalled: one says whether to wait or to act", ready.Status, working)
	}
	return nil
}
