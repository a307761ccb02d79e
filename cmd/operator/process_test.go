package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv"
)

const (
	operatorNamespace = "aether-system"
	deadline          = time.Minute
)

var (
	kubernetes *testenv.Kubernetes
	// binary is the operator as it is shipped.
	binary string
)

func TestMain(m *testing.M) {
	code, err := runTests(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func runTests(m *testing.M) (code int, err error) {
	dir, err := os.MkdirTemp("", "operator-")
	if err != nil {
		return 1, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	binary = filepath.Join(dir, "operator")
	if out, err := exec.Command("go", "build", "-o", binary, ".").CombinedOutput(); err != nil {
		return 1, fmt.Errorf("build the operator: %w\n%s", err, out)
	}
	if kubernetes, err = testenv.Start(withOwnerPermissions); err != nil {
		return 1, err
	}
	code = m.Run()
	return code, kubernetes.Stop()
}

// withOwnerPermissions turns on what some clusters have on: whoever makes an object
// that holds up the deletion of its owner needs the right to.
func withOwnerPermissions(e *envtest.Environment) {
	e.ControlPlane.GetAPIServer().Configure().Append("enable-admission-plugins", "OwnerReferencesPermissionEnforcement")
}

// replica is a process of the operator.
type replica struct {
	process *exec.Cmd
	// probes and metrics are where it serves them.
	probes, metrics string
	logs            lines
	ended           chan struct{}
	// err is what the process ended with, once it has.
	err error
}

// startReplica runs the operator until the test ends.
func startReplica(t *testing.T, kubeconfig string, args ...string) *replica {
	t.Helper()
	r := &replica{probes: freeAddress(t), metrics: freeAddress(t), ended: make(chan struct{})}
	_, webhookPort, err := net.SplitHostPort(freeAddress(t))
	if err != nil {
		t.Fatal(err)
	}
	r.process = exec.Command(binary, append([]string{
		"--kubeconfig=" + kubeconfig, "--health-probe-bind-address=" + r.probes, "--metrics-bind-address=" + r.metrics,
		"--webhook-port=" + webhookPort, "--sidecar-image=registry.example/aether-sidecar:1.0",
	}, args...)...)
	r.process.Env = append(os.Environ(), "POD_NAMESPACE="+operatorNamespace)
	r.process.Stderr = &r.logs
	if err := r.process.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		r.err = r.process.Wait()
		close(r.ended)
	}()
	t.Cleanup(func() {
		r.signal(t, syscall.SIGKILL)
		<-r.ended
		if t.Failed() {
			t.Logf("logs of the operator at %s:\n%s", r.probes, r.logs.String())
		}
	})
	return r
}

// signal is nothing to a process that has ended.
func (r *replica) signal(t *testing.T, signal syscall.Signal) {
	t.Helper()
	if err := r.process.Process.Signal(signal); err != nil && !strings.Contains(err.Error(), "already finished") {
		t.Errorf("signal the operator: %v", err)
	}
}

func (r *replica) waitUntilEnded(t *testing.T) error {
	t.Helper()
	select {
	case <-r.ended:
		return r.err
	case <-time.After(deadline):
		t.Fatalf("the operator still runs after %s", deadline)
		return nil
	}
}

// ready asks /readyz; the error names the checks that failed.
func (r *replica) ready(ctx context.Context) error {
	return getOK(ctx, http.DefaultClient, "http://"+r.probes+"/readyz", "")
}

func (r *replica) waitUntilReady(t *testing.T) {
	t.Helper()
	testenv.Eventually(t, deadline, "the operator to be ready", func() error { return r.ready(t.Context()) })
}

// waitUntilNotReady waits for a check to fail, and gives the answer.
func (r *replica) waitUntilNotReady(t *testing.T, check string) {
	t.Helper()
	testenv.Eventually(t, deadline, "/readyz to say that "+check+" failed", func() error {
		if err := r.ready(t.Context()); err == nil || !strings.Contains(err.Error(), "[-]"+check+" failed") {
			return fmt.Errorf("it says: %w", err)
		}
		return nil
	})
}

// getOK makes a request, with a token if there is one, and gives an error unless
// the answer is 200.
func getOK(ctx context.Context, c *http.Client, url, token string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	response, err := c.Do(request)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s: %s", url, response.Status, body)
	}
	return err
}

// writeKubeconfig makes a file of the credentials of a user, for an API server at
// another address if one is given.
func writeKubeconfig(t *testing.T, user *envtest.AuthenticatedUser, address string) string {
	t.Helper()
	content, err := user.KubeConfig()
	if err != nil {
		t.Fatal(err)
	}
	if address != "" {
		content = bytes.ReplaceAll(content, []byte(apiServerAddress(user)), []byte(address))
	}
	path := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func freeAddress(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	return listener.Addr().String()
}

// lines collects what a process writes.
type lines struct {
	mu      sync.Mutex
	content bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.content.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.content.String()
}
