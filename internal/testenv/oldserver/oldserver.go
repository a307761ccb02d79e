// Package oldserver runs a nats-server that is older than what Aether needs, as a
// process of its own: a program holds one version of a module.
package oldserver

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv/natsserver"
)

// Run starts a server with JetStream for the time of a test and gives its URL. The
// binary is built where it is missing, which takes a minute and is told on standard
// error.
func Run(t testing.TB) string {
	t.Helper()
	binary, err := build()
	if err != nil {
		t.Fatal(err)
	}
	ports, err := natsserver.ReservePorts(1)
	if err != nil {
		t.Fatal(err)
	}
	address := net.JoinHostPort("127.0.0.1", strconv.Itoa(ports[0]))
	server := exec.Command(binary, "--addr", "127.0.0.1", "--port", strconv.Itoa(ports[0]), "--name", "old", "--jetstream", "--store_dir", t.TempDir())
	if err := server.Start(); err != nil {
		t.Fatalf("start an old nats-server: %v", err)
	}
	t.Cleanup(func() {
		_ = server.Process.Kill()
		_ = server.Wait()
	})
	testenv.Eventually(t, time.Minute, "an old nats-server", func() error {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			err = conn.Close()
		}
		return err
	})
	return "nats://" + address
}

func build() (string, error) {
	root, err := testenv.Root()
	if err != nil {
		return "", err
	}
	script := exec.Command(filepath.Join(root, "hack", "oldserver", "build.sh"))
	script.Stderr = os.Stderr
	out, err := script.Output()
	if err != nil {
		return "", fmt.Errorf("build an old nats-server with %s: %w", script, err)
	}
	return strings.TrimSpace(string(out)), nil
}
