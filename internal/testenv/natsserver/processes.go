package natsserver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Processes are nats-servers as they are released, each in a process of its own: they can
// be paused, and have a garbage collector of their own.
type Processes struct {
	urls     []string
	commands []*exec.Cmd
}

// Build builds nats-server from the module that go.mod names, and answers where it is.
func Build(ctx context.Context, dir string) (string, error) {
	path := filepath.Join(dir, "nats-server")
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", path, "github.com/nats-io/nats-server/v2")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build nats-server: %w: %s", err, out)
	}
	return path, nil
}

// StartProcesses starts size servers whose data goes below dir, with more in their
// environment, and returns when JetStream answers. They are to be stopped also when it
// fails.
func StartProcesses(ctx context.Context, binary, dir string, size int, environment ...string) (*Processes, error) {
	p := &Processes{}
	ports, err := ReservePorts(2 * size)
	if err != nil {
		return p, err
	}
	var routes []string
	for i := range size {
		p.urls = append(p.urls, fmt.Sprintf("nats://127.0.0.1:%d", ports[i]))
		routes = append(routes, fmt.Sprintf("nats://127.0.0.1:%d", ports[size+i]))
	}
	for i := range size {
		config := fmt.Sprintf("server_name: n%d\nlisten: 127.0.0.1:%d\njetstream {store_dir: %q, max_mem: 1G, max_file: 16G}\n",
			i, ports[i], filepath.Join(dir, fmt.Sprintf("n%d", i)))
		if size > 1 {
			config += fmt.Sprintf("cluster {name: aether, listen: 127.0.0.1:%d, routes: [%s]}\n", ports[size+i], strings.Join(routes, ", "))
		}
		file := filepath.Join(dir, fmt.Sprintf("n%d.conf", i))
		if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
			return p, err
		}
		command := exec.Command(binary, "-c", file)
		command.Env = append(os.Environ(), environment...)
		if err := command.Start(); err != nil {
			return p, fmt.Errorf("start %s: %w", command, err)
		}
		p.commands = append(p.commands, command)
	}
	return p, p.waitReady(ctx)
}

// waitReady waits until JetStream answers through each server. Servers that have no
// leader yet do not answer.
func (p *Processes) waitReady(ctx context.Context) error {
	for _, url := range p.urls {
		for {
			err := answers(ctx, url)
			if err == nil {
				break
			}
			select {
			case <-ctx.Done():
				return fmt.Errorf("wait for nats-server: %w", err)
			case <-time.After(20 * time.Millisecond):
			}
		}
	}
	return nil
}

func answers(ctx context.Context, url string) error {
	nc, err := nats.Connect(url)
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	_, err = js.AccountInfo(ctx)
	return err
}

// URL is the client URLs in one string, as nats.Connect takes them.
func (p *Processes) URL() string { return strings.Join(p.urls, ",") }

// Pause holds every server where it is, as when their machine does: connections stay.
func (p *Processes) Pause() error { return p.signal(syscall.SIGSTOP) }

// Resume lets every server go on.
func (p *Processes) Resume() error { return p.signal(syscall.SIGCONT) }

func (p *Processes) signal(signal syscall.Signal) error {
	var errs []error
	for _, command := range p.commands {
		errs = append(errs, command.Process.Signal(signal))
	}
	return errors.Join(errs...)
}

// Stop ends the servers. They have nothing to lose.
func (p *Processes) Stop() {
	for _, command := range p.commands {
		// A process that was killed says so, and may have ended before.
		_ = command.Process.Kill()
		_ = command.Wait()
	}
}

// RunProcesses is Build and StartProcesses for a test: the servers end with it.
func RunProcesses(t testing.TB, size int) *Processes {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), readyTimeout)
	defer cancel()
	dir, err := os.MkdirTemp("", "nats-")
	if err != nil {
		t.Fatal(err)
	}
	p := &Processes{}
	t.Cleanup(func() {
		p.Stop()
		if err := os.RemoveAll(dir); err != nil {
			t.Logf("remove the data of nats: %v", err)
		}
	})
	binary, err := Build(ctx, dir)
	if err != nil {
		t.Fatal(err)
	}
	if p, err = StartProcesses(ctx, binary, dir, size); err != nil {
		t.Fatal(err)
	}
	return p
}

// Connect connects for the time of a test.
func (p *Processes) Connect(t testing.TB, opts ...nats.Option) *nats.Conn {
	t.Helper()
	return connect(t, p.URL(), opts)
}
