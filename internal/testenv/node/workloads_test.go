//go:build node

package node_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"git.flowmade.one/flowmade-one/aether-operator/internal/injector"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv"
)

// workload is an object that makes pods, and what becomes of them.
type workload struct {
	kind string
	// pods is how many there are, and ends that they do by themselves.
	pods int
	ends bool
	// make names the object and the label app of its pods.
	make func(meta metav1.ObjectMeta, labels map[string]string, pod corev1.PodTemplateSpec) client.Object
}

func selector(labels map[string]string) *metav1.LabelSelector {
	return &metav1.LabelSelector{MatchLabels: labels}
}

// missed makes a CronJob believe that it was last run a minute ago, as one does after
// the controllers were down: it runs at once, and nobody waits for the next minute.
func missed(t *testing.T, job *batchv1.CronJob) {
	t.Helper()
	job.Status.LastScheduleTime = &metav1.Time{Time: time.Now().Add(-time.Minute)}
	if err := cluster.Client.Status().Update(t.Context(), job); err != nil {
		t.Fatal(err)
	}
}

var workloads = []workload{
	{"Pod", 1, false, func(meta metav1.ObjectMeta, labels map[string]string, pod corev1.PodTemplateSpec) client.Object {
		meta.Labels = pod.Labels
		return &corev1.Pod{ObjectMeta: meta, Spec: pod.Spec}
	}},
	{"Deployment", 2, false, func(meta metav1.ObjectMeta, labels map[string]string, pod corev1.PodTemplateSpec) client.Object {
		return &appsv1.Deployment{ObjectMeta: meta, Spec: appsv1.DeploymentSpec{Replicas: new(int32(2)), Selector: selector(labels), Template: pod}}
	}},
	{"StatefulSet", 2, false, func(meta metav1.ObjectMeta, labels map[string]string, pod corev1.PodTemplateSpec) client.Object {
		return &appsv1.StatefulSet{ObjectMeta: meta, Spec: appsv1.StatefulSetSpec{Replicas: new(int32(2)), Selector: selector(labels), Template: pod, ServiceName: meta.Name}}
	}},
	{"DaemonSet", 1, false, func(meta metav1.ObjectMeta, labels map[string]string, pod corev1.PodTemplateSpec) client.Object {
		return &appsv1.DaemonSet{ObjectMeta: meta, Spec: appsv1.DaemonSetSpec{Selector: selector(labels), Template: pod}}
	}},
	{"Job", 1, true, func(meta metav1.ObjectMeta, labels map[string]string, pod corev1.PodTemplateSpec) client.Object {
		return &batchv1.Job{ObjectMeta: meta, Spec: batchv1.JobSpec{Template: pod, BackoffLimit: new(int32(0))}}
	}},
	{"CronJob", 1, true, func(meta metav1.ObjectMeta, labels map[string]string, pod corev1.PodTemplateSpec) client.Object {
		job := batchv1.JobSpec{Template: pod, BackoffLimit: new(int32(0))}
		return &batchv1.CronJob{ObjectMeta: meta, Spec: batchv1.CronJobSpec{
			// Once a minute, and no more often than one Job is there.
			Schedule: "* * * * *", ConcurrencyPolicy: batchv1.ForbidConcurrent, JobTemplate: batchv1.JobTemplateSpec{Spec: job},
		}}
	}},
}

// Every kind of workload gets the sidecar by its label alone, in a namespace that
// enforces the Pod Security Standard restricted. The application makes each call once,
// the first when it starts and the last when it was told to end.
func TestWorkloads(t *testing.T) {
	t.Parallel()
	namespace := newNamespace(t)
	newStore(t, namespace, "orders", "")
	for _, w := range workloads {
		t.Run(w.kind, func(t *testing.T) {
			t.Parallel()
			w.test(t, namespace)
		})
	}
}

func (w workload) test(t *testing.T, namespace string) {
	labels := map[string]string{"app": lower(w.kind)}
	mode, policy := "serve", corev1.RestartPolicyAlways
	if w.ends {
		mode, policy = "once", corev1.RestartPolicyNever
	}
	template := application("orders", mode)
	template.Labels["app"] = labels["app"]
	template.Spec.RestartPolicy = policy
	object := w.make(metav1.ObjectMeta{Namespace: namespace, Name: labels["app"]}, labels, template)
	create(t, object)
	if job, is := object.(*batchv1.CronJob); is {
		missed(t, job)
	}
	pods := w.wait(t, namespace, labels, nil)
	for i := range pods {
		checkSidecar(t, &pods[i])
	}
	if w.ends {
		for i := range pods {
			checkEnded(t, &pods[i])
			wantEvents(t, namespace, "orders", pods[i].Name, "Started", "Worked")
		}
		return
	}
	w.replace(t, namespace, labels, pods)
}

// wait returns the pods of a workload when there are as many as there should be, none
// of them one of others, and all ready, or succeeded where they end.
func (w workload) wait(t *testing.T, namespace string, labels map[string]string, others []corev1.Pod) []corev1.Pod {
	t.Helper()
	var pods corev1.PodList
	testenv.Eventually(t, wait, w.kind, func() error {
		if err := cluster.Client.List(t.Context(), &pods, client.InNamespace(namespace), client.MatchingLabels(labels)); err != nil {
			return err
		}
		if len(pods.Items) != w.pods {
			return fmt.Errorf("it has %d pods, want %d", len(pods.Items), w.pods)
		}
		for _, pod := range pods.Items {
			if slices.ContainsFunc(others, func(other corev1.Pod) bool { return other.UID == pod.UID }) {
				return fmt.Errorf("pod %s is still there", pod.Name)
			}
			if err := w.settled(&pod); err != nil {
				return err
			}
		}
		return nil
	})
	return pods.Items
}

func (w workload) settled(pod *corev1.Pod) error {
	if w.ends && pod.Status.Phase != corev1.PodSucceeded || !w.ends && !isReady(pod) {
		return fmt.Errorf("pod %s is %s: %+v %+v", pod.Name, pod.Status.Phase, pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses)
	}
	return nil
}

// replace deletes the pods: the last event of each is stored, since the sidecar ends
// after the application, and new ones come where something makes them.
func (w workload) replace(t *testing.T, namespace string, labels map[string]string, pods []corev1.Pod) {
	for i := range pods {
		wantEvents(t, namespace, "orders", pods[i].Name, "Started")
		if err := cluster.Client.Delete(t.Context(), &pods[i]); err != nil {
			t.Fatal(err)
		}
	}
	if w.kind == "Pod" {
		testenv.Eventually(t, wait, "the pod to end", func() error {
			err := cluster.Client.Get(t.Context(), client.ObjectKeyFromObject(&pods[0]), &corev1.Pod{})
			if apierrors.IsNotFound(err) {
				return nil
			}
			return fmt.Errorf("it is there: %w", err)
		})
		wantEvents(t, namespace, "orders", pods[0].Name, "Started", "Stopped")
		return
	}
	again := w.wait(t, namespace, labels, pods)
	for i := range pods {
		want := []string{"Started", "Stopped"}
		// A pod of a StatefulSet comes back under its name, and goes on with its actor.
		if slices.ContainsFunc(again, func(pod corev1.Pod) bool { return pod.Name == pods[i].Name }) {
			want = append(want, "Started")
		}
		wantEvents(t, namespace, "orders", pods[i].Name, want...)
	}
}

// checkSidecar: the sidecar is first in line, started before the application, and
// neither was started twice.
func checkSidecar(t *testing.T, pod *corev1.Pod) {
	t.Helper()
	if len(pod.Spec.InitContainers) == 0 || pod.Spec.InitContainers[0].Name != injector.ContainerName {
		t.Fatalf("pod %s has no sidecar in front: %+v", pod.Name, pod.Spec.InitContainers)
	}
	sidecar, application := pod.Status.InitContainerStatuses[0], pod.Status.ContainerStatuses[0]
	if sidecar.RestartCount+application.RestartCount > 0 {
		t.Errorf("in pod %s the sidecar was restarted %d times, and the application %d", pod.Name, sidecar.RestartCount, application.RestartCount)
	}
	if began, after := startedAt(sidecar), startedAt(application); after.Before(began) {
		t.Errorf("in pod %s the sidecar started at %s, and the application at %s", pod.Name, began, after)
	}
}

func startedAt(status corev1.ContainerStatus) time.Time {
	switch {
	case status.State.Running != nil:
		return status.State.Running.StartedAt.Time
	case status.State.Terminated != nil:
		return status.State.Terminated.StartedAt.Time
	}
	return time.Time{}
}

// checkEnded: the sidecar ended by itself when the application had.
func checkEnded(t *testing.T, pod *corev1.Pod) {
	t.Helper()
	ended := pod.Status.InitContainerStatuses[0].State.Terminated
	if ended == nil || ended.ExitCode != 0 {
		t.Errorf("the sidecar of pod %s: %+v, want that it has ended with 0", pod.Name, pod.Status.InitContainerStatuses[0].State)
	}
}
