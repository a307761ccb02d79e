package main

import (
	"log/slog"
	"strings"
	"testing"
	"time"
)

func TestParse(t *testing.T) {
	t.Setenv("POD_NAMESPACE", "somewhere")
	s, err := parse(nil)
	if err != nil {
		t.Fatal(err)
	}
	if s.webhookPort != 9443 || s.metricsAddress != ":8443" || !s.metricsSecure || s.probeAddress != ":8081" ||
		s.leaderElection || s.leaderElectionNamespace != "somewhere" || s.resync != 30*time.Second || s.storeMetricsLimit != 1000 || s.profileAddress != "" || s.logLevel != slog.LevelInfo {
		t.Errorf("defaults: %+v", s)
	}
	s, err = parse([]string{"--leader-elect", "--webhook-port=0", "--metrics-bind-address=0", "--resync-interval=5m", "--log-level=debug", "--sidecar-image=i"})
	if err != nil {
		t.Fatal(err)
	}
	if !s.leaderElection || s.webhookPort != 0 || s.metricsAddress != "0" || s.resync != 5*time.Minute || s.logLevel != slog.LevelDebug || s.sidecarImage != "i" {
		t.Errorf("given: %+v", s)
	}
}

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	for want, args := range map[string][]string{
		"takes flags only":         {"serve"},
		"--resync-interval is":     {"--resync-interval=0s"},
		"--store-metrics-limit is": {"--store-metrics-limit=-1"},
		"--webhook-port is":        {"--webhook-port=65536"},
		"not defined: -unknown":    {"--unknown"},
	} {
		if _, err := parse(args); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("parse(%q) = %v, want an error that says %q", args, err, want)
		}
	}
}
