package controller

import (
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
)

// A class that is broken for good does not keep a new store from being made.
func TestNewStoresDoNotWaitForEver(t *testing.T) {
	t.Parallel()
	now := time.Now()
	store := &v1alpha1.EventStore{ObjectMeta: metav1.ObjectMeta{CreationTimestamp: metav1.NewTime(now)}}
	if !waits(store, now.Add(classPatience-time.Second)) {
		t.Error("it does not wait for a class that may come")
	}
	if waits(store, now.Add(classPatience)) {
		t.Error("it waits for a class that does not come")
	}
}
