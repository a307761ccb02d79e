package webhook

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/webhook"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	"git.flowmade.one/flowmade-one/aether-operator/internal/injector"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv"
)

// mesh does to a pod what the injector of a service mesh does.
type mesh func(pod *corev1.Pod)

func (m mesh) Handle(_ context.Context, request admission.Request) admission.Response {
	pod := &corev1.Pod{}
	if err := json.Unmarshal(request.Object.Raw, pod); err != nil {
		return admission.Errored(http.StatusBadRequest, err)
	}
	if isProxied(pod) {
		return admission.Allowed("done")
	}
	m(pod)
	raw, err := json.Marshal(pod)
	if err != nil {
		return admission.Errored(http.StatusInternalServerError, err)
	}
	return admission.PatchResponseFromRaw(request.Object.Raw, raw)
}

func isProxied(pod *corev1.Pod) bool {
	return slices.ContainsFunc(slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers), func(c corev1.Container) bool { return strings.HasSuffix(c.Name, "-proxy") })
}

func meshContainer(name string, native bool) corev1.Container {
	c := corev1.Container{Name: name, Image: "registry.example/" + name + ":1.0"}
	if native {
		c.RestartPolicy = new(corev1.ContainerRestartPolicyAlways)
	}
	return c
}

// istio leads the HTTP probes of all other containers through its agent. As a native
// sidecar the proxy is in front, behind what prepares the network; else that comes
// last of the init containers, or first where a CNI has prepared it, and the proxy is
// an ordinary container.
func istio(native, cni bool) mesh {
	return func(pod *corev1.Pod) {
		for _, containers := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
			for i := range containers {
				rewriteProbes(&containers[i])
			}
		}
		proxy, prepare := meshContainer("istio-proxy", native), meshContainer("istio-init", false)
		if cni {
			prepare = meshContainer("istio-validation", false)
		}
		switch {
		case native:
			pod.Spec.InitContainers = append([]corev1.Container{prepare, proxy}, pod.Spec.InitContainers...)
			return
		case cni:
			pod.Spec.InitContainers = append([]corev1.Container{prepare}, pod.Spec.InitContainers...)
		default:
			pod.Spec.InitContainers = append(pod.Spec.InitContainers, prepare)
		}
		pod.Spec.Containers = append(pod.Spec.Containers, proxy)
	}
}

func rewriteProbes(c *corev1.Container) {
	for path, probe := range map[string]*corev1.Probe{"startupz": c.StartupProbe, "livez": c.LivenessProbe, "readyz": c.ReadinessProbe} {
		if probe != nil && (probe.HTTPGet != nil || probe.TCPSocket != nil || probe.GRPC != nil) {
			probe.ProbeHandler = corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/app-health/" + c.Name + "/" + path, Port: intstr.FromInt32(15020)}}
		}
	}
}

// linkerd adds at the end of the init containers.
func linkerd(native, cni bool) mesh {
	return func(pod *corev1.Pod) {
		prepare := meshContainer("linkerd-init", false)
		if cni {
			prepare = meshContainer("linkerd-network-validator", false)
		}
		pod.Spec.InitContainers = append(pod.Spec.InitContainers, prepare)
		if native {
			pod.Spec.InitContainers = append(pod.Spec.InitContainers, meshContainer("linkerd-proxy", true))
		} else {
			pod.Spec.Containers = append([]corev1.Container{meshContainer("linkerd-proxy", false)}, pod.Spec.Containers...)
		}
	}
}

// TestBesideAMesh creates a pod with an init container of its own, with the webhook of
// a mesh behind ours. The probes of the sidecar are those that no mesh leads elsewhere,
// and where the way to NATS may be closed until a proxy has started, either the proxy is
// first, or its start does not wait for the stores for ever.
func TestBesideAMesh(t *testing.T) {
	const sidecar = injector.ContainerName
	for name, c := range map[string]struct {
		mesh  mesh
		want  string
		waits bool
	}{
		"istio":               {istio(false, false), sidecar + " migrate istio-init", true},
		"istio-cni":           {istio(false, true), "istio-validation " + sidecar + " migrate", true},
		"istio-native":        {istio(true, false), "istio-init istio-proxy " + sidecar + " migrate", false},
		"istio-native-cni":    {istio(true, true), "istio-validation istio-proxy " + sidecar + " migrate", false},
		"linkerd":             {linkerd(false, false), sidecar + " migrate linkerd-init", true},
		"linkerd-cni":         {linkerd(false, true), sidecar + " migrate linkerd-network-validator", true},
		"linkerd-native":      {linkerd(true, false), sidecar + " migrate linkerd-init linkerd-proxy", true},
		"linkerd-native-cni":  {linkerd(true, true), sidecar + " migrate linkerd-network-validator linkerd-proxy", true},
		"istio-before-aether": {nil, "istio-init istio-proxy " + sidecar + " migrate", false},
	} {
		t.Run(name, func(t *testing.T) {
			path := "/" + name
			r := startReplica(t, Options{}, func(server webhook.Server) {
				server.Register(path, &admission.Webhook{Handler: c.mesh})
			})
			install(t, r)
			waitUntilServing(t, r)
			if c.mesh != nil {
				installLate(t, "https://"+r.address+path)
			}
			testenv.Eventually(t, deadline, "the pod in the mesh", func() error {
				pod := labelled(plainNamespace, "orders")
				pod.Spec.InitContainers = []corev1.Container{meshContainer("migrate", false)}
				if c.mesh == nil {
					istio(true, false)(pod)
				}
				if err := kubernetes.Client.Create(t.Context(), pod, client.DryRunAll); err != nil {
					return err
				}
				if !isProxied(pod) {
					return fmt.Errorf("the mesh was not called: %s", namesOf(pod.Spec.InitContainers))
				}
				checkBesideAMesh(t, pod, c.want, c.waits)
				return nil
			})
		})
	}
}

func namesOf(containers []corev1.Container) string {
	var names []string
	for _, c := range containers {
		names = append(names, c.Name)
	}
	return strings.Join(names, " ")
}

func checkBesideAMesh(t *testing.T, pod *corev1.Pod, want string, waits bool) {
	t.Helper()
	if got := namesOf(pod.Spec.InitContainers); got != want {
		t.Errorf("init containers: %s, want %s", got, want)
	}
	sidecar := pod.Spec.InitContainers[indexOfSidecar(pod.Spec.InitContainers)]
	if sidecar.StartupProbe.Exec == nil || sidecar.LivenessProbe.Exec == nil {
		t.Errorf("probes of the sidecar: %+v, %+v", sidecar.StartupProbe, sidecar.LivenessProbe)
	}
	if got := slices.Equal(sidecar.Args, []string{"--wait-for-stores=20s"}); got != waits || !waits && len(sidecar.Args) > 0 {
		t.Errorf("arguments of the sidecar: %q, want a bound of the wait: %t", sidecar.Args, waits)
	}
	for _, c := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
		if c.Name != injector.ContainerName && !slices.ContainsFunc(c.Env, func(v corev1.EnvVar) bool { return v.Name == injector.EnvEndpoint }) {
			t.Errorf("container %s knows no sidecar: %v", c.Name, c.Env)
		}
	}
}
