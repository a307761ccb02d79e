// Package natsserver runs real nats-servers with JetStream inside the process,
// one alone or a cluster, for tests and the demo.
package natsserver

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"
)

// readyTimeout is how long a server or a cluster may take to answer: seconds on
// an idle machine, and CI runs several packages at once on two cores.
const readyTimeout = 3 * time.Minute

// Cluster is one nats-server alone, or several that form a JetStream cluster.
// Its data is on disk, below the directory given to Start.
type Cluster struct {
	nodes   []*server.Server
	options []*server.Options
}

// Option changes the options of every server before it starts.
type Option func(*server.Options)

// WithUser makes the servers ask for this user and password.
func WithUser(username, password string) Option {
	return func(o *server.Options) { o.Username, o.Password = username, password }
}

// WithHost makes the servers listen for clients on another address than
// 127.0.0.1.
func WithHost(host string) Option {
	return func(o *server.Options) { o.Host = host }
}

// WithConfig gives the servers what the text of a configuration file says of
// accounts, users and callout, and of what the routes of a cluster may carry.
func WithConfig(config string) (Option, error) {
	if err := (&server.Options{}).ProcessConfigString(config); err != nil {
		return nil, fmt.Errorf("read a configuration of nats-server: %w", err)
	}
	return func(o *server.Options) {
		// Read anew for each server: accounts are not to be shared.
		read := &server.Options{}
		if err := read.ProcessConfigString(config); err != nil {
			// It was read a moment ago.
			panic(err)
		}
		o.Accounts, o.SystemAccount = read.Accounts, read.SystemAccount
		o.Users, o.Nkeys, o.AuthCallout = read.Users, read.Nkeys, read.AuthCallout
		o.Cluster.Permissions = read.Cluster.Permissions
	}, nil
}

// Start runs size servers, whose data goes below dir, and returns when
// JetStream answers.
func Start(dir string, size int, opts ...Option) (*Cluster, error) {
	for try := 1; ; try++ {
		c, err := startOnce(dir, size, opts)
		// Free a moment ago, and another process was faster.
		if err != nil && try < 3 && strings.Contains(err.Error(), syscall.EADDRINUSE.Error()) {
			continue
		}
		return c, err
	}
}

func startOnce(dir string, size int, opts []Option) (*Cluster, error) {
	c := &Cluster{options: make([]*server.Options, size), nodes: make([]*server.Server, size)}
	ports, err := ReservePorts(2 * size)
	if err != nil {
		return nil, err
	}
	routes := make([]*url.URL, size)
	for i := range routes {
		routes[i] = &url.URL{Scheme: "nats", Host: net.JoinHostPort("127.0.0.1", strconv.Itoa(ports[size+i]))}
	}
	for i := range c.options {
		c.options[i] = serverOptions(dir, i, ports[i])
		if size > 1 {
			c.options[i].Cluster = server.ClusterOpts{Name: "aether", Host: "127.0.0.1", Port: ports[size+i]}
			c.options[i].Routes = routes
		}
		for _, opt := range opts {
			opt(c.options[i])
		}
	}
	if err := c.startAll(); err != nil {
		c.Stop()
		return nil, err
	}
	if err := c.waitForJetStream(); err != nil {
		c.Stop()
		return nil, err
	}
	return c, nil
}

func serverOptions(dir string, index, port int) *server.Options {
	name := fmt.Sprintf("nats-%d", index)
	return &server.Options{
		ServerName: name,
		Host:       "127.0.0.1",
		Port:       port,
		JetStream:  true,
		StoreDir:   filepath.Join(dir, name),
		NoSigs:     true,
		NoLog:      true,
		// Many servers share one disk here: without a bound each reserves three
		// quarters of what is free.
		JetStreamMaxMemory: 1 << 30,
		JetStreamMaxStore:  16 << 30,
	}
}

// The ports are below those that Linux gives to whoever asks for any: a server
// that was stopped finds its own free when it starts again, and those of a cluster
// must know each other's before they start.
const (
	firstPort = 18000
	portRange = 12000
)

// ReservePorts picks ports of this machine that nobody listens on, also for another
// server that is to be started again on the same one. No other process is given them
// while this one lives: packages are tested at the same time, and a server that is
// stopped does not hold its port.
func ReservePorts(count int) ([]int, error) {
	picked := make([]int, count)
	for i := range picked {
		listener, err := listenAnywhere()
		if err != nil {
			return nil, fmt.Errorf("reserve a port for a nats-server: %w", err)
		}
		// Held until all are picked, so that no port is picked twice.
		defer func() { _ = listener.Close() }()
		picked[i] = listener.Addr().(*net.TCPAddr).Port
	}
	return picked, nil
}

func listenAnywhere() (listener net.Listener, err error) {
	for range 100 {
		port := firstPort + rand.IntN(portRange)
		if err = claim(port); err != nil {
			continue
		}
		if listener, err = net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port))); err == nil {
			return listener, nil
		}
	}
	return nil, err
}

// claim takes a port for this process, until it ends.
func claim(port int) error {
	dir := filepath.Join(os.TempDir(), "aether-ports")
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return err
	}
	file, err := os.OpenFile(filepath.Join(dir, strconv.Itoa(port)), os.O_CREATE|os.O_RDWR, 0o666)
	if err != nil {
		return err
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return errors.Join(fmt.Errorf("claim port %d: %w", port, err), file.Close())
	}
	claimed.Lock()
	defer claimed.Unlock()
	// The lock goes with the file, and that with whoever forgets it.
	claimed.files = append(claimed.files, file)
	return nil
}

// claimed are the files of the ports of this process.
var claimed struct {
	sync.Mutex
	files []*os.File
}

// startAll starts the servers together: one of a cluster accepts no connection
// before it has met others.
func (c *Cluster) startAll() error {
	var starting errgroup.Group
	for i := range c.options {
		starting.Go(func() error { return c.StartNode(i) })
	}
	return starting.Wait()
}

// StartNode starts a server that is not running: on the same ports and with the
// same data as before, where it has run.
func (c *Cluster) StartNode(index int) error {
	o := c.options[index]
	s, err := server.NewServer(o.Clone())
	if err != nil {
		return fmt.Errorf("configure %s: %w", o.ServerName, err)
	}
	ended := make(fatal, 1)
	s.SetLogger(ended, false, false)
	s.Start()
	if err := waitReady(s, ended); err != nil {
		s.Shutdown()
		return fmt.Errorf("start %s on port %d: %w", o.ServerName, o.Port, err)
	}
	c.nodes[index] = s
	return nil
}

// Reload gives a server other options, as a reload of its configuration does.
func (c *Cluster) Reload(index int, change Option) error {
	options := c.options[index].Clone()
	change(options)
	return c.nodes[index].ReloadOptions(options)
}

// StopNode stops one server and waits until it has ended; its data stays.
func (c *Cluster) StopNode(index int) {
	if s := c.nodes[index]; s != nil {
		s.Shutdown()
		s.WaitForShutdown()
	}
}

// Stop stops every server.
func (c *Cluster) Stop() {
	for i := range c.nodes {
		c.StopNode(i)
	}
}

// Size is how many servers there are.
func (c *Cluster) Size() int { return len(c.nodes) }

// DataDir is where a server keeps its data: to be read or replaced while it is
// stopped.
func (c *Cluster) DataDir(index int) string { return c.options[index].StoreDir }

// Node is one of the servers, for what only the server itself can tell.
func (c *Cluster) Node(index int) *server.Server { return c.nodes[index] }

// URLs are the client URLs of the servers, in their order.
func (c *Cluster) URLs() []string {
	urls := make([]string, len(c.options))
	for i, o := range c.options {
		urls[i] = "nats://" + net.JoinHostPort(o.Host, strconv.Itoa(o.Port))
	}
	return urls
}

// URL is the client URLs in one string, as nats.Connect takes them.
func (c *Cluster) URL() string { return strings.Join(c.URLs(), ",") }

// createTimeout is how long one request to create a stream waits for its answer,
// which comes in milliseconds or never.
const createTimeout = 3 * time.Second

// CreateStream creates a stream, trying until the context ends: servers that have
// just found each other may lose the request, or take one of them for absent. The
// same request twice does no harm.
func CreateStream(ctx context.Context, js jetstream.JetStream, config jetstream.StreamConfig) error {
	for {
		try, cancel := context.WithTimeout(ctx, createTimeout)
		_, err := js.CreateStream(try, config)
		cancel()
		var refused *jetstream.APIError
		if err == nil || ctx.Err() != nil || errors.As(err, &refused) && !strings.Contains(refused.Description, "offline") {
			return err
		}
	}
}

// waitForJetStream returns when the cluster has a leader and every server takes
// part in it.
func (c *Cluster) waitForJetStream() error {
	for deadline := time.Now().Add(readyTimeout); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if c.jetStreamReady() {
			return nil
		}
	}
	return errors.New("start nats: JetStream has no leader, or lacks a server, after " + readyTimeout.String())
}

// WaitCurrent returns when every server takes part again and every stream and
// consumer has caught up: until then the loss of another server can take the
// majority.
func (c *Cluster) WaitCurrent(ctx context.Context) error {
	for {
		behind := c.notCurrent()
		if behind == "" {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for nats to be current: %s: %w", behind, context.Cause(ctx))
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func (c *Cluster) notCurrent() string {
	for _, s := range c.nodes {
		if !s.Running() {
			return s.Name() + " is down"
		}
		if health := s.Healthz(&server.HealthzOptions{}); health.Error != "" {
			return s.Name() + ": " + health.Error
		}
	}
	if !c.jetStreamReady() {
		return "JetStream has no leader"
	}
	return ""
}

func (c *Cluster) jetStreamReady() bool {
	if len(c.nodes) == 1 {
		return c.nodes[0].JetStreamEnabled()
	}
	for _, s := range c.nodes {
		if s.JetStreamIsLeader() {
			return len(s.JetStreamClusterPeers()) == len(c.nodes)
		}
	}
	return false
}

// Run is Start for a test: the servers end with it, after everything that is
// registered for clean-up later.
func Run(t testing.TB, size int, opts ...Option) *Cluster {
	t.Helper()
	// Not t.TempDir: it fails the test when a server still writes as it is removed.
	dir, err := os.MkdirTemp("", "nats-")
	if err != nil {
		t.Fatal(err)
	}
	c, err := Start(dir, size, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Stop()
		if err := os.RemoveAll(dir); err != nil {
			t.Logf("remove the data of nats: %v", err)
		}
	})
	return c
}

// Connect connects for the time of a test.
func (c *Cluster) Connect(t testing.TB, opts ...nats.Option) *nats.Conn {
	t.Helper()
	return connect(t, c.URL(), opts)
}

func connect(t testing.TB, url string, opts []nats.Option) *nats.Conn {
	t.Helper()
	nc, err := nats.Connect(url, append([]nats.Option{nats.MaxReconnects(-1), nats.ReconnectWait(50 * time.Millisecond)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}
