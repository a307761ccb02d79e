package sidecar

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
	"golang.org/x/sync/semaphore"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
	"git.flowmade.one/flowmade-one/aether-operator/internal/openport"
)

const (
	// DefaultMaxBodyBytes bounds the body of one request, which is held in memory
	// as a whole. The largest event is 1 MiB, 1.3 MiB in base64: 8 MiB takes six of
	// them, or the largest batch with 8 KiB an event.
	DefaultMaxBodyBytes = 8 << 20
	// DefaultRequestTimeout bounds a call that is not a stream. A cluster that
	// loses the leader of a stream elects another within 9 s: a save in that moment
	// takes longer, and does not fail.
	DefaultRequestTimeout = 15 * time.Second
	// heartbeat is how often a stream of server-sent events says that it lives:
	// proxies tend to end what is silent for 30 s or more.
	heartbeat = 15 * time.Second
)

// Store is one of the stores that a Server serves.
type Store struct {
	// Name is how requests name it.
	Name string
	// Namespace is its event namespace; empty where there is none.
	Namespace string
	// Store keeps the events. Where it may be replaced by another, Current is the one of
	// the moment, and Store is not used.
	Store   eventstore.Store
	Current func() eventstore.Store
	// Metrics is what Store counts into; nil leaves it out of /metrics.
	Metrics *eventstore.Metrics
	// Check says why the store cannot serve at this moment; nil says that it
	// always can.
	Check func(context.Context) error
	// Alive says why the store will not serve again unless the sidecar is started anew; nil
	// says that it always may.
	Alive func() error
	// Connection is what the store runs on; nil where there is nothing to lose.
	Connection Connection
}

// Connection is a connection whose state is told in /metrics.
type Connection interface {
	// IsConnected says whether there is a connection now.
	IsConnected() bool
	// Reconnected counts how often it was made again.
	Reconnected() uint64
}

// Config is what a Server needs.
type Config struct {
	// Stores are served under their names; the first is that of requests which
	// name none. At least one.
	Stores []Store
	// MaxBodyBytes bounds the body of a request; 0 is DefaultMaxBodyBytes, or what
	// Memory has room for.
	MaxBodyBytes int64
	// RequestTimeout bounds a call that is not a stream; 0 is
	// DefaultRequestTimeout.
	RequestTimeout time.Duration
	// MaxCalls and MaxStreams are how many calls that are no streams, and how many
	// streams, may be under way at once; 0 is DefaultMaxCalls and
	// DefaultMaxStreams. One more is refused with too_many_requests.
	MaxCalls, MaxStreams int
	// Memory is how many bytes all of them may take together, as far as that is
	// known: bodies, answers, and what is read ahead. 0 is DefaultMemory. What has
	// no room waits a second and is refused with too_many_requests.
	Memory int64
	// Budget is where that memory is taken from, where stores take some too; nil makes
	// one of Memory bytes.
	Budget *semaphore.Weighted
	// WaitForStores is how long /startupz waits for the stores; 0 is for ever.
	WaitForStores time.Duration
	// AllowedHosts are names by which the server may be called beside localhost and
	// addresses, in lower case. AllowedOrigins are those of web pages that may call
	// beside its own, such as http://localhost:3000.
	AllowedHosts, AllowedOrigins []string
	// Tracer receives a span for each call; nil records none. Either way an event is
	// stored with the trace of the request that saved it.
	Tracer trace.TracerProvider
	// Logger receives what goes wrong inside, and each call at level debug; nil
	// logs nothing.
	Logger *slog.Logger
}

// Server serves the workload API with Handler, and health and metrics with
// HealthHandler. Serve runs both.
type Server struct {
	config   Config
	limits   *limits
	tracer   trace.Tracer
	stores   map[string]*Store
	registry *prometheus.Registry
	calls    *callMetrics
	api      http.Handler
	health   http.Handler
	sessions sessions
	// started: /startupz has answered 200 once. made is when the Server was.
	started atomic.Bool
	made    time.Time
	// checked looks at all stores, and gathered at all metrics, for all who ask within a second.
	checked  *openport.Shared[error]
	gathered *openport.Shared[gathered]
	// These are the constants, but in a test.
	heartbeat, readTimeout, writeTimeout time.Duration
	// stopping ends when the server stops: streams end with it.
	stopping context.Context
	stop     context.CancelFunc
}

// New makes a Server. It fails on a configuration that makes no sense.
func New(config Config) (*Server, error) {
	if len(config.Stores) == 0 {
		return nil, errors.New("serve event stores: there is none: name at least one")
	}
	config, err := config.withDefaults()
	if err != nil {
		return nil, err
	}
	s := &Server{config: config, made: time.Now(), limits: newLimits(config), tracer: config.Tracer.Tracer(instrumentation), stores: map[string]*Store{}, registry: prometheus.NewRegistry(), heartbeat: heartbeat, readTimeout: readTimeout, writeTimeout: writeTimeout}
	for i := range config.Stores {
		store := &config.Stores[i]
		if _, taken := s.stores[store.Name]; taken || store.Name == "" {
			return nil, fmt.Errorf("serve event stores: name %q is empty or given twice: give every store a name of its own", store.Name)
		}
		s.stores[store.Name] = store
	}
	s.stopping, s.stop = context.WithCancel(context.Background())
	s.checked, s.gathered = openport.Share(s.checkStores), openport.Share(s.gather)
	s.calls = registerMetrics(s.registry, config.Stores)
	s.registry.MustRegister(&durableCollector{sessions: &s.sessions})
	s.health = s.healthRoutes()
	s.api = s.recovered(s.bounded(s.guarded(s.apiRoutes())))
	return s, nil
}

// withDefaults fills in what a Config leaves out.
func (c Config) withDefaults() (Config, error) {
	c.Memory = cmp.Or(c.Memory, DefaultMemory)
	if c.Budget == nil {
		c.Budget = semaphore.NewWeighted(c.Memory)
	}
	most := c.Memory/bodyCost - callCost
	c.MaxBodyBytes = cmp.Or(c.MaxBodyBytes, min(DefaultMaxBodyBytes, most))
	c.RequestTimeout = cmp.Or(c.RequestTimeout, DefaultRequestTimeout)
	c.MaxCalls, c.MaxStreams = cmp.Or(c.MaxCalls, DefaultMaxCalls), cmp.Or(c.MaxStreams, DefaultMaxStreams)
	if c.Tracer == nil {
		c.Tracer = noop.NewTracerProvider()
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.MaxBodyBytes > most || c.MaxBodyBytes < 1 {
		return c, fmt.Errorf("serve event stores: bodies of %d bytes do not fit into %d bytes of memory, which a body takes %d times: allow smaller bodies, or more memory",
			c.MaxBodyBytes, c.Memory, bodyCost)
	}
	return c, nil
}

// Handler serves the workload API: HTTP/1.1 and HTTP/2.
func (s *Server) Handler() http.Handler { return s.api }

// HealthHandler serves /healthz, /startupz, /readyz and /metrics.
func (s *Server) HealthHandler() http.Handler { return s.health }

// store finds a store by its name, and the first one where the name is empty.
func (s *Server) store(name string) (*Store, error) {
	if name == "" {
		return s.config.Stores[0].now(), nil
	}
	if store, found := s.stores[name]; found {
		return store.now(), nil
	}
	return nil, &unknownStoreError{name: name, served: s.names()}
}

// now is the store with what keeps its events at the moment.
func (s *Store) now() *Store {
	if s.Current == nil {
		return s
	}
	now := *s
	now.Store = s.Current()
	return &now
}

func (s *Server) names() []string {
	names := make([]string, len(s.config.Stores))
	for i := range s.config.Stores {
		names[i] = s.config.Stores[i].Name
	}
	return names
}

// streamContext is the context of a stream: that of its request, ended when the
// server stops.
func (s *Server) streamContext(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	release := context.AfterFunc(s.stopping, func() { cancel(errStopping) })
	return ctx, func() { release(); cancel(nil) }
}

// errStopping is why streams end when the server stops.
var errStopping = fmt.Errorf("%w: the sidecar stops: connect again", eventstore.ErrUnavailable)
