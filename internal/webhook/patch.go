package webhook

import (
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"

	"git.flowmade.one/flowmade-one/aether-operator/internal/injector"
)

// patch is a JSON patch of what injection does to a pod. It names what is added and
// moved, and nothing else: the API server may be newer and know fields that our Pod
// does not, which stay where they are. It takes time in proportion to the pod.
type patch struct{ operations []operation }

// operation is one step of a JSON patch, after RFC 6902.
type operation struct {
	Op    string `json:"op"`
	Path  string `json:"path"`
	From  string `json:"from,omitempty"`
	Value any    `json:"value,omitempty"`
}

// patchOf is the way from a pod to the pod that Inject made of it: variables in front
// of those of a container, the sidecar, and volumes at the end.
func patchOf(before, after *corev1.Pod) []operation {
	p := &patch{}
	for i := range before.Spec.Containers {
		p.environment(at("/spec/containers", i), before.Spec.Containers[i].Env, after.Spec.Containers[i].Env)
	}
	p.initContainers(before.Spec.InitContainers, after.Spec.InitContainers)
	p.volumes(before.Spec.Volumes, after.Spec.Volumes)
	return p.operations
}

func at(path string, index int) string { return path + "/" + strconv.Itoa(index) }

func (p *patch) add(path string, value any) {
	p.operations = append(p.operations, operation{Op: "add", Path: path, Value: value})
}

func (p *patch) replace(path string, value any) {
	p.operations = append(p.operations, operation{Op: "replace", Path: path, Value: value})
}

func (p *patch) remove(path string) {
	p.operations = append(p.operations, operation{Op: "remove", Path: path})
}

// environment changes values in their places, and adds variables in front.
func (p *patch) environment(container string, before, after []corev1.EnvVar) {
	if len(before) == 0 {
		if len(after) > 0 {
			p.add(container+"/env", after)
		}
		return
	}
	added := len(after) - len(before)
	for i := range before {
		if !equality.Semantic.DeepEqual(before[i], after[added+i]) {
			p.replace(at(container+"/env", i), after[added+i])
		}
	}
	for i := range added {
		p.add(at(container+"/env", i), after[i])
	}
}

// initContainers puts the sidecar into its place among containers that keep their
// order. Of several by its name one is left.
func (p *patch) initContainers(before, after []corev1.Container) {
	const path = "/spec/initContainers"
	to, from := indexOfSidecar(after), -1
	others, sidecar := 0, after[to]
	var surplus []int
	for i := range before {
		switch {
		case before[i].Name != injector.ContainerName:
			if others == to {
				others++
			}
			p.environment(at(path, i), before[i].Env, after[others].Env)
			others++
		case from < 0 && injector.IsSidecar(&before[i]):
			from = i
			p.sidecar(at(path, i), &before[i], &sidecar)
		default:
			surplus = append(surplus, i)
		}
	}
	for i := len(surplus) - 1; i >= 0; i-- {
		p.remove(at(path, surplus[i]))
		if surplus[i] < from {
			from--
		}
	}
	switch {
	case len(before) == 0:
		p.add(path, []corev1.Container{sidecar})
	case from < 0:
		p.add(at(path, to), sidecar)
	case from != to:
		p.operations = append(p.operations, operation{Op: "move", From: at(path, from), Path: at(path, to)})
	}
}

func indexOfSidecar(containers []corev1.Container) int {
	for i := range containers {
		if containers[i].Name == injector.ContainerName {
			return i
		}
	}
	return -1
}

// sidecar changes what an injection changes in the sidecar of an earlier one.
func (p *patch) sidecar(path string, before, after *corev1.Container) {
	if !equality.Semantic.DeepEqual(before.Args, after.Args) {
		if len(after.Args) == 0 {
			p.remove(path + "/args")
		} else {
			p.add(path+"/args", after.Args)
		}
	}
	if len(before.Env) == 0 {
		p.add(path+"/env", after.Env)
	} else {
		for i := range after.Env {
			if i >= len(before.Env) {
				p.add(path+"/env/-", after.Env[i])
			} else if !equality.Semantic.DeepEqual(before.Env[i], after.Env[i]) {
				p.replace(at(path+"/env", i), after.Env[i])
			}
		}
	}
	p.mounts(path+"/volumeMounts", before.VolumeMounts, after.VolumeMounts)
}

// mounts keeps the last ones, which are those of others, and puts ours in front.
func (p *patch) mounts(path string, before, after []corev1.VolumeMount) {
	if len(before) == 0 {
		p.add(path, after)
		return
	}
	last := len(after) - 1
	for i := len(before) - 1; i >= 0; i-- {
		if last >= 0 && equality.Semantic.DeepEqual(before[i], after[last]) {
			last--
		} else {
			p.remove(at(path, i))
		}
	}
	for i := range last + 1 {
		p.add(at(path, i), after[i])
	}
}

// volumes keeps the first ones, and adds ours behind them.
func (p *patch) volumes(before, after []corev1.Volume) {
	const path = "/spec/volumes"
	if len(before) == 0 {
		p.add(path, after)
		return
	}
	kept, removed := 0, 0
	for i := range before {
		if kept < len(after) && equality.Semantic.DeepEqual(before[i], after[kept]) {
			kept++
		} else {
			p.remove(at(path, i-removed))
			removed++
		}
	}
	for _, volume := range after[kept:] {
		p.add(path+"/-", volume)
	}
}
