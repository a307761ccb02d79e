package injector

import (
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
)

const (
	// ContainerName is the name of the sidecar's container.
	ContainerName = "aether-sidecar"

	// envBindingRoot is what the Service Binding specification calls the folder
	// with one folder for each binding.
	envBindingRoot = "SERVICE_BINDING_ROOT"
	bindingRoot    = "/bindings"
	// bindingVolume and an index name a volume: always a DNS label of less than
	// 63 characters, which a store's name behind a prefix is not.
	bindingVolume = "aether-binding-"

	// tokenVolume holds a token of the pod's service account, which proves to NATS who
	// the pod is where its class wants that. Which class that is may not be known
	// yet, so every sidecar has it.
	tokenVolume = "aether-token"
	tokenDir    = "/var/run/secrets/aether.flowmade.one"
	tokenFile   = "token"
	// envTokenFile tells the sidecar where it is.
	envTokenFile = "AETHER_TOKEN_FILE"
	// tokenSeconds is how long a token holds; the kubelet replaces it at 80 % of that.
	// Shorter would end more connections, and 600 is the least that Kubernetes allows.
	tokenSeconds = int64(3600)

	// tokenPath is where ServiceAccount admission mounts a token.
	tokenPath = "/var/run/secrets/kubernetes.io/serviceaccount"

	// nonRoot is the user of the distroless image.
	nonRoot = int64(65532)
)

// newSidecar is the container as Aether makes it. imagePullPolicy is left to
// the API server, which knows what :latest means.
func (r *request) newSidecar() *corev1.Container {
	return &corev1.Container{
		Name:  ContainerName,
		Image: r.image,
		Args:  r.arguments(),
		Env: append([]corev1.EnvVar{
			{Name: envBindingRoot, Value: bindingRoot},
			{Name: EnvStores, Value: r.storesValue()},
			{Name: envTokenFile, Value: tokenDir + "/" + tokenFile},
		}, r.env...),
		Ports:         []corev1.ContainerPort{{Name: "aether-health", ContainerPort: healthPort, Protocol: corev1.ProtocolTCP}},
		Resources:     r.resources,
		VolumeMounts:  append(r.bindingMounts(), tokenMount()),
		RestartPolicy: new(corev1.ContainerRestartPolicyAlways),
		// The pod waits for it. Each try asks for eight seconds. Five minutes until a
		// restart: the sidecar keeps trying to reach NATS by itself, and a restart
		// would only add the kubelet's growing pauses.
		StartupProbe: probe("startup", 1, 10, 30),
		// A minute without an answer is a process that hangs. There is no
		// readinessProbe, which would count for the whole pod: NATS out of reach
		// would take every application out of its Service at once, also for calls
		// that need no events. The API answers "unavailable" instead.
		LivenessProbe:            probe("liveness", 20, 5, 3),
		TerminationMessagePolicy: corev1.TerminationMessageFallbackToLogsOnError,
		SecurityContext:          r.securityContext(),
	}
}

// refreshedSidecar is the sidecar of an earlier injection with the stores of
// today. What else is in it stays: other webhooks had their reasons. Only a
// token of Kubernetes goes, which admission mounts into every container when it
// runs again after us: the sidecar has no use for it.
func (r *request) refreshedSidecar() *corev1.Container {
	sidecar := r.existing.DeepCopy()
	sidecar.Args = r.withWait(sidecar.Args)
	for _, ours := range []corev1.EnvVar{{Name: EnvStores, Value: r.storesValue()}, {Name: envTokenFile, Value: tokenDir + "/" + tokenFile}} {
		if index := slices.IndexFunc(sidecar.Env, func(v corev1.EnvVar) bool { return v.Name == ours.Name }); index < 0 {
			sidecar.Env = append(sidecar.Env, ours)
		} else {
			sidecar.Env[index] = ours
		}
	}
	others := slices.DeleteFunc(sidecar.VolumeMounts, func(m corev1.VolumeMount) bool {
		return isBindingMount(m) || m.MountPath == tokenPath || m.MountPath == tokenDir
	})
	sidecar.VolumeMounts = append(append(r.bindingMounts(), tokenMount()), others...)
	return sidecar
}

// program is the sidecar in its image.
const program = "/aether-sidecar"

// probe runs the program in the container, which asks the sidecar. A mesh leads HTTP
// probes to its proxy, which may start later than the sidecar, and lets none past it.
func probe(kind string, period, timeout, failures int32) *corev1.Probe {
	return &corev1.Probe{
		ProbeHandler:  corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{program, "--probe=" + kind}}},
		PeriodSeconds: period, FailureThreshold: failures, TimeoutSeconds: timeout, SuccessThreshold: 1,
	}
}

// tokenMount is in the sidecar alone: the application cannot be taken for it.
func tokenMount() corev1.VolumeMount {
	return corev1.VolumeMount{Name: tokenVolume, MountPath: tokenDir, ReadOnly: true}
}

// sidecarVolumes are the volumes of the sidecar.
func (r *request) sidecarVolumes() []corev1.Volume {
	token := corev1.ServiceAccountTokenProjection{Audience: v1alpha1.TokenAudience, ExpirationSeconds: new(tokenSeconds), Path: tokenFile}
	return append(r.bindingVolumes(), corev1.Volume{Name: tokenVolume, VolumeSource: corev1.VolumeSource{
		Projected: &corev1.ProjectedVolumeSource{
			Sources:     []corev1.VolumeProjection{{ServiceAccountToken: &token}},
			DefaultMode: new(corev1.ProjectedVolumeSourceDefaultMode),
		},
	}})
}

// bindingVolumes are those of the bindings, one for each store. They are not
// optional: a kubelet starts the pod when the Secret is there.
func (r *request) bindingVolumes() []corev1.Volume {
	var volumes []corev1.Volume
	for i, store := range r.stores {
		volumes = append(volumes, corev1.Volume{
			Name: bindingVolume + strconv.Itoa(i),
			VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{
				SecretName: v1alpha1.BindingName(store),
				// What the API server sets by itself; the sidecar's user is not the owner.
				DefaultMode: new(corev1.SecretVolumeSourceDefaultMode),
			}},
		})
	}
	return volumes
}

// bindingMounts are in the sidecar alone: credentials never reach the
// application's containers.
func (r *request) bindingMounts() []corev1.VolumeMount {
	var mounts []corev1.VolumeMount
	for i, store := range r.stores {
		mounts = append(mounts, corev1.VolumeMount{
			Name: bindingVolume + strconv.Itoa(i), MountPath: bindingRoot + "/" + store, ReadOnly: true,
		})
	}
	return mounts
}

// volumes are those of the pod with those of the sidecar, without what an
// earlier injection added for other stores.
func (r *request) volumes() []corev1.Volume {
	want := r.sidecarVolumes()
	isWanted := func(v corev1.Volume) bool {
		return slices.ContainsFunc(want, func(w corev1.Volume) bool { return w.Name == v.Name })
	}
	var volumes []corev1.Volume
	for _, volume := range r.pod.Spec.Volumes {
		if !isWanted(volume) && !r.isPreviousBinding(volume.Name) {
			volumes = append(volumes, *volume.DeepCopy())
		}
	}
	return append(volumes, want...)
}

// isPreviousBinding says whether an earlier injection added the volume.
func (r *request) isPreviousBinding(name string) bool { return r.previousBindings[name] }

// bindingsOf are the names of the volumes that a sidecar mounts for its stores.
func bindingsOf(sidecar *corev1.Container) map[string]bool {
	names := map[string]bool{}
	for _, mount := range sidecar.VolumeMounts {
		if strings.HasPrefix(mount.Name, bindingVolume) && isBindingMount(mount) {
			names[mount.Name] = true
		}
	}
	return names
}

func isBindingMount(m corev1.VolumeMount) bool {
	return strings.HasPrefix(m.MountPath, bindingRoot+"/")
}
