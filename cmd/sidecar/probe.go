package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
)

const (
	// probePatience is how long a probe of the start asks again before it fails: less
	// than the kubelet waits for it, and long enough that a pod that waits for NATS
	// costs its node few processes.
	probePatience = 8 * time.Second
	probePause    = 100 * time.Millisecond
	// probeTimeout bounds one question.
	probeTimeout = 4 * time.Second
	// probeAnswer is how much of an answer is told.
	probeAnswer = 4 << 10
)

// probePaths are what --probe takes, and the path that it asks.
var probePaths = map[string]string{"startup": "/startupz", "liveness": "/healthz"}

// probe asks the sidecar that runs in this pod, and returns what is wrong with it. It
// is what the kubelet runs in the container: a service mesh may lead its HTTP probes to
// a proxy that does not run yet, and lets nobody in but through that proxy.
func probe(ctx context.Context, kind, healthListen string) error {
	path, known := probePaths[kind]
	if !known {
		return fmt.Errorf("--probe is %q: give startup or liveness", kind)
	}
	_, port, err := net.SplitHostPort(healthListen)
	if err != nil {
		return fmt.Errorf("--health-listen is %q: %w", healthListen, err)
	}
	url := "http://" + net.JoinHostPort("127.0.0.1", port) + path
	if kind != "startup" {
		return ask(ctx, url)
	}
	ctx, cancel := context.WithTimeout(ctx, probePatience)
	defer cancel()
	for {
		err := ask(ctx, url)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(probePause):
		}
	}
}

func ask(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return fmt.Errorf("the sidecar does not answer: %w", err)
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(io.LimitReader(response.Body, probeAnswer))
	if err != nil {
		return fmt.Errorf("read the answer of %s: %w", url, err)
	}
	if response.StatusCode != http.StatusOK {
		return errors.New(strings.TrimSpace(string(text)))
	}
	return nil
}
