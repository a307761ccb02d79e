//go:build node

package node_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/jetstream"
	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/injector"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv/node"
)

func lower(s string) string { return strings.ToLower(s) }

// newNamespace is one that enforces the strictest Pod Security Standard. It goes with
// the node.
func newNamespace(t *testing.T) string {
	t.Helper()
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
		GenerateName: lower(t.Name()) + "-", Labels: map[string]string{"pod-security.kubernetes.io/enforce": "restricted"},
	}}
	create(t, namespace)
	testenv.Eventually(t, wait, "the service account of pods", func() error {
		return cluster.Client.Get(t.Context(), client.ObjectKey{Namespace: namespace.Name, Name: "default"}, &corev1.ServiceAccount{})
	})
	return namespace.Name
}

func create(t *testing.T, object client.Object) {
	t.Helper()
	if err := cluster.Client.Create(t.Context(), object); err != nil {
		t.Fatal(err)
	}
}

func newStore(t *testing.T, namespace, name, class string, edit ...func(*v1alpha1.EventStore)) *v1alpha1.EventStore {
	t.Helper()
	store := &v1alpha1.EventStore{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	store.Spec.ClassName = class
	for _, e := range edit {
		e(store)
	}
	create(t, store)
	return store
}

// application is a pod with the label and what the Pod Security Standard restricted
// demands, and with nothing else for the sidecar.
func application(store, mode string) corev1.PodTemplateSpec {
	return corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{v1alpha1.LabelEventStore: store}},
		Spec: corev1.PodSpec{
			SecurityContext: &corev1.PodSecurityContext{RunAsNonRoot: new(true), SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}},
			Containers: []corev1.Container{{
				Name: "application", Image: node.ApplicationImage, Args: []string{mode},
				Env: []corev1.EnvVar{{Name: "POD_NAME", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.name"}}}},
				SecurityContext: &corev1.SecurityContext{
					AllowPrivilegeEscalation: new(false), Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
				},
				TerminationMessagePolicy: corev1.TerminationMessageFallbackToLogsOnError,
			}},
		},
	}
}

func newPod(t *testing.T, namespace, name string, template corev1.PodTemplateSpec) *corev1.Pod {
	t.Helper()
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: template.Labels, Annotations: template.Annotations}, Spec: template.Spec}
	create(t, pod)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the sidecar of pod %s printed:\n%s", pod.Name, logs(t, pod, injector.ContainerName))
		}
	})
	return pod
}

func isReady(pod *corev1.Pod) bool {
	return pod.DeletionTimestamp == nil && slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// waitPod reads a pod until it is as it should be.
func waitPod(t *testing.T, pod *corev1.Pod, what string, is func(*corev1.Pod) bool) {
	t.Helper()
	testenv.Eventually(t, wait, what, func() error {
		if err := cluster.Client.Get(t.Context(), client.ObjectKeyFromObject(pod), pod); err != nil {
			return err
		}
		if !is(pod) {
			return fmt.Errorf("pod %s is %s: %+v %+v", pod.Name, pod.Status.Phase, pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses)
		}
		return nil
	})
}

// wantEvents reads the events of an actor until they are as they should be, from
// JetStream itself and not through a sidecar.
func wantEvents(t *testing.T, namespace, store, actorID string, want ...string) {
	t.Helper()
	var secret corev1.Secret
	if err := cluster.Client.Get(t.Context(), client.ObjectKey{Namespace: namespace, Name: v1alpha1.BindingName(store)}, &secret); err != nil {
		t.Fatal(err)
	}
	reading, err := jetstream.New(servers.Connect(t), jetstream.Config{
		Namespace: string(secret.Data[v1alpha1.BindingKeyNamespace]), Store: store,
		EventsStream: string(secret.Data[v1alpha1.BindingKeyStream]), SnapshotsStream: string(secret.Data[v1alpha1.BindingKeySnapshotStream]),
	})
	if err != nil {
		t.Fatal(err)
	}
	testenv.Eventually(t, wait, "the events of "+actorID, func() error {
		events, err := reading.GetEvents(t.Context(), actorID, 0)
		if err != nil {
			return err
		}
		var got []string
		for _, event := range events {
			got = append(got, event.EventType)
		}
		if !slices.Equal(got, want) {
			return fmt.Errorf("they are %v, want %v", got, want)
		}
		return nil
	})
}

// logs are what a container has printed so far.
func logs(t *testing.T, pod *corev1.Pod, container string) string {
	t.Helper()
	content, err := clientset.CoreV1().Pods(pod.Namespace).GetLogs(pod.Name, &corev1.PodLogOptions{Container: container}).DoRaw(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

func sidecarOf(pod *corev1.Pod) corev1.ContainerStatus { return pod.Status.InitContainerStatuses[0] }

// cgroupOf is the directory of a container's control group for its memory.
func cgroupOf(status corev1.ContainerStatus) (string, error) {
	_, id, _ := strings.Cut(status.ContainerID, "://")
	root := filepath.Join("/sys/fs/cgroup/memory", cluster.CgroupRoot)
	if _, err := os.Stat(root); err != nil {
		root = filepath.Join("/sys/fs/cgroup", cluster.CgroupRoot)
	}
	var found string
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() && filepath.Base(path) == id {
			found = path
			return fs.SkipAll
		}
		return nil
	})
	if err == nil && found == "" {
		err = fmt.Errorf("container %s has no control group below %s", status.Name, root)
	}
	return found, err
}

// signalTo sends a signal to the processes of a container.
func signalTo(t *testing.T, status corev1.ContainerStatus, signal syscall.Signal) {
	t.Helper()
	group, err := cgroupOf(status)
	if err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(filepath.Join(group, "cgroup.procs"))
	if err != nil {
		t.Fatal(err)
	}
	signalled := 0
	for line := range bytes.Lines(content) {
		pid, err := strconv.Atoi(string(bytes.TrimSpace(line)))
		if err == nil {
			err = syscall.Kill(pid, signal)
		}
		switch {
		case err == nil:
			signalled++
		case !errors.Is(err, syscall.ESRCH):
			// A probe may have ended since.
			t.Fatal(err)
		}
	}
	if signalled == 0 {
		t.Fatalf("no process of container %s is there", status.Name)
	}
}

// A pod may come before its store: it is admitted with a warning, and starts when the
// binding is there.
func TestPodWaitsForItsStore(t *testing.T) {
	t.Parallel()
	namespace := newNamespace(t)
	pod := newPod(t, namespace, "early", application("orders", "serve"))
	waitPod(t, pod, "the pod to wait for its volume", func(pod *corev1.Pod) bool { return pod.Spec.NodeName != "" })
	newStore(t, namespace, "orders", "")
	waitPod(t, pod, "the pod to be ready", isReady)
	checkSidecar(t, pod)
	wantEvents(t, namespace, "orders", "early", "Started")
}

// waitPrinted waits until the application has printed a line.
func waitPrinted(t *testing.T, pod *corev1.Pod, line string) {
	t.Helper()
	testenv.Eventually(t, wait, fmt.Sprintf("the application to print %q", line), func() error {
		if printed := logs(t, pod, "application"); !strings.Contains(printed, line) {
			return fmt.Errorf("it printed %q", printed)
		}
		return nil
	})
}

// A sidecar that crashes is started again beside an application that goes on, and
// serves it as before.
func TestSidecarCrashes(t *testing.T) {
	t.Parallel()
	namespace := newNamespace(t)
	newStore(t, namespace, "orders", "")
	pod := newPod(t, namespace, "crash", application("orders", "serve"))
	waitPod(t, pod, "the pod to be ready", isReady)
	// Not during its first save, which the application makes only once: the event may
	// be stored for a while before the application has its answer.
	waitPrinted(t, pod, "started\n")
	signalTo(t, sidecarOf(pod), syscall.SIGKILL)
	waitPod(t, pod, "the sidecar to be there again", func(pod *corev1.Pod) bool {
		return sidecarOf(pod).RestartCount == 1 && sidecarOf(pod).Started != nil && *sidecarOf(pod).Started
	})
	signalTo(t, pod.Status.ContainerStatuses[0], syscall.SIGUSR1)
	waitPrinted(t, pod, "asked: <nil>\n")
	if restarts := pod.Status.ContainerStatuses[0].RestartCount; restarts != 0 {
		t.Errorf("the application was restarted %d times", restarts)
	}
	wantEvents(t, namespace, "orders", "crash", "Started", "Asked")
}

// A sidecar with the memory limit that the injector gives it refuses what it has no
// memory for, and is not killed.
func TestSidecarKeepsItsMemoryLimit(t *testing.T) {
	t.Parallel()
	namespace := newNamespace(t)
	newStore(t, namespace, "orders", "")
	template := application("orders", "press")
	template.Spec.RestartPolicy = corev1.RestartPolicyNever
	pod := newPod(t, namespace, "press", template)
	waitPod(t, pod, "the sidecar to serve", func(pod *corev1.Pod) bool {
		return len(pod.Status.ContainerStatuses) > 0 && pod.Status.ContainerStatuses[0].State.Waiting == nil
	})
	used := "unknown"
	testenv.Eventually(t, wait, "the application to end", func() error {
		if err := cluster.Client.Get(t.Context(), client.ObjectKeyFromObject(pod), pod); err != nil {
			return err
		}
		if pod.Status.ContainerStatuses[0].State.Terminated != nil {
			return nil
		}
		if peak := peakMemory(sidecarOf(pod)); peak != "" {
			used = peak
		}
		return fmt.Errorf("it runs; the sidecar used %s bytes", used)
	})
	waitPod(t, pod, "the pod to end", func(pod *corev1.Pod) bool { return pod.Status.Phase == corev1.PodSucceeded })
	checkSidecar(t, pod)
	checkEnded(t, pod)
	t.Logf("the sidecar used at most %s bytes of its %s, pages of files among them; %s",
		used, pod.Spec.InitContainers[0].Resources.Limits.Memory(), logs(t, pod, "application"))
}

// peakMemory is how many bytes a container has used at most, or nothing when it has
// ended.
func peakMemory(status corev1.ContainerStatus) string {
	group, err := cgroupOf(status)
	if err != nil {
		return ""
	}
	for _, file := range []string{"memory.peak", "memory.max_usage_in_bytes"} {
		if content, err := os.ReadFile(filepath.Join(group, file)); err == nil {
			return strings.TrimSpace(string(content))
		}
	}
	return ""
}

// Where its class asks for it, a pod proves who it is with the token that the kubelet
// gives it, and works for as long as the store allows it to.
func TestServiceAccountAccess(t *testing.T) {
	t.Parallel()
	namespace := newNamespace(t)
	for _, name := range []string{"checkout", "stranger"} {
		create(t, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}})
	}
	store := newStore(t, namespace, "orders", calloutClass, func(s *v1alpha1.EventStore) {
		s.Spec.Access = []v1alpha1.AccessEntry{{ServiceAccount: "checkout"}}
	})
	template := application("orders", "serve")
	template.Spec.ServiceAccountName = "stranger"
	stranger := newPod(t, namespace, "stranger", template)
	template.Spec.ServiceAccountName = "checkout"
	pod := newPod(t, namespace, "checkout", *template.DeepCopy())
	waitPod(t, pod, "the pod to be ready", isReady)

	waitPod(t, stranger, "the sidecar of the stranger", func(pod *corev1.Pod) bool {
		return len(pod.Status.InitContainerStatuses) > 0 && sidecarOf(pod).State.Running != nil
	})
	testenv.Eventually(t, wait, "the stranger to be refused", func() error {
		if printed := logs(t, stranger, injector.ContainerName); !strings.Contains(printed, "uthorization") {
			return fmt.Errorf("its sidecar printed %q", printed)
		}
		return nil
	})

	if err := removeAccess(t.Context(), store); err != nil {
		t.Fatal(err)
	}
	removed := time.Now()
	testenv.Eventually(t, wait, "the pod to be cut off", func() error {
		signalTo(t, pod.Status.ContainerStatuses[0], syscall.SIGUSR1)
		printed := strings.TrimSpace(logs(t, pod, "application"))
		last := printed[strings.LastIndexByte(printed, '\n')+1:]
		if !strings.HasPrefix(last, "asked: ") || last == "asked: <nil>" {
			return fmt.Errorf("it printed %q", last)
		}
		t.Logf("cut off %s after its access was removed; it printed %q", time.Since(removed).Round(time.Millisecond), last)
		return nil
	})
	if err := cluster.Client.Get(t.Context(), client.ObjectKeyFromObject(stranger), stranger); err != nil {
		t.Fatal(err)
	}
	if stranger.Status.ContainerStatuses[0].State.Waiting == nil {
		t.Errorf("the application of the stranger was started: %+v", stranger.Status.ContainerStatuses[0])
	}
}

func removeAccess(ctx context.Context, store *v1alpha1.EventStore) error {
	return node.Poll(ctx, "access to be removed", func() error {
		if err := cluster.Client.Get(ctx, client.ObjectKeyFromObject(store), store); err != nil {
			return err
		}
		store.Spec.Access = []v1alpha1.AccessEntry{{ServiceAccount: "nobody"}}
		return cluster.Client.Update(ctx, store)
	})
}
