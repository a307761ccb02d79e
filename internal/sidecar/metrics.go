package sidecar

import (
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
)

// callMetrics count and time the calls of both protocols.
type callMetrics struct {
	total    *prometheus.CounterVec
	duration *prometheus.HistogramVec
	streams  *prometheus.GaugeVec
}

// registerMetrics makes the metrics of a server and of its stores.
func registerMetrics(registry *prometheus.Registry, stores []Store) *callMetrics {
	calls := &callMetrics{
		total: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "aether_sidecar_requests_total",
			Help: "Calls that have ended, by protocol, route and the status that was answered.",
		}, []string{"protocol", "route", "code"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "aether_sidecar_request_duration_seconds",
			Help: "How long calls took that are no streams.",
			// From a read in memory, 0.1 ms, to the default timeout of a call, 15 s.
			Buckets: []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 15},
		}, []string{"protocol", "route"}),
		streams: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "aether_sidecar_streams_open",
			Help: "Streams that are open now.",
		}, []string{"protocol", "route"}),
	}
	registry.MustRegister(calls.total, calls.duration, calls.streams,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	for i := range stores {
		if stores[i].Metrics != nil {
			registry.MustRegister(newStoreCollector(stores[i].Name, stores[i].Metrics))
		}
		if stores[i].Connection != nil {
			registerConnection(registry, stores[i].Name, stores[i].Connection)
		}
	}
	return calls
}

func registerConnection(registry *prometheus.Registry, store string, connection Connection) {
	labels := prometheus.Labels{"store": store}
	registry.MustRegister(
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "aether_store_connected", Help: "1 while there is a connection to NATS.", ConstLabels: labels,
		}, func() float64 {
			if connection.IsConnected() {
				return 1
			}
			return 0
		}),
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "aether_store_reconnects_total", Help: "How often a connection to NATS was lost and made again.", ConstLabels: labels,
		}, func() float64 { return float64(connection.Reconnected()) }))
}

// begin counts a call in; what it returns counts it out.
func (m *callMetrics) begin(protocol, route string, stream bool) func(code string) {
	route = strings.TrimPrefix(route, "/aether.eventstore.v1.")
	started := time.Now()
	if stream {
		m.streams.WithLabelValues(protocol, route).Inc()
	}
	return func(code string) {
		m.total.WithLabelValues(protocol, route, code).Inc()
		if stream {
			m.streams.WithLabelValues(protocol, route).Dec()
			return
		}
		m.duration.WithLabelValues(protocol, route).Observe(time.Since(started).Seconds())
	}
}

// storeCollector reads what a store counts, at the moment that it is asked for.
type storeCollector struct {
	values []storeValue
}

type storeValue struct {
	desc  *prometheus.Desc
	kind  prometheus.ValueType
	value *atomic.Int64
}

func newStoreCollector(store string, m *eventstore.Metrics) *storeCollector {
	c := &storeCollector{}
	for _, counter := range []struct {
		name, help string
		value      *atomic.Int64
	}{
		{"events_saved", "Events stored, without duplicates.", &m.EventsSaved},
		{"duplicates_saved", "Events that an earlier save had stored already.", &m.DuplicatesSaved},
		{"version_conflicts", "Saves refused with a version conflict.", &m.VersionConflicts},
		{"save_errors", "Saves that failed for any other reason.", &m.SaveErrors},
		{"events_read", "Events that reads and subscriptions delivered.", &m.EventsRead},
		{"replay_errors", "Stored messages met that are no events.", &m.ReplayErrors},
		{"snapshots_saved", "Snapshots stored.", &m.SnapshotsSaved},
		{"head_hits", "Saves that knew where their actor stood.", &m.HeadHits},
		{"head_misses", "Saves that had to ask where their actor stood.", &m.HeadMisses},
	} {
		c.add(store, counter.name+"_total", counter.help, prometheus.CounterValue, counter.value)
	}
	c.add(store, "heads_cached", "Actors of whom it is remembered where they stood.", prometheus.GaugeValue, &m.HeadsCached)
	return c
}

func (c *storeCollector) add(store, name, help string, kind prometheus.ValueType, value *atomic.Int64) {
	desc := prometheus.NewDesc("aether_store_"+name, help, nil, prometheus.Labels{"store": store})
	c.values = append(c.values, storeValue{desc, kind, value})
}

// Describe is for the registry.
func (c *storeCollector) Describe(descs chan<- *prometheus.Desc) {
	for _, v := range c.values {
		descs <- v.desc
	}
}

// Collect is for the registry.
func (c *storeCollector) Collect(metrics chan<- prometheus.Metric) {
	for _, v := range c.values {
		metrics <- prometheus.MustNewConstMetric(v.desc, v.kind, float64(v.value.Load()))
	}
}
