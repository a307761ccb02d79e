//go:build node

package node_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv"
)

// The webhook fails closed, so every labelled pod depends on it: one replica answers
// at any moment while the other is replaced. Not parallel: the pods of other tests
// would be admitted meanwhile, or not.
func TestRolloutFailsNoAdmission(t *testing.T) {
	var admitted int
	ctx, stop := context.WithCancel(t.Context())
	admitting := make(chan error, 1)
	go func() {
		// As fast as a busy cluster makes them.
		for range time.Tick(10 * time.Millisecond) {
			if ctx.Err() != nil {
				break
			}
			if err := webhookReady(ctx); err != nil && ctx.Err() == nil {
				admitting <- fmt.Errorf("after %d pods: %w", admitted, err)
				return
			}
			admitted++
		}
		admitting <- nil
	}()
	restartOperator(t)
	stop()
	if err := <-admitting; err != nil {
		t.Fatal(err)
	}
	t.Logf("%d pods were admitted", admitted)
}

// restartOperator is kubectl rollout restart, and waits until all is new.
func restartOperator(t *testing.T) {
	t.Helper()
	key := client.ObjectKey{Namespace: operatorNamespace, Name: operatorName}
	var deployment appsv1.Deployment
	if err := cluster.Client.Get(t.Context(), key, &deployment); err != nil {
		t.Fatal(err)
	}
	before := deployment.DeepCopy()
	deployment.Spec.Template.Annotations["kubectl.kubernetes.io/restartedAt"] = time.Now().Format(time.RFC3339)
	if err := cluster.Client.Patch(t.Context(), &deployment, client.MergeFrom(before)); err != nil {
		t.Fatal(err)
	}
	testenv.Eventually(t, wait, "the operator to be replaced", func() error {
		if err := cluster.Client.Get(t.Context(), key, &deployment); err != nil {
			return err
		}
		status, want := deployment.Status, *deployment.Spec.Replicas
		if status.ObservedGeneration < deployment.Generation || status.UpdatedReplicas < want || status.AvailableReplicas < want || status.Replicas > want ||
			status.TerminatingReplicas != nil && *status.TerminatingReplicas > 0 {
			return fmt.Errorf("it is at %+v", status)
		}
		return nil
	})
}
