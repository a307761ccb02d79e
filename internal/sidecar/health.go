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
	dto "github.com/prometheus/client_model/go"
	"golang.org/x/sync/errgroup"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/v1/eventstorev1connect"
)

// checkTimeout bounds a look at all stores. A kubelet gives up after 1 s unless
// told otherwise, but what it prints then says nothing.
const checkTimeout = 3 * time.Second

func (s *Server) healthRoutes() http.Handler {
	mux := http.NewServeMux()
	for path, check := range map[string]func(context.Context) error{"/healthz": s.alive, "/readyz": s.ready, "/startupz": s.startable} {
		mux.HandleFunc("GET "+path, func(w http.ResponseWriter, r *http.Request) {
			if err := check(r.Context()); err != nil {
				answerText(w, http.StatusServiceUnavailable, err.Error())
				return
			}
			answerText(w, http.StatusOK, "ok")
		})
	}
	mux.HandleFunc("GET /metrics", s.answerMetrics)
	return mux
}

// gathered is what the metrics were at one moment.
type gathered struct {
	families []*dto.MetricFamily
	err      error
}

// Gather is for promhttp.
func (g gathered) Gather() ([]*dto.MetricFamily, error) { return g.families, g.err }

// gather has JetStream asked how durable subscriptions are doing.
func (s *Server) gather() gathered {
	families, err := s.registry.Gather()
	return gathered{families, err}
}

// answerMetrics tells all within a second what was gathered for one, as ready does.
func (s *Server) answerMetrics(w http.ResponseWriter, r *http.Request) {
	found, err := s.gathered.Found(r.Context())
	if err != nil {
		// Who has asked is gone.
		return
	}
	promhttp.HandlerFor(found, promhttp.HandlerOpts{}).ServeHTTP(w, r)
}

func answerText(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	// Who does not read its answer has nobody else to tell.
	_, _ = fmt.Fprintln(w, text)
}

// alive says which stores will not serve again unless the sidecar is started anew. One that
// cannot be reached is no reason: it connects again by itself.
func (s *Server) alive(context.Context) error {
	var failed []error
	for _, store := range s.config.Stores {
		if store.Alive == nil {
			continue
		}
		if err := store.Alive(); err != nil {
			failed = append(failed, fmt.Errorf("store %s: %w", store.Name, err))
		}
	}
	return errors.Join(failed...)
}

// startable says why the other containers of the pod may not start yet: they wait for
// the stores, so that their first call finds them. Where NATS can be reached only
// through one of those containers, the proxy of a service mesh, they do not wait for
// ever. Once they may start, that holds.
func (s *Server) startable(ctx context.Context) error {
	if s.started.Load() {
		return nil
	}
	err := s.ready(ctx)
	if err != nil && s.stopping.Err() == nil && s.config.WaitForStores > 0 && time.Since(s.made) >= s.config.WaitForStores {
		if !s.started.Swap(true) {
			s.config.Logger.Warn("the pod starts without its stores", "waited", s.config.WaitForStores.String(), "error", err)
		}
		return nil
	}
	if err == nil {
		s.started.Store(true)
	}
	return err
}

// ready says which stores cannot serve, and why, a line each: anybody may ask who reaches
// the pod, so all are told within a second what was found for one.
func (s *Server) ready(ctx context.Context) error {
	if s.stopping.Err() != nil {
		return errors.New("the sidecar stops")
	}
	found, err := s.checked.Found(ctx)
	if err != nil {
		return fmt.Errorf("look at all stores: %w", err)
	}
	return found
}

func (s *Server) checkStores() error {
	ctx, cancel := context.WithTimeout(s.stopping, checkTimeout)
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
