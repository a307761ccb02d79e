package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracev1 "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	_ "google.golang.org/grpc/encoding/gzip" // a collector takes it
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/stats"
)

// exported is a span and how it came.
type exported struct {
	span        *tracev1.Span
	tenant      []string
	compression string
	patience    time.Duration
	clients     []*x509.Certificate
}

// collectorServer receives traces over gRPC.
type collectorServer struct {
	collector.UnimplementedTraceServiceServer
	spans chan exported
}

// compressionKey is of the context of a call, and leads to how its message was
// compressed.
type compressionKey struct{}

// TagRPC makes room for the compression, which only a stats.Handler is told.
func (c *collectorServer) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context {
	return context.WithValue(ctx, compressionKey{}, new(string))
}

// HandleRPC keeps the compression.
func (c *collectorServer) HandleRPC(ctx context.Context, told stats.RPCStats) {
	if header, is := told.(*stats.InHeader); is {
		*ctx.Value(compressionKey{}).(*string) = header.Compression
	}
}

// TagConn is for stats.Handler.
func (c *collectorServer) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context {
	return ctx
}

// HandleConn is for stats.Handler.
func (c *collectorServer) HandleConn(context.Context, stats.ConnStats) {}

// Export is what an exporter calls.
func (c *collectorServer) Export(ctx context.Context, request *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, error) {
	how := exported{compression: *ctx.Value(compressionKey{}).(*string)}
	headers, _ := metadata.FromIncomingContext(ctx)
	how.tenant = headers.Get("x-tenant")
	if end, ends := ctx.Deadline(); ends {
		how.patience = time.Until(end)
	}
	if from, _ := peer.FromContext(ctx); from != nil {
		if proof, is := from.AuthInfo.(credentials.TLSInfo); is {
			how.clients = proof.State.PeerCertificates
		}
	}
	for _, resource := range request.GetResourceSpans() {
		for _, scope := range resource.GetScopeSpans() {
			for _, span := range scope.GetSpans() {
				how.span = span
				c.spans <- how
			}
		}
	}
	return &collector.ExportTraceServiceResponse{}, nil
}

// collectGRPC receives traces as a collector does on its port for gRPC.
func collectGRPC(t *testing.T, options ...grpc.ServerOption) (address string, spans <-chan exported) {
	t.Helper()
	receiver := &collectorServer{spans: make(chan exported, 1000)}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(append(options, grpc.StatsHandler(receiver))...)
	collector.RegisterTraceServiceServer(server, receiver)
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	return listener.Addr().String(), receiver.spans
}

// certificate is one for 127.0.0.1, which stands for its own authority, and the
// files that hold it and its key.
func certificate(t *testing.T) (pair tls.Certificate, certFile, keyFile string) {
	t.Helper()
	// The server of net/http's tests brings one along.
	server := httptest.NewTLSServer(http.NotFoundHandler())
	defer server.Close()
	pair = server.TLS.Certificates[0]
	key, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	certFile, keyFile = filepath.Join(t.TempDir(), "tls.crt"), filepath.Join(t.TempDir(), "tls.key")
	for file, block := range map[string]*pem.Block{
		certFile: {Type: "CERTIFICATE", Bytes: pair.Certificate[0]}, keyFile: {Type: "PRIVATE KEY", Bytes: key},
	} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return pair, certFile, keyFile
}

// saveTraced starts a sidecar with an environment, saves an event in the trace of
// a request and returns how the span of that came.
func saveTraced(t *testing.T, spans <-chan exported, env map[string]string) exported {
	t.Helper()
	s := startBinary(t, env, "--memory", "--store=orders")
	s.waitReady("")
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	s.saveInTrace(ctx)
	for {
		select {
		case got := <-spans:
			if hex.EncodeToString(got.span.GetTraceId()) == requestTrace {
				if hex.EncodeToString(got.span.GetParentSpanId()) != "00f067aa0ba902b7" || got.span.GetName() != "POST /v1/stores/{store}/events" {
					t.Errorf("span %v", got.span)
				}
				return got
			}
		case <-ctx.Done():
			t.Fatal("no span of the save was sent")
		}
	}
}

func TestTracesOverGRPC(t *testing.T) {
	t.Parallel()
	address, spans := collectGRPC(t)
	got := saveTraced(t, spans, map[string]string{
		"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://" + address, "OTEL_BSP_SCHEDULE_DELAY": "1",
	})
	if got.compression != "" || got.tenant != nil || got.clients != nil {
		t.Errorf("came with compression %q, tenant %q, %d certificates", got.compression, got.tenant, len(got.clients))
	}
}

// With TLS, and with all the variables that say how; those for traces alone win.
func TestTracesOverGRPCWithTLS(t *testing.T) {
	t.Parallel()
	pair, certFile, keyFile := certificate(t)
	address, spans := collectGRPC(t, grpc.Creds(credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAnyClientCert})))
	got := saveTraced(t, spans, map[string]string{
		"OTEL_TRACES_EXPORTER":               "otlp",
		"OTEL_EXPORTER_OTLP_PROTOCOL":        "http/protobuf",
		"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "grpc",
		"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "https://" + address,
		"OTEL_EXPORTER_OTLP_CERTIFICATE":     certFile, "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE": certFile, "OTEL_EXPORTER_OTLP_CLIENT_KEY": keyFile,
		"OTEL_EXPORTER_OTLP_HEADERS": "x-tenant=shop", "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
		"OTEL_EXPORTER_OTLP_TIMEOUT": "3600000", "OTEL_BSP_EXPORT_TIMEOUT": "3600000", "OTEL_BSP_SCHEDULE_DELAY": "1",
	})
	if got.compression != "gzip" || len(got.tenant) != 1 || got.tenant[0] != "shop" || len(got.clients) != 1 {
		t.Errorf("came with compression %q, tenant %q, %d certificates", got.compression, got.tenant, len(got.clients))
	}
	// The default is 10 s.
	if got.patience < time.Minute {
		t.Errorf("the call was given %s, and the timeout is an hour", got.patience)
	}
}

// What the exporter cannot use of the environment is a line of the log like any
// other. Not parallel: the environment and the log of the exporter are of the whole
// process.
func TestTracesWithoutTheirCertificate(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "none.crt")
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "https://127.0.0.1:1")
	t.Setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
	t.Setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", missing)
	var log bytes.Buffer
	_, stop, err := startTracing(t.Context(), os.Getenv, slog.New(slog.NewJSONHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	stop()
	if line := log.String(); !strings.HasPrefix(line, "{") || !strings.Contains(line, missing) {
		t.Errorf("logged %q", line)
	}
}
