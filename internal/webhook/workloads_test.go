package webhook

import (
	"slices"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"git.flowmade.one/flowmade-one/aether-operator/internal/injector"
)

// TestWorkloads stores each kind of workload with a labelled template, and creates
// the pod that its controller makes of what was stored: an API server alone has no
// controllers.
func TestWorkloads(t *testing.T) {
	r := startReplica(t, Options{})
	install(t, r)
	waitUntilServing(t, r)
	selector := &metav1.LabelSelector{MatchLabels: map[string]string{"app": "checkout"}}
	always, never, onFailure := template(corev1.RestartPolicyAlways), template(corev1.RestartPolicyNever), template(corev1.RestartPolicyOnFailure)
	meta := func(name string) metav1.ObjectMeta {
		return metav1.ObjectMeta{Namespace: restrictedNamespace, Name: name}
	}
	claim := corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: "data"}, Spec: corev1.PersistentVolumeClaimSpec{
		AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
		Resources:   corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}},
	}}
	for _, workload := range []client.Object{
		&appsv1.Deployment{ObjectMeta: meta("deployment"), Spec: appsv1.DeploymentSpec{Selector: selector, Template: always}},
		&appsv1.ReplicaSet{ObjectMeta: meta("replicaset"), Spec: appsv1.ReplicaSetSpec{Selector: selector, Template: always}},
		&appsv1.DaemonSet{ObjectMeta: meta("daemonset"), Spec: appsv1.DaemonSetSpec{Selector: selector, Template: always}},
		&appsv1.StatefulSet{ObjectMeta: meta("statefulset"), Spec: appsv1.StatefulSetSpec{
			Selector: selector, Template: always, ServiceName: "checkout", VolumeClaimTemplates: []corev1.PersistentVolumeClaim{claim},
		}},
		&batchv1.Job{ObjectMeta: meta("job"), Spec: batchv1.JobSpec{Template: never}},
		&batchv1.CronJob{ObjectMeta: meta("cronjob"), Spec: batchv1.CronJobSpec{
			Schedule: "@daily", JobTemplate: batchv1.JobTemplateSpec{Spec: batchv1.JobSpec{Template: onFailure}},
		}},
	} {
		t.Run(workload.GetName(), func(t *testing.T) {
			if err := kubernetes.Client.Create(t.Context(), workload); err != nil {
				t.Fatal(err)
			}
			pod := podOf(workload)
			before := pod.DeepCopy()
			if err := kubernetes.Client.Create(t.Context(), pod); err != nil {
				t.Fatal(err)
			}
			checkPodOfWorkload(t, before, pod)
		})
	}
}

// template is a pod template with the label and what Pod Security asks for.
func template(restart corev1.RestartPolicy) corev1.PodTemplateSpec {
	pod := labelled("", "orders")
	pod.Spec.RestartPolicy = restart
	pod.Labels["app"] = "checkout"
	return corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: pod.Labels}, Spec: pod.Spec}
}

// podOf is what a controller creates: the template as it is stored, and for a
// StatefulSet with its name and its volume.
func podOf(workload client.Object) *corev1.Pod {
	var template corev1.PodTemplateSpec
	meta := metav1.ObjectMeta{Namespace: workload.GetNamespace(), GenerateName: workload.GetName() + "-"}
	switch w := workload.(type) {
	case *appsv1.Deployment:
		template = w.Spec.Template
	case *appsv1.ReplicaSet:
		template = w.Spec.Template
	case *appsv1.DaemonSet:
		template = w.Spec.Template
	case *appsv1.StatefulSet:
		template = w.Spec.Template
		meta.GenerateName, meta.Name = "", w.Name+"-0"
		template.Spec.Hostname, template.Spec.Subdomain = meta.Name, w.Spec.ServiceName
		template.Spec.Volumes = append(template.Spec.Volumes, corev1.Volume{Name: "data", VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data-" + meta.Name},
		}})
	case *batchv1.Job:
		template = w.Spec.Template
	case *batchv1.CronJob:
		template = w.Spec.JobTemplate.Spec.Template
	}
	meta.Labels, meta.Annotations = template.Labels, template.Annotations
	return &corev1.Pod{ObjectMeta: meta, Spec: template.Spec}
}

func checkPodOfWorkload(t *testing.T, before, pod *corev1.Pod) {
	t.Helper()
	if len(pod.Spec.InitContainers) != 1 || pod.Spec.InitContainers[0].Name != injector.ContainerName {
		t.Fatalf("init containers: %+v, want the sidecar", pod.Spec.InitContainers)
	}
	// The kubelet ends such a container when the others have ended, so that a Job
	// completes; the pod's own policy is for the others.
	if policy := pod.Spec.InitContainers[0].RestartPolicy; policy == nil || *policy != corev1.ContainerRestartPolicyAlways {
		t.Errorf("restartPolicy of the sidecar: %v, want Always", policy)
	}
	if pod.Spec.RestartPolicy != before.Spec.RestartPolicy || pod.Spec.Hostname != before.Spec.Hostname || pod.Spec.Subdomain != before.Spec.Subdomain {
		t.Errorf("the pod was changed in other fields: %+v", pod.Spec)
	}
	for _, volume := range before.Spec.Volumes {
		if !hasVolume(pod, volume.Name) {
			t.Errorf("volume %s is lost", volume.Name)
		}
	}
	if env := pod.Spec.Containers[0].Env; len(env) != 2 || env[0].Value != injector.Endpoint {
		t.Errorf("environment of the application: %v", env)
	}
}

func hasVolume(pod *corev1.Pod, name string) bool {
	return slices.ContainsFunc(pod.Spec.Volumes, func(v corev1.Volume) bool { return v.Name == name })
}
