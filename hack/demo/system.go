package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv/natsserver"
)

const (
	operatorNamespace = "aether-system"
	operatorAccount   = "aether-operator"
)

// system is everything that runs: Kubernetes, NATS and the operator.
type system struct {
	out        io.Writer
	root       string
	dir        string
	kubernetes *testenv.Kubernetes
	nats       *natsserver.Cluster
	operator   *program
	kubeconfig string

	webhookPort int
}

func (s *system) say(format string, args ...any) {
	_, _ = fmt.Fprintf(s.out, "    "+format+"\n", args...)
}

func (s *system) build(ctx context.Context) (err error) {
	if s.root, err = testenv.Root(); err != nil {
		return err
	}
	if s.dir, err = os.MkdirTemp("", "aether-demo-"); err != nil {
		return err
	}
	assets, err := testenv.Assets(s.root)
	if err != nil {
		return err
	}
	s.say("kube-apiserver and etcd: %s", assets)
	build := exec.CommandContext(ctx, "go", "build", "-o", s.dir+"/bin/", "./cmd/...")
	build.Dir = s.root
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", build, err, out)
	}
	s.say("operator and sidecar: %s/bin", s.dir)
	return nil
}

func (s *system) startKubernetes(context.Context) (err error) {
	if s.kubernetes, err = testenv.Start(testenv.WithoutCRDs()); err != nil {
		return err
	}
	admin, err := s.kubernetes.ControlPlane.AddUser(envtest.User{Name: "admin", Groups: []string{"system:masters"}}, nil)
	if err != nil {
		return fmt.Errorf("make an administrator: %w", err)
	}
	s.kubeconfig = filepath.Join(s.dir, "kubeconfig")
	return writeKubeconfig(s.kubeconfig, admin)
}

func writeKubeconfig(path string, user *envtest.AuthenticatedUser) error {
	kubeconfig, err := user.KubeConfig()
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return os.WriteFile(path, kubeconfig, 0o600)
}

func (s *system) startNATS(context.Context) (err error) {
	s.nats, err = natsserver.Start(filepath.Join(s.dir, "nats"), 3)
	if err == nil {
		s.say("%s", s.nats.URL())
	}
	return err
}

// install applies config/default as kubectl apply -k does. Only the address of
// the webhook differs: the operator does not run behind its Service here.
func (s *system) install(ctx context.Context) (err error) {
	if s.webhookPort, err = freePort(); err != nil {
		return err
	}
	applied, err := s.apply(ctx, "config/default", func(object *unstructured.Unstructured) error {
		if object.GetKind() != "MutatingWebhookConfiguration" {
			return nil
		}
		return s.pointAtOperator(object)
	})
	s.say("%d objects applied", applied)
	return err
}

func (s *system) pointAtOperator(configuration *unstructured.Unstructured) error {
	webhooks, _, err := unstructured.NestedSlice(configuration.Object, "webhooks")
	if err != nil {
		return err
	}
	for _, webhook := range webhooks {
		// The operator writes the path.
		webhook.(map[string]any)["clientConfig"] = map[string]any{"url": fmt.Sprintf("https://127.0.0.1:%d", s.webhookPort)}
	}
	return unstructured.SetNestedSlice(configuration.Object, webhooks, "webhooks")
}

// apply renders a kustomization and applies every object of it, each changed
// by edit first. It returns how many there were.
func (s *system) apply(ctx context.Context, path string, edit func(*unstructured.Unstructured) error) (int, error) {
	objects, err := testenv.Render(path)
	if err != nil {
		return 0, err
	}
	for _, object := range objects {
		if err := edit(object); err != nil {
			return 0, fmt.Errorf("adapt %s %s: %w", object.GetKind(), object.GetName(), err)
		}
		// A kind that was just installed takes a moment to be served.
		err = eventually(ctx, 30*time.Second, fmt.Sprintf("%s %s to be applied", object.GetKind(), object.GetName()), func(ctx context.Context) error {
			return s.kubernetes.Apply(ctx, object)
		})
		if err != nil {
			return 0, err
		}
	}
	return len(objects), nil
}

// startOperator runs the operator as the ServiceAccount that config/rbac
// gives its rights to, and no more.
func (s *system) startOperator(ctx context.Context) error {
	account, err := s.kubernetes.ControlPlane.AddUser(envtest.User{
		Name:   "system:serviceaccount:" + operatorNamespace + ":" + operatorAccount,
		Groups: []string{"system:serviceaccounts", "system:serviceaccounts:" + operatorNamespace, "system:authenticated"},
	}, nil)
	if err != nil {
		return fmt.Errorf("make the operator's account: %w", err)
	}
	kubeconfig := filepath.Join(s.dir, "kubeconfig-operator")
	if err := writeKubeconfig(kubeconfig, account); err != nil {
		return err
	}
	healthPort, err := freePort()
	if err != nil {
		return err
	}
	s.operator = &program{
		name: "operator", path: filepath.Join(s.dir, "bin", "operator"), log: filepath.Join(s.dir, "operator.log"),
		args: []string{
			"--kubeconfig", kubeconfig,
			"--webhook-port", strconv.Itoa(s.webhookPort),
			"--health-probe-bind-address", fmt.Sprintf("127.0.0.1:%d", healthPort),
			"--metrics-bind-address", "0",
		},
		env: append(os.Environ(), "POD_NAMESPACE="+operatorNamespace),
	}
	if err := s.operator.start(); err != nil {
		return err
	}
	return waitForOK(ctx, "the operator", fmt.Sprintf("http://127.0.0.1:%d/readyz", healthPort))
}

// showLogs prints the end of what the programs wrote.
func (s *system) showLogs(pod *runningPod) {
	programs := []*program{s.operator}
	if pod != nil {
		programs = append(programs, pod.sidecar)
	}
	for _, p := range programs {
		if p == nil {
			continue
		}
		log, err := os.ReadFile(p.log)
		if err != nil {
			continue
		}
		const end = 4000
		_, _ = fmt.Fprintf(s.out, "\nThe end of the log of the %s:\n%s\n", p.name, log[max(0, len(log)-end):])
	}
}

// close ends everything: the operator before the API server, which waits for
// open watches.
func (s *system) close() error {
	if s.operator != nil {
		s.operator.stop()
	}
	if s.nats != nil {
		s.nats.Stop()
	}
	var err error
	if s.kubernetes != nil {
		err = s.kubernetes.Stop()
	}
	if s.dir != "" {
		err = errors.Join(err, os.RemoveAll(s.dir))
	}
	return err
}
