package main

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/go-logr/logr"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// Environment variables of OpenTelemetry that decide whether and how to trace.
// The exporter and the SDK read the others, such as OTEL_EXPORTER_OTLP_HEADERS and
// OTEL_TRACES_SAMPLER.
const (
	envTracesExporter = "OTEL_TRACES_EXPORTER"
	envDisabled       = "OTEL_SDK_DISABLED"
	envServiceName    = "OTEL_SERVICE_NAME"
)

var (
	endpointVariables = []string{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"}
	protocolVariables = []string{"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"}
)

// Protocols that traces are sent over. OpenTelemetry leaves the default to the
// program, and recommends the one over plain HTTP.
const (
	protocolHTTP = "http/protobuf"
	protocolGRPC = "grpc"
)

const (
	// tracesTimeout bounds sending the last traces at the end.
	tracesTimeout = 3 * time.Second
	// queuedSpans are how many spans wait to be sent; more are dropped. The default
	// of 2,048 would be several MiB.
	queuedSpans = 512
)

// startTracing sends traces where the environment says; without a word of it
// there, it does nothing. What it returns sends the last ones.
func startTracing(ctx context.Context, getenv func(string) string, logger *slog.Logger) (trace.TracerProvider, func(), error) {
	wanted, err := wantsTracing(getenv)
	if err != nil || !wanted {
		return nil, func() {}, err
	}
	// Before the exporter reads its variables: what it cannot use of them it only
	// logs, such as a certificate that is not there.
	otel.SetLogger(logr.FromSlogHandler(logger.Handler()))
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { logger.Warn("traces were not sent", "error", err) }))
	exporter, err := otlptrace.New(ctx, tracesClient(getenv))
	if err != nil {
		return nil, nil, fmt.Errorf("send traces: %w", err)
	}
	name := getenv(envServiceName)
	if name == "" {
		name = "aether-sidecar"
	}
	described, err := resource.Merge(resource.Default(), resource.NewSchemaless(attribute.String("service.name", name), attribute.String("service.version", version())))
	if err != nil {
		return nil, nil, fmt.Errorf("describe the sidecar in traces: %w", err)
	}
	provider := sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter, sdktrace.WithMaxQueueSize(queuedSpans)), sdktrace.WithResource(described))
	return provider, func() {
		ctx, cancel := context.WithTimeout(context.Background(), tracesTimeout)
		defer cancel()
		if err := provider.Shutdown(ctx); err != nil {
			logger.Warn("the last traces were not sent", "error", err)
		}
	}, nil
}

// tracesClient speaks the protocol that the environment asks for.
func tracesClient(getenv func(string) string) otlptrace.Client {
	if first(getenv, protocolVariables) == protocolGRPC {
		return otlptracegrpc.NewClient()
	}
	return otlptracehttp.NewClient()
}

// wantsTracing says whether the environment asks for traces, and refuses what is
// not spoken here.
func wantsTracing(getenv func(string) string) (bool, error) {
	exporter := getenv(envTracesExporter)
	if strings.EqualFold(getenv(envDisabled), "true") || exporter == "none" || exporter == "" && first(getenv, endpointVariables) == "" {
		return false, nil
	}
	if exporter != "" && exporter != "otlp" {
		return false, fmt.Errorf("%s is %q: give otlp or none", envTracesExporter, exporter)
	}
	if protocol := first(getenv, protocolVariables); protocol != "" && protocol != protocolHTTP && protocol != protocolGRPC {
		return false, fmt.Errorf("traces are to be sent as %q, which is not spoken here: set %s to %s or %s, and the endpoint to the port for that, commonly 4318 or 4317",
			protocol, protocolVariables[0], protocolHTTP, protocolGRPC)
	}
	return true, nil
}

func first(getenv func(string) string, names []string) string {
	for _, name := range names {
		if value := getenv(name); value != "" {
			return value
		}
	}
	return ""
}
