package access

import "github.com/prometheus/client_golang/prometheus"

var (
	requests = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "aether_callout_requests_total",
		Help: "Connections of pods that NATS servers asked about, by class and by what came of it: granted, refused, failed, malformed or dropped.",
	}, []string{"class", "outcome"})
	duration = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "aether_callout_duration_seconds",
		Help: "How long it took to answer a NATS server, by class.",
		// A server waits for two seconds.
		Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2},
	}, []string{"class"})
	ended = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "aether_callout_connections_ended_total",
		Help: "Connections of pods that were ended since their access had changed or they were too many, by class.",
	}, []string{"class"})
	made = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "aether_consumer_requests_total",
		Help: "Consumers that pods asked the operator to make, by class and by what came of it: granted to JetStream, refused, failed or dropped.",
	}, []string{"class", "outcome"})
)

// Metrics are what is to be served with those of the operator.
func Metrics() []prometheus.Collector { return []prometheus.Collector{requests, duration, ended, made} }
