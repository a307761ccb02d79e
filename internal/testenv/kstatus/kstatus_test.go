package kstatus_test

import (
	"testing"

	. "github.com/onsi/gomega"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv/kstatus"
)

func condition(conditionType string, status metav1.ConditionStatus, generation int64) metav1.Condition {
	return metav1.Condition{Type: conditionType, Status: status, Reason: "R", Message: "m", ObservedGeneration: generation}
}

func TestBeConsistent(t *testing.T) {
	t.Parallel()
	const yes, no = metav1.ConditionTrue, metav1.ConditionFalse
	tests := map[string]struct {
		observed   int64
		conditions []metav1.Condition
		want       bool
	}{
		"new":                         {-1, nil, true},
		"new with conditions":         {-1, []metav1.Condition{condition("Ready", yes, 0)}, false},
		"ready":                       {2, []metav1.Condition{condition("Ready", yes, 2)}, true},
		"stalled":                     {2, []metav1.Condition{condition("Ready", no, 2), condition("Stalled", yes, 2)}, true},
		"reconciling an older one":    {1, []metav1.Condition{condition("Ready", no, 1), condition("Reconciling", yes, 1)}, true},
		"without Ready":               {2, []metav1.Condition{condition("Stalled", yes, 2)}, false},
		"ready and stalled":           {2, []metav1.Condition{condition("Ready", yes, 2), condition("Stalled", yes, 2)}, false},
		"ready with lost data":        {2, []metav1.Condition{condition("Ready", yes, 2), condition("DataLoss", yes, 2)}, false},
		"stalled that is False":       {2, []metav1.Condition{condition("Ready", yes, 2), condition("Stalled", no, 2)}, false},
		"neither waiting nor stalled": {2, []metav1.Condition{condition("Ready", no, 2)}, false},
		"both waiting and stalled":    {2, []metav1.Condition{condition("Ready", no, 2), condition("Stalled", yes, 2), condition("Reconciling", yes, 2)}, false},
		"condition of another time":   {2, []metav1.Condition{condition("Ready", yes, 1)}, false},
		"from the future":             {3, []metav1.Condition{condition("Ready", yes, 3)}, false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			store := &v1alpha1.EventStore{Status: v1alpha1.EventStoreStatus{ObservedGeneration: test.observed, Conditions: test.conditions}}
			store.Generation = 2
			match, err := kstatus.BeConsistent().Match(store)
			NewWithT(t).Expect(err).NotTo(HaveOccurred())
			NewWithT(t).Expect(match).To(Equal(test.want), "%v", kstatus.Violation(store))
		})
	}
}
