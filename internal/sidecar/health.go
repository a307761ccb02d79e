package sidecar

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"connectrpc.com/connect"
	"connectrpc.com/grpchealth"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sync/errgroup"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/v1/eventstorev1connect"
)

// checkTimeout bounds a look at all stores. A kubelet gives up after 1 s unless
// told otherwise, but what it prints then says nothing.
const checkTimeout = 3 * time.Second

func (s *Server) healthRoutes() http.Handler {
	mux := http.NewServeMux()
	// A store that cannot be reached is no reason to restart the sidecar: it
	// connects again by itself.
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { answerText(w, http.StatusOK, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		if err := s.ready(r.Context()); err != nil {
			answerText(w, http.StatusServiceUnavailable, err.Error())
			return
		}
		answerText(w, http.StatusOK, "ok")
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(s.registry, promhttp.HandlerOpts{}))
	return mux
}

func answerText(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	// Who does not read its answer has nobody else to tell.
	_, _ = fmt.Fprintln(w, text)
}

// ready says which stores cannot serve at this moment, and why, a line each.
func (s *Server) ready(ctx context.Context) error {
	if s.stopping.Err() != nil {
		return errors.New("the sidecar stops")
	}
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	failed := make([]error, len(s.config.Stores))
	var checks errgroup.Group
	for i, store := range s.config.Stores {
		if store.Check == nil {
			continue
		}
		checks.Go(func() error {
			if err := store.Check(ctx); err != nil {
				failed[i] = fmt.Errorf("store %s is not ready: %w", store.Name, err)
			}
			return nil
		})
	}
	// No check returns an error: all of them are told.
	_ = checks.Wait()
	return errors.Join(failed...)
}

// healthChecker answers the gRPC health protocol as /readyz does.
type healthChecker struct{ server *Server }

// Check answers for the process and for its one service.
func (h *healthChecker) Check(ctx context.Context, request *grpchealth.CheckRequest) (*grpchealth.CheckResponse, error) {
	if request.Service != "" && request.Service != eventstorev1connect.EventStoreServiceName {
		return nil, connect.NewError(connect.CodeNotFound, fmt.Errorf("service %.100q is not served here", request.Service))
	}
	if h.server.ready(ctx) != nil {
		return &grpchealth.CheckResponse{Status: grpchealth.StatusNotServing}, nil
	}
	return &grpchealth.CheckResponse{Status: grpchealth.StatusServing}, nil
}
