package policy

import (
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"git.flowmade.one/flowmade-one/aether-operator/internal/injector"
)

// TestSameAsTheInjector puts pods together by chance, the same in every run, of
// what the injector looks at: the policy refuses and makes the same.
func TestSameAsTheInjector(t *testing.T) {
	waitUntilEffective(t)
	chance := rand.New(rand.NewPCG(1, 2))
	outcomes := map[injector.Outcome]int{}
	for range 500 {
		pod := anyPod(chance)
		stored, _, err := create(t, exempt, pod.DeepCopy())
		if err != nil {
			// A pod that no API server takes.
			continue
		}
		outcomes[checkSameAsInjector(t, pod, stored.Spec)]++
	}
	if outcomes[injector.Injected] < 30 || outcomes[injector.Refused] < 30 {
		t.Errorf("%v: the pods tell too little", outcomes)
	}
	t.Logf("%v", outcomes)
}

// checkSameAsInjector injects what a webhook is shown: the pod with its defaults.
func checkSameAsInjector(t *testing.T, pod *corev1.Pod, defaulted corev1.PodSpec) injector.Outcome {
	t.Helper()
	shown := pod.DeepCopy()
	shown.Spec = defaulted
	result, err := injector.Inject(shown, injector.Config{Image: goldenImage})
	got, _, gotErr := create(t, injected, pod.DeepCopy())
	if refused, ok := errors.AsType[*injector.RefusedError](err); ok {
		if gotErr == nil || !strings.HasSuffix(gotErr.Error(), "denied request: "+refused.Reason) {
			t.Errorf("%s\ngot  %v\nwant %s", describe(t, pod), gotErr, refused.Reason)
		}
		return injector.Refused
	}
	want, _, wantErr := create(t, exempt, result.Pod)
	if (gotErr == nil) != (wantErr == nil) {
		t.Errorf("%s\ngot  %v\nwant %v", describe(t, pod), gotErr, wantErr)
	} else if gotErr == nil && marshal(t, got) != marshal(t, want) {
		t.Errorf("%s\ngot\n%s\nwant\n%s", describe(t, pod), marshal(t, got), marshal(t, want))
	}
	return injector.Injected
}

func describe(t *testing.T, pod *corev1.Pod) string {
	t.Helper()
	text, err := yaml.Marshal(pod)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

var annotations = []struct {
	key          string
	right, wrong []string
}{
	{"eventstores", []string{"payments", " shipments , orders,payments", "a,a,b", "", " "}, []string{"a,", "a,B"}},
	{"sidecar-image", []string{"mirror.example/sidecar:2", "mirror.example/sidecar:3"}, []string{"", "two words", "line\nbreak"}},
	{"sidecar-cpu-limit", []string{"1", "5m", "0.5", "1e-3"}, []string{"0", "-1", "much"}},
	{"sidecar-memory-limit", []string{"128Mi", "16Mi", "1e9", "33554432"}, []string{"0", "1Zi"}},
	{"sidecar-cpu-request", []string{"1", "5m", "20m"}, []string{"0", "much"}},
	{"sidecar-memory-request", []string{"128Mi", "16Mi", "48Mi"}, []string{"-1", ""}},
	{"sidecar-env", []string{"A=1\n B=x=y \n\n", "OTEL_SERVICE_NAME=", "_a1=$(B)"}, []string{"A", "=1", "A=1\nA=2", "SERVICE_BINDING_ROOT=/", "AETHER_X=1", "1A=2"}},
	{"sidecar-user-id", []string{"1", "1000660000", "None"}, []string{"0", "-1", "none", "", "1x", "2147483648", "9999999999"}},
	{"sidecar-args", []string{"--max-calls=1\n --request-timeout=1m30s", "--allow-origin=http://localhost:3000", "--log-level=debug"}, []string{"--memory", "--max-calls=0", "--listen=:1", "max-calls=1"}},
	{"sidecar-log-level", []string{"debug", "info", "warn", "error"}, []string{"", "Debug"}},
}

// anyPod is mostly right, so that more than the first mistake is seen.
func anyPod(chance *rand.Rand) *corev1.Pod {
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name:        "checkout",
			Labels:      map[string]string{"aether.flowmade.one/eventstore": pick(chance, "orders", "orders", "orders", "orders", "payments", "a-b", "Orders", "")},
			Annotations: map[string]string{},
		},
		Spec: corev1.PodSpec{
			AutomountServiceAccountToken: new(false),
			HostNetwork:                  chance.IntN(20) == 0,
			Volumes:                      anyVolumes(chance),
			InitContainers:               anyInitContainers(chance),
			Containers:                   []corev1.Container{{Name: "app", Image: "app", Env: anyEnv(chance)}},
		},
	}
	for _, annotation := range annotations {
		if chance.IntN(5) == 0 {
			pod.Annotations["aether.flowmade.one/"+annotation.key] = pick(chance, slices.Concat(annotation.right, annotation.right, annotation.wrong)...)
		}
	}
	if chance.IntN(5) == 0 {
		pod.Spec.Resources = &corev1.ResourceRequirements{
			Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(pick(chance, "100m", "15m")), corev1.ResourceMemory: resource.MustParse("100Mi")},
			Limits:   corev1.ResourceList{corev1.ResourceMemory: resource.MustParse(pick(chance, "100Mi", "2Gi"))},
		}
		pod.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(pick(chance, "10m", "15m"))}
	}
	if chance.IntN(20) == 0 {
		pod.Spec.NodeSelector = map[string]string{"kubernetes.io/os": pick(chance, "windows", "linux")}
	}
	if chance.IntN(20) == 0 {
		pod.Spec.OS = &corev1.PodOS{Name: corev1.Windows}
	}
	return pod
}

func pick[T any](chance *rand.Rand, from ...T) T { return from[chance.IntN(len(from))] }

func anyEnv(chance *rand.Rand) []corev1.EnvVar {
	var env []corev1.EnvVar
	for _, variable := range []corev1.EnvVar{
		{Name: "FIRST", Value: "$(AETHER_ENDPOINT)"},
		{Name: "AETHER_ENDPOINT", Value: "http://127.0.0.1:9999"},
		{Name: "AETHER_STORES", Value: pick(chance, "orders", "orders,payments", "")},
		{Name: "AETHER_STORES", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.name"}}},
	} {
		if chance.IntN(4) == 0 {
			env = append(env, variable)
		}
	}
	return env
}

// anyInitContainers may hold the sidecar of an earlier injection, or a stranger of
// its name.
func anyInitContainers(chance *rand.Rand) []corev1.Container {
	sidecar := corev1.Container{
		Name: injector.ContainerName, Image: "mirror.example/sidecar:1", RestartPolicy: new(corev1.ContainerRestartPolicyAlways),
		Env:  []corev1.EnvVar{{Name: "SERVICE_BINDING_ROOT", Value: "/bindings"}},
		Args: pick(chance, nil, []string{"--log-level=debug"}, []string{"--wait-for-stores=20s"}, []string{"--wait-for-stores=20s", "--max-calls=1"}),
	}
	if chance.IntN(4) != 0 {
		sidecar.Env = append(sidecar.Env, corev1.EnvVar{Name: "AETHER_STORES", Value: pick(chance, "orders", "orders,payments")})
	}
	if chance.IntN(4) != 0 {
		sidecar.VolumeMounts = []corev1.VolumeMount{{Name: "aether-binding-0", MountPath: "/bindings/orders"}, {Name: "scratch", MountPath: "/scratch"}}
	}
	stranger := corev1.Container{Name: injector.ContainerName, Image: "stranger"}
	var containers []corev1.Container
	if chance.IntN(3) == 0 {
		containers = append(containers, corev1.Container{Name: "migrate", Image: "app", Env: anyEnv(chance)})
	}
	switch chance.IntN(8) {
	case 0, 1, 2:
		containers = append(containers, sidecar)
	case 3:
		containers = append(containers, stranger)
	}
	if chance.IntN(3) == 0 {
		containers = append(containers, corev1.Container{Name: pick(chance, "mesh", "istio-proxy", "linkerd-proxy"), Image: "mesh", RestartPolicy: new(corev1.ContainerRestartPolicyAlways)})
	}
	if chance.IntN(4) == 0 {
		containers = append([]corev1.Container{{Name: pick(chance, "istio-validation", "linkerd-init"), Image: "mesh"}}, containers...)
	}
	return containers
}

func anyVolumes(chance *rand.Rand) []corev1.Volume {
	secret := func(name string, optional *bool) corev1.VolumeSource {
		return corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: name, Optional: optional}}
	}
	empty := corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}
	var volumes []corev1.Volume
	if chance.IntN(4) == 0 {
		volumes = append(volumes, corev1.Volume{Name: "aether-binding-1", VolumeSource: pick(chance, empty, secret("payments-eventstore", nil))})
	}
	if chance.IntN(3) != 0 {
		volumes = append(volumes, corev1.Volume{Name: "scratch", VolumeSource: empty})
	}
	if chance.IntN(3) != 0 {
		right := secret("orders-eventstore", nil)
		volumes = append(volumes, corev1.Volume{Name: "aether-binding-0", VolumeSource: pick(chance, right, right, right, secret("orders-eventstore", new(true)), empty)})
	}
	return volumes
}
