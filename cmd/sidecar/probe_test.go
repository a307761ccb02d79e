package main

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
)

// TestProbe asks as the kubelet does.
func TestProbe(t *testing.T) {
	t.Parallel()
	var asked atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// A start that takes a moment is waited for.
		if r.URL.Path == "/startupz" && asked.Add(1) < 3 || r.URL.Path == "/healthz" && asked.Load() < 0 {
			http.Error(w, "store orders is not ready", http.StatusServiceUnavailable)
		}
	}))
	defer server.Close()
	address := strings.TrimPrefix(server.URL, "http://")
	for _, kind := range []string{"startup", "liveness"} {
		if err := probe(t.Context(), kind, address); err != nil {
			t.Errorf("%s: %v", kind, err)
		}
	}
	asked.Store(-1 << 40)
	if err := probe(t.Context(), "liveness", address); err == nil || err.Error() != "store orders is not ready" {
		t.Errorf("a sidecar that is not well: %v", err)
	}
	if err := probe(t.Context(), "readiness", address); err == nil || !strings.Contains(err.Error(), "startup or liveness") {
		t.Errorf("another probe: %v", err)
	}
	server.Close()
	if err := probe(t.Context(), "liveness", address); err == nil || !strings.Contains(err.Error(), "does not answer") {
		t.Errorf("nobody listens: %v", err)
	}
}
