package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// program is one of the project's binaries. It is started again when it ends
// without being told to, as the kubelet would.
type program struct {
	name string
	path string
	args []string
	env  []string
	// log is the file that its output is appended to.
	log string

	mu       sync.Mutex
	cmd      *exec.Cmd
	stopping bool
	ended    chan struct{}
}

// gracePeriod is how long a program may take to end once told to: the default
// of a pod.
const gracePeriod = 30 * time.Second

// start runs the program and keeps it running until stop.
func (p *program) start() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stopping = false
	if err := p.exec(); err != nil {
		return err
	}
	p.ended = make(chan struct{})
	go p.supervise(p.ended)
	return nil
}

func (p *program) exec() error {
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("open the log of %s: %w", p.name, err)
	}
	// The program has its own handle once it runs.
	defer func() { _ = log.Close() }()
	p.cmd = exec.Command(p.path, p.args...)
	p.cmd.Env, p.cmd.Stdout, p.cmd.Stderr = p.env, log, log
	// Ctrl-C is for the demo, which then stops its programs in order.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := p.cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", p.name, err)
	}
	return nil
}

func (p *program) supervise(ended chan<- struct{}) {
	defer close(ended)
	for {
		// How it ended does not matter: it runs again, or it was told to stop.
		_ = p.cmd.Wait()
		time.Sleep(100 * time.Millisecond)
		p.mu.Lock()
		if p.stopping || p.exec() != nil {
			p.mu.Unlock()
			return
		}
		p.mu.Unlock()
	}
}

// signal sends a signal to the program as it runs now.
func (p *program) signal(s syscall.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	// The one error is that it has ended already.
	_ = p.cmd.Process.Signal(s)
}

// stop ends the program: SIGTERM, and SIGKILL after the grace period.
func (p *program) stop() {
	if p.ended == nil {
		return
	}
	p.mu.Lock()
	p.stopping = true
	p.mu.Unlock()
	p.signal(syscall.SIGTERM)
	select {
	case <-p.ended:
	case <-time.After(gracePeriod):
		p.signal(syscall.SIGKILL)
		<-p.ended
	}
	p.ended = nil
}

// waitForOK polls a URL until it answers 200, or fails with the last answer.
func waitForOK(ctx context.Context, what, url string) error {
	client := &http.Client{Timeout: 5 * time.Second}
	return eventually(ctx, time.Minute, what+" to answer 200 at "+url, func(ctx context.Context) error {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		response, err := client.Do(request)
		if err != nil {
			return err
		}
		defer func() { _ = response.Body.Close() }()
		if response.StatusCode != http.StatusOK {
			return fmt.Errorf("it answers %s", response.Status)
		}
		return nil
	})
}

// eventually tries until it works. What it fails with says what was awaited and
// why it did not come.
func eventually(ctx context.Context, limit time.Duration, what string, try func(context.Context) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("not within %s", limit))
	defer cancel()
	for {
		err := try(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w: %w", what, context.Cause(ctx), err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// freePort is a port that nothing listens on.
func freePort() (int, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("find a free port: %w", err)
	}
	defer func() { _ = listener.Close() }()
	return listener.Addr().(*net.TCPAddr).Port, nil
}

// isFree says whether a program could listen on an address.
func isFree(address string) bool {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return false
	}
	_ = listener.Close()
	return true
}
