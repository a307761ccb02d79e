//go:build linux

package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// The program of the tests runs three times: on the machine, as the first process
// of the node's namespaces, and there as the tests.
const (
	envStage   = "AETHER_NODE_STAGE"
	stageInit  = "init"
	stageTests = "tests"
	// envDir is the directory of the node, for the later stages.
	envDir = "AETHER_NODE_DIR"
)

// programs are what a node needs of the machine.
var programs = []string{"containerd", "ctr", "runc", "ip", cniPlugins + "/bridge", iptablesLegacy}

// Main runs tests on a node: call it in TestMain with what the tests are, and exit
// with what it returns.
func Main(tests func(n *Node) int) int {
	run := map[string]func() (int, error){
		"":         onMachine,
		stageInit:  asInit,
		stageTests: func() (int, error) { return onNode(tests) },
	}[os.Getenv(envStage)]
	code, err := run()
	if err != nil {
		fmt.Fprintln(os.Stderr, "node:", err)
		return max(code, 1)
	}
	return code
}

// onMachine builds what the node runs, which needs the network of the machine, and
// leaves the machine as it was.
func onMachine() (code int, err error) {
	if err := checkMachine(); err != nil {
		return 1, err
	}
	dir, err := os.MkdirTemp("", "aether-node-")
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := build(dir); err != nil {
		return 1, err
	}
	restore, err := keepSysctls()
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, restore(), removeCgroups(filepath.Base(dir))) }()
	for name, value := range map[string]string{envStage: stageInit, envDir: dir} {
		// Not added to the Env of the command, where the first of two wins.
		if err := os.Setenv(name, value); err != nil {
			return 1, err
		}
	}
	return runSelf(&syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWNET | syscall.CLONE_NEWIPC,
		Pdeathsig:  syscall.SIGKILL,
	})
}

func checkMachine() error {
	if os.Geteuid() != 0 {
		return errors.New("a node needs root: run make test-node as root")
	}
	for _, program := range programs {
		if _, err := exec.LookPath(program); err != nil {
			return fmt.Errorf("a node needs %s, which this machine lacks: run make test-node, which installs it", program)
		}
	}
	return nil
}

// runSelf runs this program again, in its next stage, and waits for it.
func runSelf(attributes *syscall.SysProcAttr) (int, error) {
	// The death of a parent is that of its thread.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	command := exec.Command("/proc/self/exe", os.Args[1:]...)
	command.Stdin, command.Stdout, command.Stderr = os.Stdin, os.Stdout, os.Stderr
	command.SysProcAttr = attributes
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(signals)
	if err := command.Start(); err != nil {
		return 1, fmt.Errorf("start the namespaces of the node: %w", err)
	}
	go func() {
		for range signals {
			_ = command.Process.Kill()
		}
	}()
	err := command.Wait()
	if exit := new(exec.ExitError); errors.As(err, &exit) {
		return max(exit.ExitCode(), 1), nil
	}
	return command.ProcessState.ExitCode(), err
}

// asInit is the first process of the namespaces: when it ends, the kernel ends all
// others. It takes the processes that nobody else waits for.
func asInit() (int, error) {
	if os.Getpid() != 1 {
		return 1, fmt.Errorf("%s=%s is for the first process of a process namespace, and this is process %d", envStage, stageInit, os.Getpid())
	}
	if err := mountAll(os.Getenv(envDir)); err != nil {
		return 1, err
	}
	if err := os.Setenv(envStage, stageTests); err != nil {
		return 1, err
	}
	command := exec.Command("/proc/self/exe", os.Args[1:]...)
	command.Stdin, command.Stdout, command.Stderr = os.Stdin, os.Stdout, os.Stderr
	if err := command.Start(); err != nil {
		return 1, err
	}
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
		case err != nil:
			return 1, fmt.Errorf("wait for the tests: %w", err)
		case pid == command.Process.Pid && status.Exited():
			return status.ExitStatus(), nil
		case pid == command.Process.Pid && status.Signaled():
			return 1, fmt.Errorf("the tests ended by signal %s", status.Signal())
		}
	}
}

// mountAll makes mounts that only this namespace has: its processes, and a /run and
// a /var/lib in which containerd, the kubelet and the network plugins find and leave
// nothing of the machine's.
func mountAll(dir string) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make the mounts private: %w", err)
	}
	for _, m := range []struct{ source, target, kind, options string }{
		{"proc", "/proc", "proc", ""},
		{"tmpfs", "/run", "tmpfs", "mode=755"},
		{filepath.Join(dir, "lib"), "/var/lib", "", ""},
		{filepath.Join(dir, "log"), "/var/log", "", ""},
	} {
		var flags uintptr
		if m.kind == "" {
			flags = unix.MS_BIND
			if err := os.Mkdir(m.source, 0o755); err != nil {
				return err
			}
		}
		if err := unix.Mount(m.source, m.target, m.kind, flags, m.options); err != nil {
			return fmt.Errorf("mount %s: %w", m.target, err)
		}
	}
	return nil
}

func onNode(tests func(n *Node) int) (code int, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	n := newNode(os.Getenv(envDir))
	if err = n.start(ctx); err == nil {
		code = tests(n)
	}
	if err != nil || code != 0 {
		n.showLogs(os.Stderr)
	}
	return code, err
}
