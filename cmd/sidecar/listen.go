package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"time"
)

// listeners are where the sidecar can be reached.
type listeners struct {
	api    []net.Listener
	health net.Listener
}

func listen(o options) (listeners, error) {
	var l listeners
	fail := func(what string, err error) (listeners, error) {
		l.close()
		return listeners{}, fmt.Errorf("listen for %s: %w", what, err)
	}
	api, err := net.Listen("tcp", o.listen)
	if err != nil {
		return fail("the API, --listen", err)
	}
	l.api = append(l.api, api)
	if l.health, err = net.Listen("tcp", o.healthListen); err != nil {
		return fail("health and metrics, --health-listen", err)
	}
	if o.socket != "" {
		socket, err := listenUnix(o.socket)
		if err != nil {
			return fail("the API, "+envSocket, err)
		}
		l.api = append(l.api, socket)
	}
	return l, nil
}

// listenUnix listens on a socket, in place of one that an earlier process left.
func listenUnix(path string) (net.Listener, error) {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, err
	case info.Mode()&fs.ModeSocket == 0:
		return nil, fmt.Errorf("%s is there and is no socket", path)
	default:
		if conn, err := net.DialTimeout("unix", path, time.Second); err == nil {
			_ = conn.Close()
			return nil, fmt.Errorf("%s is in use by another process", path)
		}
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	listener, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	// The application runs as another user, and could dial the port as well.
	if err := os.Chmod(path, 0o666); err != nil {
		_ = listener.Close()
		return nil, err
	}
	return listener, nil
}

// close is for what was not served; a server has closed its own.
func (l listeners) close() {
	for _, listener := range l.api {
		_ = listener.Close()
	}
	if l.health != nil {
		_ = l.health.Close()
	}
}

func (l listeners) addresses() []string {
	var addresses []string
	for _, listener := range l.api {
		addresses = append(addresses, listener.Addr().String())
	}
	return addresses
}
