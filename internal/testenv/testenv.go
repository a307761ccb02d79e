// Package testenv runs a real API server and etcd for tests and the demo, with
// the CRDs of this repository installed. Package natsserver below it does the
// same for NATS.
package testenv

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
)

// Kubernetes is a running API server with its etcd.
type Kubernetes struct {
	// Environment is the envtest environment; its Config is that of an
	// administrator.
	*envtest.Environment
	// Client is an administrator's client that knows the kinds of Kubernetes and
	// of Aether.
	Client client.Client
}

// Scheme knows the kinds of Kubernetes and of Aether.
func Scheme() *runtime.Scheme {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(scheme); err != nil {
			// Only kinds of one name and two types can fail here: a mistake in the code.
			panic(err)
		}
	}
	return scheme
}

// Option changes the environment before it starts.
type Option func(*envtest.Environment)

// WithoutCRDs leaves the installation of the CRDs to the caller.
func WithoutCRDs() Option {
	return func(e *envtest.Environment) { e.CRDDirectoryPaths = nil }
}

// Start runs an API server and etcd and installs the CRDs. The binaries are
// those of KUBEBUILDER_ASSETS, or else built from their Go modules, which takes
// minutes the first time and is told on standard error.
//
// Stop the controller manager before Stop is called: an API server with open
// watches takes 20 s to end.
func Start(opts ...Option) (*Kubernetes, error) {
	root, err := Root()
	if err != nil {
		return nil, err
	}
	assets, err := Assets(root)
	if err != nil {
		return nil, err
	}
	environment := &envtest.Environment{
		BinaryAssetsDirectory:    assets,
		Scheme:                   Scheme(),
		CRDDirectoryPaths:        []string{filepath.Join(root, "config", "crd", "bases")},
		ErrorIfCRDPathMissing:    true,
		ControlPlaneStartTimeout: time.Minute,
		ControlPlaneStopTimeout:  time.Minute,
	}
	// Nothing that is kept depends on this etcd: without fsync it is several times
	// faster on a shared disk.
	environment.ControlPlane.Etcd = &envtest.Etcd{}
	environment.ControlPlane.Etcd.Configure().Set("unsafe-no-fsync", "true")
	for _, opt := range opts {
		opt(environment)
	}
	if _, err := environment.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("start the API server and etcd of %s: %w", assets, err), environment.Stop())
	}
	c, err := client.New(environment.Config, client.Options{Scheme: environment.Scheme})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make a client of the API server: %w", err), environment.Stop())
	}
	return &Kubernetes{Environment: environment, Client: c}, nil
}

// Assets is the folder with kube-apiserver and etcd: KUBEBUILDER_ASSETS, or the
// user's cache, built where it is missing.
func Assets(root string) (string, error) { return provide(root) }

// NodeAssets is the folder with kubelet, kube-controller-manager, kube-scheduler and
// kube-proxy: the user's cache, built where it is missing.
func NodeAssets(root string) (string, error) { return provide(root, "node") }

func provide(root string, args ...string) (string, error) {
	build := exec.Command(filepath.Join(root, "hack", "controlplane", "build.sh"), args...)
	build.Stderr = os.Stderr
	out, err := build.Output()
	if err != nil {
		return "", fmt.Errorf("provide programs of Kubernetes with %s: %w", strings.Join(build.Args, " "), err)
	}
	return strings.TrimSpace(string(out)), nil
}

// Root is the folder of this repository: the one that holds PROJECT, at or above
// the working directory, which for a test is its package.
func Root() (string, error) {
	start, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for dir := start; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "PROJECT")); err == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("find the repository: no PROJECT file in %s or above: run this inside a checkout", start)
		}
	}
}
