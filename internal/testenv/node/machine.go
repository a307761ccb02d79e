//go:build linux

package node

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv"
)

// sysctls are those that the kubelet sets and no namespace keeps to itself.
var sysctls = []string{
	"vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops", "kernel/keys/root_maxkeys", "kernel/keys/root_maxbytes",
}

// keepSysctls reads them, and returns what sets them back.
func keepSysctls() (restore func() error, err error) {
	values := map[string][]byte{}
	for _, name := range sysctls {
		path := filepath.Join("/proc/sys", name)
		if values[path], err = os.ReadFile(path); err != nil {
			return nil, fmt.Errorf("read what the kubelet changes: %w", err)
		}
	}
	return func() error {
		var errs []error
		for path, value := range values {
			errs = append(errs, os.WriteFile(path, value, 0o644))
		}
		return errors.Join(errs...)
	}, nil
}

// cgroups is where the control groups are: one tree, or with version 1 a tree for
// each controller.
const cgroups = "/sys/fs/cgroup"

func cgroupTrees() ([]string, error) {
	if _, err := os.Stat(filepath.Join(cgroups, "cgroup.controllers")); err == nil {
		return []string{cgroups}, nil
	}
	return filepath.Glob(filepath.Join(cgroups, "*"))
}

// makeCgroups makes the control group that all pods are in.
func makeCgroups(name string) error {
	trees, err := cgroupTrees()
	if err != nil {
		return err
	}
	for _, tree := range trees {
		if err := os.Mkdir(filepath.Join(tree, name), 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("make the control group of the node: %w", err)
		}
	}
	return nil
}

// removeCgroups removes what is left of it when its processes have ended: empty
// directories, the inner ones first.
func removeCgroups(name string) error {
	trees, err := cgroupTrees()
	if err != nil {
		return err
	}
	var dirs []string
	for _, tree := range trees {
		err := filepath.WalkDir(filepath.Join(tree, name), func(path string, entry fs.DirEntry, err error) error {
			if err == nil && entry.IsDir() {
				dirs = append(dirs, path)
			}
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	var errs []error
	for _, dir := range slices.Backward(dirs) {
		errs = append(errs, os.Remove(dir))
	}
	return errors.Join(errs...)
}

// build makes everything that the node runs, in dir/bin: the programs of Kubernetes
// as links, and those of this repository.
func build(dir string) error {
	root, err := testenv.Root()
	if err != nil {
		return err
	}
	bin := filepath.Join(dir, "bin")
	if err := os.Mkdir(bin, 0o755); err != nil {
		return err
	}
	assets, err := testenv.Assets(root)
	if err != nil {
		return err
	}
	nodeAssets, err := testenv.NodeAssets(root)
	if err != nil {
		return err
	}
	links := map[string]string{"kube-apiserver": assets, "etcd": assets}
	for _, name := range []string{"kubelet", "kube-controller-manager", "kube-scheduler", "kube-proxy"} {
		links[name] = nodeAssets
	}
	for name, folder := range links {
		if err := os.Symlink(filepath.Join(folder, name), filepath.Join(bin, name)); err != nil {
			return err
		}
	}
	// The kernel may have no nf_tables, which iptables of Debian uses by default.
	for _, name := range []string{"iptables", "iptables-save", "iptables-restore", "ip6tables", "ip6tables-save", "ip6tables-restore"} {
		if err := os.Symlink(iptablesLegacy, filepath.Join(bin, name)); err != nil {
			return err
		}
	}
	// As Dockerfile builds them.
	command := exec.Command("go", "build", "-trimpath", "-tags", "grpcnotrace", "-ldflags", "-s -w", "-o", bin+"/", "./cmd/...", "./internal/testenv/node/application")
	command.Dir, command.Env = root, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", strings.Join(command.Args, " "), err, out)
	}
	return nil
}
