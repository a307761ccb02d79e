package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/http"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	certutil "k8s.io/client-go/util/cert"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	"git.flowmade.one/flowmade-one/aether-operator/internal/metricsaccess"
	"git.flowmade.one/flowmade-one/aether-operator/internal/ports"
)

// serveMetrics serves what the metrics server of controller-runtime does, on a port with
// bounds.
func serveMetrics(ctx context.Context, mgr manager.Manager, s settings) error {
	if s.metricsAddress == "0" {
		return nil
	}
	handler := promhttp.HandlerFor(metrics.Registry, promhttp.HandlerOpts{ErrorHandling: promhttp.HTTPErrorOnError})
	var secure *tls.Config
	if s.metricsSecure {
		filter, err := metricsaccess.Filter(mgr.GetConfig(), mgr.GetHTTPClient())
		if err != nil {
			return fmt.Errorf("serve /metrics: %w", err)
		}
		if handler, err = filter(ctrl.Log.WithName("metrics"), handler); err != nil {
			return fmt.Errorf("serve /metrics: %w", err)
		}
		if secure, err = selfSigned(); err != nil {
			return fmt.Errorf("serve /metrics: %w", err)
		}
	}
	listener, err := ports.Listen(ctx, s.metricsAddress, ports.Few, secure)
	if err != nil {
		return fmt.Errorf("serve /metrics: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle("/metrics", handler)
	return mgr.Add(ports.Server("metrics", listener, mux))
}

// selfSigned is a certificate of this start: it keeps what is served from being read on its
// way, and is verified by nobody.
func selfSigned() (*tls.Config, error) {
	certificate, key, err := certutil.GenerateSelfSignedCertKey("localhost", nil, nil)
	if err != nil {
		return nil, fmt.Errorf("make a certificate: %w", err)
	}
	pair, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		return nil, fmt.Errorf("read the certificate that was made: %w", err)
	}
	return &tls.Config{Certificates: []tls.Certificate{pair}}, nil
}
