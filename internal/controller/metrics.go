package controller

import (
	"cmp"
	"errors"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/stream"
)

// metrics count what the controllers do. What the stores are is counted when it
// is asked for; see storesCollector.
type metrics struct {
	requests *prometheus.HistogramVec
	steps    *prometheus.CounterVec
	holds    *prometheus.CounterVec
	drift    *prometheus.CounterVec
	contests prometheus.Counter
	losses   *prometheus.CounterVec
}

func newMetrics() *metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "aether_operator_" + name, Help: help}, labels)
	}
	return &metrics{
		requests: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "aether_operator_nats_request_duration_seconds",
			Help:    "Requests to JetStream, by operation and outcome: ok, refused by the server, or failed.",
			Buckets: []float64{.001, .005, .025, .1, .5, 2.5},
		}, []string{"operation", "outcome"}),
		steps:    counter("plan_steps_total", "Steps of plans that were carried out, by field (stream for one that was created) and effect.", "field", "effect"),
		holds:    counter("guard_holds_total", "Plans that were held back, by reason.", "reason"),
		drift:    counter("drift_healed_total", "Fields of streams that others had changed and that were set right, by field.", "field"),
		contests: prometheus.NewCounter(prometheus.CounterOpts{Name: "aether_operator_contests_total", Help: "Times that a stream which others change again and again was left alone for a while."}),
		losses:   counter("data_losses_total", "Losses of stored data that were seen, by reason.", "reason"),
	}
}

func (m *metrics) register(with prometheus.Registerer) error {
	var err error
	for _, c := range []prometheus.Collector{m.requests, m.steps, m.holds, m.drift, m.contests, m.losses} {
		err = errors.Join(err, with.Register(c))
	}
	return err
}

// measureRequest counts a request to JetStream.
func (m *metrics) measureRequest(operation string, took time.Duration, err error) {
	outcome := "ok"
	var refused *jetstream.APIError
	switch {
	case errors.As(err, &refused):
		outcome = "refused"
	case err != nil:
		outcome = "failed"
	}
	m.requests.WithLabelValues(operation, outcome).Observe(took.Seconds())
}

// countPlan counts a plan that was carried out; drift says that nobody had asked
// for a change.
func (m *metrics) countPlan(plan stream.Plan, drift bool) {
	for _, step := range plan.Status() {
		m.steps.WithLabelValues(step.Field, string(step.Effect)).Inc()
		if drift {
			m.drift.WithLabelValues(step.Field).Inc()
		}
	}
}

// held are the reasons under which the guard holds a plan back, and lost those of
// a loss.
var (
	held = []string{v1alpha1.ReasonWouldDestroyEvents, v1alpha1.ReasonWouldReachOthers, v1alpha1.ReasonImpossibleChange, v1alpha1.ReasonInsufficientPeers}
	lost = []string{v1alpha1.ReasonStreamMissing, v1alpha1.ReasonStreamRecreated, v1alpha1.ReasonStreamRolledBack, v1alpha1.ReasonStreamPurged}
)

// countOutcome counts a fault that is new.
func (m *metrics) countOutcome(fault *stream.Fault) {
	switch {
	case slices.Contains(held, fault.Reason):
		m.holds.WithLabelValues(fault.Reason).Inc()
	case slices.Contains(lost, fault.Reason):
		m.losses.WithLabelValues(fault.Reason).Inc()
	}
}

// storesCollector tells of all EventStores, from the cache and from what was seen
// last, when it is asked. Only the replica that leads knows.
type storesCollector struct {
	stores storeIndex
	memory *stream.Memory
	// versions knows how far the versions of actors are kept.
	versions *VersionReconciler
	leads    <-chan struct{}
	// limit is how many stores have figures of their own.
	limit int
}

var (
	storesDesc = prometheus.NewDesc("aether_operator_eventstores",
		"EventStores by class, empty for one that is not known to exist, condition, its status and its reason.", []string{"class", "condition", "status", "reason"}, nil)
	unlistedDesc = prometheus.NewDesc("aether_operator_eventstores_without_metrics",
		"EventStores beyond --store-metrics-limit, which have no figures of their own.", nil, nil)
	storeLabels  = []string{"namespace", "name", "role"}
	messagesDesc = prometheus.NewDesc("aether_eventstore_messages", "Messages that a stream of an EventStore holds.", storeLabels, nil)
	bytesDesc    = prometheus.NewDesc("aether_eventstore_bytes", "Bytes that a stream of an EventStore takes on each server.", storeLabels, nil)
	maxBytesDesc = prometheus.NewDesc("aether_eventstore_max_bytes", "Bytes that a stream of an EventStore may take on each server, 0 for no limit.", storeLabels, nil)
	lastDesc     = prometheus.NewDesc("aether_eventstore_last_sequence", "The last sequence of a stream of an EventStore.", storeLabels, nil)
	lagDesc      = prometheus.NewDesc("aether_eventstore_replica_lag", "Operations that the slowest replica of a stream of an EventStore is behind.", storeLabels, nil)
	versionsDesc = prometheus.NewDesc("aether_eventstore_versions_behind_seconds",
		"For how long events of an EventStore that expire soon have not been looked at, whose actors' latest versions are to be kept; 0 when all have.", []string{"namespace", "name"}, nil)
)

// Describe implements prometheus.Collector.
func (c *storesCollector) Describe(to chan<- *prometheus.Desc) {
	for _, desc := range []*prometheus.Desc{storesDesc, unlistedDesc, messagesDesc, bytesDesc, maxBytesDesc, lastDesc, lagDesc, versionsDesc} {
		to <- desc
	}
}

// Collect implements prometheus.Collector.
func (c *storesCollector) Collect(to chan<- prometheus.Metric) {
	select {
	case <-c.leads:
	default:
		return
	}
	stores := c.stores.all()
	c.collectConditions(stores, to)
	c.collectFigures(stores, to)
}

func (c *storesCollector) collectConditions(stores []*v1alpha1.EventStore, to chan<- prometheus.Metric) {
	type key struct {
		class, condition, reason string
		status                   metav1.ConditionStatus
	}
	counts := map[key]int{}
	for _, store := range stores {
		class := knownClass(store)
		for _, condition := range store.Status.Conditions {
			counts[key{class, condition.Type, condition.Reason, condition.Status}]++
		}
	}
	for k, count := range counts {
		to <- prometheus.MustNewConstMetric(storesDesc, prometheus.GaugeValue, float64(count), k.class, k.condition, string(k.status), k.reason)
	}
}

// knownClass is the class of a store, as a label: how many values a label has is not
// for those to say who write EventStores.
func knownClass(store *v1alpha1.EventStore) string {
	connected := meta.FindStatusCondition(store.Status.Conditions, v1alpha1.ConditionConnected)
	if connected == nil || connected.Reason == v1alpha1.ReasonUnknown || connected.Reason == v1alpha1.ReasonClassNotFound {
		return ""
	}
	return classInUse(store)
}

// collectFigures tells those of the first stores by name, so that the same ones
// are told each time.
func (c *storesCollector) collectFigures(stores []*v1alpha1.EventStore, to chan<- prometheus.Metric) {
	if len(stores) > c.limit {
		slices.SortFunc(stores, func(a, b *v1alpha1.EventStore) int {
			return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
		})
	}
	to <- prometheus.MustNewConstMetric(unlistedDesc, prometheus.GaugeValue, float64(max(0, len(stores)-c.limit)))
	now := time.Now()
	for _, store := range stores[:min(len(stores), c.limit)] {
		if late, known := c.versions.behind(client.ObjectKeyFromObject(store), now); known {
			to <- prometheus.MustNewConstMetric(versionsDesc, prometheus.GaugeValue, late.Seconds(), store.Namespace, store.Name)
		}
		for _, recorded := range store.Status.Streams {
			seen, known := c.memory.Seen(classInUse(store), recorded.Name)
			if !known {
				continue
			}
			for desc, value := range map[*prometheus.Desc]uint64{
				messagesDesc: seen.Messages, bytesDesc: seen.Bytes, maxBytesDesc: seen.MaxBytes, lastDesc: seen.LastSequence, lagDesc: seen.Lag,
			} {
				to <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, float64(value), store.Namespace, store.Name, string(recorded.Role))
			}
		}
	}
}
