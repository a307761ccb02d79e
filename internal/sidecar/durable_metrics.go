package sidecar

import (
	"context"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
)

// statusTimeout is how long a scrape waits for what durable subscriptions say of
// themselves. Those that have not answered then are left out.
const statusTimeout = 4 * time.Second

// durableCollector asks the durable subscriptions that have a session here how they
// are doing, at the moment that it is asked for. There are as many as streams at most.
type durableCollector struct {
	sessions *sessions
}

// durableGauge is one number of a durable subscription.
type durableGauge struct {
	desc *prometheus.Desc
	of   func(eventstore.DurableStatus) float64
}

var durableGauges = []durableGauge{
	newDurableGauge("lag", "Sequences of the store after the last that was read for the members.", func(s eventstore.DurableStatus) float64 { return float64(s.Lag) }),
	newDurableGauge("members", "Members that are there.", func(s eventstore.DurableStatus) float64 { return float64(s.Members) }),
	newDurableGauge("in_hand", "Events that members have.", func(s eventstore.DurableStatus) float64 { return float64(s.InHand) }),
	newDurableGauge("queued", "Events that were read and that no member has had.", func(s eventstore.DurableStatus) float64 { return float64(s.Queued) }),
	newDurableGauge("waiting", "Actors of whom an event waits to be delivered again.", func(s eventstore.DurableStatus) float64 { return float64(s.Waiting) }),
	newDurableGauge("parked", "Events that were put aside.", func(s eventstore.DurableStatus) float64 { return float64(s.Parked) }),
	newDurableGauge("full", "1 while so many actors wait, or so much is parked, that no more events are read.", func(s eventstore.DurableStatus) float64 {
		if s.Full {
			return 1
		}
		return 0
	}),
}

func newDurableGauge(name, help string, of func(eventstore.DurableStatus) float64) durableGauge {
	return durableGauge{prometheus.NewDesc("aether_durable_"+name, help, []string{"store", "durable"}, nil), of}
}

// Describe is for the registry.
func (c *durableCollector) Describe(descs chan<- *prometheus.Desc) {
	for _, g := range durableGauges {
		descs <- g.desc
	}
}

// Collect is for the registry.
func (c *durableCollector) Collect(metrics chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), statusTimeout)
	defer cancel()
	var asking sync.WaitGroup
	for name, store := range c.sessions.durables() {
		asking.Go(func() {
			status, err := store.GetDurableStatus(ctx, name.durable)
			if err != nil {
				return
			}
			for _, g := range durableGauges {
				metrics <- prometheus.MustNewConstMetric(g.desc, prometheus.GaugeValue, g.of(status), name.store, name.durable)
			}
		})
	}
	asking.Wait()
}

type durableName struct{ store, durable string }

// durables are the durable subscriptions that have a session.
func (s *sessions) durables() map[durableName]durableStore {
	s.mu.Lock()
	defer s.mu.Unlock()
	found := map[durableName]durableStore{}
	for _, session := range s.open {
		found[durableName{session.store.name, session.opts.Name}] = session.store
	}
	return found
}
