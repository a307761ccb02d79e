package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
)

const (
	// sidecarContainer is the name that the injector gives it.
	sidecarContainer = "aether-sidecar"
	apiAddress       = "127.0.0.1:4280"
	healthAddress    = ":4281"
)

// runningPod is an admitted pod whose sidecar runs.
type runningPod struct {
	sidecar  *program
	endpoint string
	health   string
}

// startPod reads back the pod of the samples and does for its sidecar what a
// kubelet does: it lays out the volumes and runs the container's command.
func (d *demo) startPod(ctx context.Context) error {
	pod, err := d.labelledPod(ctx)
	if err != nil {
		return err
	}
	index := slices.IndexFunc(pod.Spec.InitContainers, func(c corev1.Container) bool { return c.Name == sidecarContainer })
	if index < 0 {
		return fmt.Errorf("pod %s/%s was admitted without a sidecar: init containers %v", pod.Namespace, pod.Name, pod.Spec.InitContainers)
	}
	container := &pod.Spec.InitContainers[index]
	d.showSidecar(pod, container)

	d.pod = &runningPod{endpoint: "http://" + apiAddress, health: "http://127.0.0.1" + healthAddress}
	d.pod.sidecar = &program{
		name: "sidecar", path: filepath.Join(d.system.dir, "bin", "sidecar"), log: filepath.Join(d.system.dir, "sidecar.log"),
		args: container.Args,
	}
	if d.pod.sidecar.env, err = d.mountAndExpand(ctx, pod, container); err != nil {
		return err
	}
	if err := d.pod.avoidTakenPorts(d); err != nil {
		return err
	}
	if err := d.pod.sidecar.start(); err != nil {
		return err
	}
	if err := waitForOK(ctx, "the sidecar", d.pod.health+"/readyz"); err != nil {
		return err
	}
	d.app = newApplication(d.pod.endpoint)
	return nil
}

func (d *demo) labelledPod(ctx context.Context) (*corev1.Pod, error) {
	var pods corev1.PodList
	if err := d.system.kubernetes.Client.List(ctx, &pods, client.HasLabels{v1alpha1.LabelEventStore}); err != nil {
		return nil, err
	}
	if len(pods.Items) == 0 {
		return nil, fmt.Errorf("config/samples has no pod with the label %s", v1alpha1.LabelEventStore)
	}
	return &pods.Items[0], nil
}

func (d *demo) showSidecar(pod *corev1.Pod, container *corev1.Container) {
	d.show("pod %s/%s, init container %s:", pod.Namespace, pod.Name, container.Name)
	d.show("  image         %s", container.Image)
	d.show("  restartPolicy %s", *container.RestartPolicy)
	for _, variable := range container.Env {
		d.show("  env           %s=%s", variable.Name, variable.Value)
	}
	for _, mount := range container.VolumeMounts {
		d.show("  mount         %s", mount.MountPath)
	}
}

// mountAndExpand writes the Secrets that the container mounts to files, and
// returns its environment with the paths of the mounts replaced by theirs.
func (d *demo) mountAndExpand(ctx context.Context, pod *corev1.Pod, container *corev1.Container) ([]string, error) {
	rootfs := filepath.Join(d.system.dir, "pod", pod.Namespace, pod.Name)
	replace := map[string]string{}
	for _, mount := range container.VolumeMounts {
		index := slices.IndexFunc(pod.Spec.Volumes, func(v corev1.Volume) bool { return v.Name == mount.Name })
		if index >= 0 && pod.Spec.Volumes[index].Projected != nil {
			// The token of the service account: the class of the demo asks for none.
			continue
		}
		if index < 0 || pod.Spec.Volumes[index].Secret == nil {
			return nil, fmt.Errorf("volume %s of the sidecar is no Secret", mount.Name)
		}
		key := client.ObjectKey{Namespace: pod.Namespace, Name: pod.Spec.Volumes[index].Secret.SecretName}
		target := filepath.Join(rootfs, mount.MountPath)
		if err := d.writeSecret(ctx, key, target); err != nil {
			return nil, err
		}
		replace[filepath.Dir(mount.MountPath)] = filepath.Dir(target)
	}
	var env []string
	for _, variable := range container.Env {
		value := variable.Value
		if path, mounted := replace[value]; mounted {
			value = path
		}
		env = append(env, variable.Name+"="+value)
	}
	return env, nil
}

func (d *demo) writeSecret(ctx context.Context, key client.ObjectKey, dir string) error {
	var secret corev1.Secret
	// A pod starts when its binding is there.
	err := eventually(ctx, time.Minute, "Secret "+key.String(), func(ctx context.Context) error {
		return d.system.kubernetes.Client.Get(ctx, key, &secret)
	})
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for name, value := range secret.Data {
		if err := os.WriteFile(filepath.Join(dir, name), value, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// avoidTakenPorts moves the sidecar when something else on this machine has its
// ports, which in a pod are its own.
func (p *runningPod) avoidTakenPorts(d *demo) error {
	if isFree(apiAddress) && isFree(healthAddress) {
		return nil
	}
	api, err := freePort()
	if err != nil {
		return err
	}
	health, err := freePort()
	if err != nil {
		return err
	}
	d.show("ports %s and %s are taken on this machine: %d and %d instead", apiAddress, strings.TrimPrefix(healthAddress, ":"), api, health)
	p.sidecar.args = append(slices.Clone(p.sidecar.args),
		fmt.Sprintf("--listen=127.0.0.1:%d", api), fmt.Sprintf("--health-listen=127.0.0.1:%d", health))
	p.endpoint, p.health = fmt.Sprintf("http://127.0.0.1:%d", api), fmt.Sprintf("http://127.0.0.1:%d", health)
	return nil
}
