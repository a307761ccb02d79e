//go:build linux

package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv"
)

const (
	// Address is that of the node, the API server and, in the network of the pods, the
	// gateway: what the tests listen on there, pods reach.
	Address = "10.244.0.1"
	podCIDR = "10.244.0.0/24"
	// serviceCIDR is that of ClusterIPs.
	serviceCIDR = "10.96.0.0/16"
	bridge      = "cni0"
	// nodeName is that of the node.
	nodeName = "node"

	apiServerPort  = "6443"
	containerd     = "/run/containerd/containerd.sock"
	cniPlugins     = "/usr/lib/cni"
	iptablesLegacy = "/usr/sbin/xtables-legacy-multi"

	// token is that of an administrator. All programs of the node are one.
	token = "of-the-administrator"

	// startTimeout is how long a node may take, which is ready after seconds on a machine
	// with nothing else to do.
	startTimeout = 3 * time.Minute
)

// Node is a node that is ready for pods.
type Node struct {
	// Kubernetes has an administrator's Client; it has no envtest environment.
	*testenv.Kubernetes
	// Config is an administrator's too.
	Config *rest.Config
	// Dir is the directory of the node, which goes with it.
	Dir string
	// CgroupRoot is the control group above those of pods.
	CgroupRoot string
}

func newNode(dir string) *Node {
	return &Node{Dir: dir, CgroupRoot: "/" + filepath.Base(dir)}
}

// start starts everything in the namespaces of the process.
func (n *Node) start(ctx context.Context) error {
	if err := os.Setenv("PATH", n.path("bin")+":"+os.Getenv("PATH")); err != nil {
		return err
	}
	if err := n.configure(); err != nil {
		return err
	}
	if err := makeCgroups(n.CgroupRoot); err != nil {
		return err
	}
	if err := setUpNetwork(ctx); err != nil {
		return err
	}
	// What needs the API server comes after it; images are there before the first pod.
	if err := together(
		func() error { return n.startControlPlane(ctx) },
		func() error { return n.startContainerd(ctx) },
	); err != nil {
		return err
	}
	for _, command := range [][]string{n.controllerManager(), n.scheduler(), n.kubelet(), n.proxy()} {
		if err := n.run(command...); err != nil {
			return err
		}
	}
	return n.waitReady(ctx)
}

func together(parts ...func() error) error {
	var group errgroup.Group
	for _, part := range parts {
		group.Go(part)
	}
	return group.Wait()
}

// setUpNetwork makes the bridge that pods are connected to. The default route is
// what programs on the node reach ClusterIPs by.
func setUpNetwork(ctx context.Context) error {
	for _, args := range [][]string{
		{"link", "set", "lo", "up"},
		{"link", "add", bridge, "type", "bridge"},
		{"address", "add", Address + "/24", "dev", bridge},
		{"link", "set", bridge, "up"},
		{"route", "add", "default", "via", Address},
	} {
		if err := output(exec.CommandContext(ctx, "ip", args...)); err != nil {
			return fmt.Errorf("set up the network of the node: %w", err)
		}
	}
	return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o644)
}

// output runs a command, whose output is in its error.
func output(command *exec.Cmd) error {
	if out, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", command, err, out)
	}
	return nil
}

// run starts a program, which ends with the namespaces. Its log is in dir/logs.
func (n *Node) run(args ...string) error {
	log, err := os.Create(filepath.Join(n.Dir, "logs", args[0]))
	if err != nil {
		return err
	}
	command := exec.Command(args[0], args[1:]...)
	command.Stdout, command.Stderr = log, log
	if err := command.Start(); err != nil {
		return fmt.Errorf("start %s: %w", args[0], err)
	}
	return log.Close()
}

func (n *Node) startControlPlane(ctx context.Context) (err error) {
	for _, command := range [][]string{n.etcd(), n.apiServer()} {
		if err := n.run(command...); err != nil {
			return err
		}
	}
	n.Config = &rest.Config{
		Host: "https://" + Address + ":" + apiServerPort, BearerToken: token,
		TLSClientConfig: rest.TLSClientConfig{CAFile: n.caFile()},
		// The API server shares itself out fairly; a limit here would only slow a test.
		QPS: -1,
	}
	return Poll(ctx, "the API server", func() error {
		// Its certificate is there when it is.
		transport, err := rest.HTTPClientFor(n.Config)
		if err != nil {
			return err
		}
		if err := answers(ctx, transport, n.Config.Host+"/readyz"); err != nil {
			return err
		}
		c, err := client.New(n.Config, client.Options{Scheme: testenv.Scheme()})
		n.Kubernetes = &testenv.Kubernetes{Client: c}
		return err
	})
}

func answers(ctx context.Context, c *http.Client, url string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	answer, err := c.Do(request)
	if err != nil {
		return err
	}
	defer func() { _ = answer.Body.Close() }()
	if answer.StatusCode != http.StatusOK {
		return errors.New(answer.Status)
	}
	return nil
}

func (n *Node) startContainerd(ctx context.Context) error {
	if err := n.run("containerd", "--config", n.path("containerd.toml")); err != nil {
		return err
	}
	err := Poll(ctx, "containerd", func() error {
		return output(exec.CommandContext(ctx, "ctr", "version"))
	})
	if err != nil {
		return err
	}
	for _, image := range images {
		if err := n.importImage(ctx, image); err != nil {
			return err
		}
	}
	return nil
}

// waitReady returns when pods can run: the scheduler takes the node, and there is the
// service account that each pod has.
func (n *Node) waitReady(ctx context.Context) error {
	return Poll(ctx, "the node to be ready", func() error {
		var node corev1.Node
		if err := n.Client.Get(ctx, client.ObjectKey{Name: nodeName}, &node); err != nil {
			return err
		}
		for _, condition := range node.Status.Conditions {
			if condition.Type == corev1.NodeReady && condition.Status != corev1.ConditionTrue {
				return errors.New(condition.Message)
			}
		}
		if len(node.Spec.Taints) > 0 {
			return fmt.Errorf("it has taints: %v", node.Spec.Taints)
		}
		return n.Client.Get(ctx, client.ObjectKey{Namespace: "default", Name: "default"}, &corev1.ServiceAccount{})
	})
}

// Poll tries until it succeeds or the context ends, whose error then has that of the
// last try with it.
func Poll(ctx context.Context, what string, try func() error) error {
	for {
		err := try()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w: %w", what, ctx.Err(), err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// showLogs prints the end of what each program wrote.
func (n *Node) showLogs(out io.Writer) {
	logs, err := filepath.Glob(filepath.Join(n.Dir, "logs", "*"))
	if err != nil {
		// The pattern is a good one.
		panic(err)
	}
	for _, path := range logs {
		const end = 3000
		log, err := os.ReadFile(path)
		if err == nil {
			_, _ = fmt.Fprintf(out, "\nThe end of the log of %s:\n%s\n", filepath.Base(path), log[max(0, len(log)-end):])
		}
	}
}
