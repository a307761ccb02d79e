package controller

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/stream"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv/natsserver"
)

// A stream whose age somebody has shortened may lose all that it holds between the look of a
// pass and the change that sets the age right: then what the server answers to that is not
// written over what is on record.
func TestWhatIsLostDuringAPassIsNotRecorded(t *testing.T) {
	t.Parallel()
	servers := natsserver.Run(t, 1)
	conn := connectionTo(t, servers)
	class := &v1alpha1.EventStoreClass{}
	class.Name = "standard"
	store := settledOn(t, conn, class)
	api, err := jetstream.New(servers.Connect(t))
	if err != nil {
		t.Fatal(err)
	}
	events, err := api.Stream(t.Context(), store.EventsStreamName())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := api.Publish(t.Context(), store.EventsStreamName()+".events.order.1", []byte("{}")); err != nil {
		t.Fatal(err)
	}
	p := &pass{EventStoreReconciler: &EventStoreReconciler{memory: stream.NewMemory()}, store: store, before: store.DeepCopy(), class: class, conn: conn}
	p.wanted = wantedOf(store, homeOf(t, store), class, make([]*liveStream, 2))
	look := func() {
		t.Helper()
		p.live = nil
		for _, name := range p.streamNames() {
			live, err := conn.Stream(t.Context(), name)
			if err != nil {
				t.Fatal(err)
			}
			p.live = append(p.live, live)
		}
	}
	look()
	for i, wanted := range p.wanted {
		p.plans = append(p.plans, stream.NewPlan(wanted, p.live[i], time.Now()))
	}
	if err := p.recordStreams(t.Context()); err != nil || p.store.Status.Streams[0].Messages != 1 {
		t.Fatalf("record a stream as it is: %+v, %v", p.store.Status.Streams, err)
	}
	if err := events.Purge(t.Context()); err != nil {
		t.Fatal(err)
	}
	look()
	if err := p.recordStreams(t.Context()); err == nil || p.store.Status.Streams[0].Messages != 1 {
		t.Errorf("what was lost meanwhile is on record: %+v, %v", p.store.Status.Streams, err)
	}
}
