// Package injector turns a pod that asks for event stores into a pod with the
// sidecar that serves them. It is pure: a pod goes in, a pod comes out, and
// nothing is called. Package webhook puts it behind admission.
package injector

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
)

// Environment variables that applications read.
const (
	// EnvEndpoint is the URL of the sidecar's API.
	EnvEndpoint = "AETHER_ENDPOINT"
	// EnvStores are the stores that the sidecar serves, separated by commas; the
	// first is the default. The sidecar reads it as well.
	EnvStores = "AETHER_STORES"
)

// Endpoint is the URL of the sidecar's API inside of a pod.
const Endpoint = "http://127.0.0.1:4280"

// apiPort and healthPort are fixed, so that every client finds the sidecar.
const (
	apiPort    = 4280
	healthPort = 4281
)

// Config is what the sidecar is made of beside the pod.
type Config struct {
	// Image is the image of the sidecar where neither the pod nor its class names one.
	Image string
	// Class is the class of the pod's default store, nil where it is not known.
	Class *v1alpha1.EventStoreClass
	// LimitRanges are those of the pod's namespace.
	LimitRanges []corev1.LimitRange
}

// Outcome is what becomes of a pod.
type Outcome string

const (
	// Injected: the pod has the sidecar.
	Injected Outcome = "injected"
	// Skipped: the pod stays as it is.
	Skipped Outcome = "skipped"
	// Refused: the pod must not be created as it is.
	Refused Outcome = "refused"
)

// Result is a pod after injection.
type Result struct {
	// Outcome is Injected or Skipped.
	Outcome Outcome
	// Reason says why the pod was skipped; empty otherwise.
	Reason string
	// Pod is a changed copy of the pod, or the pod itself where it was skipped.
	Pod *corev1.Pod
	// Stores are the stores that the sidecar serves, the default first.
	Stores []string
	// Warnings are for the person who creates the pod.
	Warnings []string
}

// RefusedError says why a pod cannot be injected. Its message names the key or
// field to change.
type RefusedError struct {
	// Reason is the message.
	Reason string
}

func (e *RefusedError) Error() string { return e.Reason }

// Inject adds the sidecar to a pod that asks for it. The pod that is passed in
// is not changed. Injecting the result again gives the same pod, so that the
// API server may call again after other webhooks, whose containers are then
// served too.
//
// The error is a *RefusedError.
func Inject(pod *corev1.Pod, config Config) (*Result, error) {
	r := &request{pod: pod, config: config}
	row, reason := r.decide()
	switch row.Outcome {
	case Skipped:
		return &Result{Outcome: Skipped, Reason: reason, Pod: pod}, nil
	case Refused:
		return nil, &RefusedError{Reason: reason}
	}
	return &Result{Outcome: Injected, Pod: r.inject(), Stores: r.stores, Warnings: r.warnings()}, nil
}

// inject changes a copy of the pod.
func (r *request) inject() *corev1.Pod {
	pod := r.pod.DeepCopy()
	sidecar := r.newSidecar()
	var previous string
	if r.existing != nil {
		previous = literal(r.existing.Env, EnvStores)
		sidecar = r.refreshedSidecar()
	}
	pod.Spec.Volumes = r.volumes()

	others := slices.DeleteFunc(pod.Spec.InitContainers, isNamedSidecar)
	for _, containers := range [][]corev1.Container{others, pod.Spec.Containers} {
		for i := range containers {
			containers[i].Env = r.applicationEnv(containers[i].Env, previous)
		}
	}
	pod.Spec.InitContainers = slices.Insert(others, r.place(), *sidecar)
	return pod
}

// applicationEnv adds the variables of the application, unless it sets them
// itself. They come first, since only later variables can refer to them.
// AETHER_STORES with the value of an earlier injection is ours and follows the
// label.
func (r *request) applicationEnv(env []corev1.EnvVar, previous string) []corev1.EnvVar {
	var ours []corev1.EnvVar
	for _, variable := range []corev1.EnvVar{
		{Name: EnvEndpoint, Value: Endpoint},
		{Name: EnvStores, Value: r.storesValue()},
	} {
		index := slices.IndexFunc(env, func(v corev1.EnvVar) bool { return v.Name == variable.Name })
		switch {
		case index < 0:
			ours = append(ours, variable)
		case variable.Name == EnvStores && env[index].ValueFrom == nil && previous != "" && env[index].Value == previous:
			env[index].Value = variable.Value
		}
	}
	return append(ours, env...)
}

func (r *request) storesValue() string { return strings.Join(r.stores, ",") }

// warnings tells of what is allowed and will probably not work.
func (r *request) warnings() []string {
	var warnings []string
	for _, container := range slices.Concat(r.pod.Spec.InitContainers, r.pod.Spec.Containers) {
		if isNamedSidecar(container) {
			continue
		}
		for _, port := range container.Ports {
			if port.Protocol != "" && port.Protocol != corev1.ProtocolTCP {
				continue
			}
			if port.ContainerPort == apiPort || port.ContainerPort == healthPort {
				warnings = append(warnings, fmt.Sprintf(
					"container %s declares port %d, on which the event store sidecar of this pod listens: let it listen on another", container.Name, port.ContainerPort))
			}
		}
	}
	return warnings
}

// literal is the value of a variable that is given as such, else empty.
func literal(env []corev1.EnvVar, name string) string {
	for _, variable := range env {
		if variable.Name == name && variable.ValueFrom == nil {
			return variable.Value
		}
	}
	return ""
}

func isNamedSidecar(c corev1.Container) bool { return c.Name == ContainerName }
