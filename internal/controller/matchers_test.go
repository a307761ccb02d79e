package controller_test

import (
	"fmt"

	. "github.com/onsi/gomega"
	"github.com/onsi/gomega/gcustom"
	"github.com/onsi/gomega/types"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
)

func conditionsOf(object any) []metav1.Condition {
	switch o := object.(type) {
	case *v1alpha1.EventStore:
		return o.Status.Conditions
	case *v1alpha1.EventStoreClass:
		return o.Status.Conditions
	}
	panic(fmt.Sprintf("%T has no conditions that are known here", object))
}

func observedOf(object any) (generation, observed int64) {
	switch o := object.(type) {
	case *v1alpha1.EventStore:
		return o.Generation, o.Status.ObservedGeneration
	case *v1alpha1.EventStoreClass:
		return o.Generation, o.Status.ObservedGeneration
	}
	panic(fmt.Sprintf("%T has no status that is known here", object))
}

// haveCondition matches a condition of the current generation.
func haveCondition(conditionType string, status metav1.ConditionStatus, reason string) types.GomegaMatcher {
	return gcustom.MakeMatcher(func(object any) (bool, error) {
		generation, observed := observedOf(object)
		c := meta.FindStatusCondition(conditionsOf(object), conditionType)
		return generation == observed && c != nil && c.Status == status && c.Reason == reason, nil
	}).WithTemplate("Expected\n{{.FormattedActual}}\n{{.To}} have the condition " +
		fmt.Sprintf("%s=%s with reason %s", conditionType, status, reason))
}

func beReady() types.GomegaMatcher {
	return haveCondition(v1alpha1.ConditionReady, metav1.ConditionTrue, v1alpha1.ReasonReady)
}

func beStalled(reason string) types.GomegaMatcher {
	return And(
		haveCondition(v1alpha1.ConditionReady, metav1.ConditionFalse, reason),
		haveCondition(v1alpha1.ConditionStalled, metav1.ConditionTrue, reason))
}

// sayWhy matches the message of Ready.
func sayWhy(message types.GomegaMatcher) types.GomegaMatcher {
	return WithTransform(func(object any) string {
		return meta.FindStatusCondition(conditionsOf(object), v1alpha1.ConditionReady).Message
	}, message)
}

func haveNoCondition(conditionType string) types.GomegaMatcher {
	return WithTransform(func(object any) *metav1.Condition {
		return meta.FindStatusCondition(conditionsOf(object), conditionType)
	}, BeNil())
}
