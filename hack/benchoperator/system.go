package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv/natsserver"
)

// bench is what runs.
type bench struct {
	stores, replicas int

	dir     string
	kube    *testenv.Kubernetes
	k8s     client.WithWatch
	cluster *natsserver.Cluster
	// simulated takes the place of the cluster where simulate is set.
	simulate  bool
	simulated *simulated
	nc        *nats.Conn
	js        jetstream.JetStream
	operator  *exec.Cmd
	args      []string
	metrics   string
	// profile makes the operator serve its profiles on profileAddress.
	profile bool
}

const profileAddress = "127.0.0.1:6060"

const namespace = "default"

func (b *bench) start(ctx context.Context, servers int) (err error) {
	b.replicas = servers
	if b.dir, err = os.MkdirTemp("", "aether-bench-operator-"); err != nil {
		return err
	}
	if b.kube, err = testenv.Start(); err != nil {
		return err
	}
	// The load is not to wait for a limit of its own.
	config := rest.CopyConfig(b.kube.Config)
	config.QPS = -1
	if b.k8s, err = client.NewWithWatch(config, client.Options{Scheme: testenv.Scheme()}); err != nil {
		return err
	}
	urls, err := b.startServers(servers)
	if err != nil {
		return err
	}
	if b.nc, err = nats.Connect(strings.Join(urls, ",")); err != nil {
		return err
	}
	if b.js, err = jetstream.New(b.nc); err != nil {
		return err
	}
	class := &v1alpha1.EventStoreClass{
		ObjectMeta: metav1.ObjectMeta{Name: "standard", Annotations: map[string]string{v1alpha1.AnnotationDefaultClass: "true"}},
	}
	for _, url := range urls {
		class.Spec.Servers = append(class.Spec.Servers, v1alpha1.ServerURL(url))
	}
	if err := b.k8s.Create(ctx, class); err != nil {
		return err
	}
	if err := b.build(ctx); err != nil {
		return err
	}
	return b.startOperator(ctx)
}

func (b *bench) startServers(servers int) (urls []string, err error) {
	if b.simulate {
		if b.simulated, err = startSimulated(); err != nil {
			return nil, err
		}
		return []string{b.simulated.server.ClientURL()}, nil
	}
	if b.cluster, err = natsserver.Start(filepath.Join(b.dir, "nats"), servers); err != nil {
		return nil, err
	}
	return b.cluster.URLs(), nil
}

func (b *bench) build(ctx context.Context) error {
	root, err := testenv.Root()
	if err != nil {
		return err
	}
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", b.dir+"/", "./cmd/operator")
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", build, err, out)
	}
	admin, err := b.kube.ControlPlane.AddUser(envtest.User{Name: "admin", Groups: []string{"system:masters"}}, nil)
	if err != nil {
		return err
	}
	kubeconfig, err := admin.KubeConfig()
	if err != nil {
		return err
	}
	metricsAddress, err := freeAddress()
	if err != nil {
		return err
	}
	probeAddress, err := freeAddress()
	if err != nil {
		return err
	}
	b.metrics = "http://" + metricsAddress + "/metrics"
	b.args = []string{
		"--kubeconfig", filepath.Join(b.dir, "kubeconfig"), "--webhook-port", "0", "--metrics-secure=false",
		"--metrics-bind-address", metricsAddress, "--health-probe-bind-address", probeAddress, "--log-level", "warn",
	}
	if b.profile {
		b.args = append(b.args, "--pprof-bind-address", profileAddress)
	}
	return os.WriteFile(filepath.Join(b.dir, "kubeconfig"), kubeconfig, 0o600)
}

func freeAddress() (string, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return listener.Addr().String(), listener.Close()
}

func (b *bench) startOperator(ctx context.Context) error {
	// Not of ctx: it is told to end, and not killed.
	b.operator = exec.Command(filepath.Join(b.dir, "operator"), b.args...)
	b.operator.Stderr = os.Stderr
	if err := b.operator.Start(); err != nil {
		return err
	}
	return b.until(ctx, "the operator to serve metrics", func(ctx context.Context) error {
		_, err := b.scrape(ctx)
		return err
	})
}

func (b *bench) stopOperator() error {
	if b.operator == nil {
		return nil
	}
	_ = b.operator.Process.Signal(syscall.SIGTERM)
	err := b.operator.Wait()
	b.operator = nil
	return err
}

func (b *bench) stop() error {
	err := b.stopOperator()
	if b.kube != nil {
		err = errors.Join(err, b.kube.Stop())
	}
	if b.nc != nil {
		b.nc.Close()
	}
	if b.cluster != nil {
		b.cluster.Stop()
	}
	if b.simulated != nil {
		b.simulated.stop()
	}
	return errors.Join(err, os.RemoveAll(b.dir))
}

// until polls, for a few minutes at most.
func (b *bench) until(ctx context.Context, what string, try func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	for {
		// A stream that is just being made may answer nothing at all: what is waited
		// for then is not what is measured.
		one, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
		err := try(one)
		cancel()
		if err == nil {
			return nil
		}
		if pauseErr := pause(ctx, 5*time.Millisecond); pauseErr != nil {
			return fmt.Errorf("wait for %s: %w: %w", what, pauseErr, err)
		}
	}
}

// usage is what the operator has done since it started.
type usage struct {
	pid           int
	writes, reads float64
	// passes are those over EventStores that have ended.
	passes   float64
	requests uint64
	cpu      time.Duration
	resident uint64
	// others is the processor time of all that is not the operator, in the order of
	// otherNames.
	others [3]time.Duration
}

// otherNames are what the machine works at beside the operator: the load and the
// nats-servers are this process.
var otherNames = [3]string{"kube-apiserver", "etcd", "load and servers"}

func (b *bench) usage(ctx context.Context) (usage, error) {
	u := usage{pid: b.operator.Process.Pid}
	families, err := b.scrape(ctx)
	if err != nil {
		return u, err
	}
	for _, m := range families["rest_client_requests_total"].GetMetric() {
		switch labelOf(m, "method") {
		case http.MethodGet:
			u.reads += m.GetCounter().GetValue()
		default:
			u.writes += m.GetCounter().GetValue()
		}
	}
	u.cpu = time.Duration(families["process_cpu_seconds_total"].GetMetric()[0].GetCounter().GetValue() * float64(time.Second))
	u.resident = uint64(families["process_resident_memory_bytes"].GetMetric()[0].GetGauge().GetValue())
	u.passes = passes(families)
	if u.others, err = otherCPU(); err != nil {
		return u, err
	}
	u.requests, err = b.requests()
	return u, err
}

// requests is how many requests the servers have had, with those of the load.
func (b *bench) requests() (total uint64, err error) {
	if b.simulate {
		return b.simulated.requests.Load(), nil
	}
	for node := range b.cluster.Size() {
		jsz, err := b.cluster.Node(node).Jsz(nil)
		if err != nil {
			return 0, err
		}
		total += jsz.API.Total
	}
	return total, nil
}

func labelOf(m *dto.Metric, name string) string {
	for _, label := range m.GetLabel() {
		if label.GetName() == name {
			return label.GetValue()
		}
	}
	return ""
}

func (b *bench) scrape(ctx context.Context) (map[string]*dto.MetricFamily, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, b.metrics, nil)
	if err != nil {
		return nil, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer func() { _ = response.Body.Close() }()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	return parser.TextToMetricFamilies(response.Body)
}

func passes(families map[string]*dto.MetricFamily) float64 {
	total := 0.0
	for _, m := range families["controller_runtime_reconcile_total"].GetMetric() {
		if labelOf(m, "controller") == "eventstore" {
			total += m.GetCounter().GetValue()
		}
	}
	return total
}

// otherCPU reads what the children of this process and the process itself used.
func otherCPU() ([3]time.Duration, error) {
	var used [3]time.Duration
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return used, err
	}
	for _, path := range stats {
		// A process may end meanwhile.
		text, _ := os.ReadFile(path)
		var pid, parent int
		var command, state string
		if n, _ := fmt.Sscanf(string(text), "%d %s %s %d", &pid, &command, &state, &parent); n < 4 || parent != os.Getpid() {
			continue
		}
		if i := slices.Index(otherNames[:], strings.Trim(command, "()")); i >= 0 {
			used[i] += ticks(strings.Fields(string(text)))
		}
	}
	var own syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &own); err != nil {
		return used, err
	}
	used[2] = time.Duration(own.Utime.Nano() + own.Stime.Nano())
	return used, nil
}

// ticks sums utime and stime, which Linux tells in hundredths of a second.
func ticks(stat []string) time.Duration {
	var sum time.Duration
	for _, field := range stat[13:15] {
		n, _ := strconv.Atoi(field)
		sum += time.Duration(n) * 10 * time.Millisecond
	}
	return sum
}
