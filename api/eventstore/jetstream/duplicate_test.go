package jetstream_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/jetstream"
	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/storetest"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv/natsserver"
)

// shortWindow is the least that a stream may have.
const shortWindow = 100 * time.Millisecond

// forgetful is a store on a stream with a short duplicate window.
type forgetful struct {
	*jetstream.Store
	nc     *nats.Conn
	config jetstream.Config
}

func newForgetful(t *testing.T, cluster *natsserver.Cluster, replicas int, opts ...eventstore.Option) *forgetful {
	t.Helper()
	nc, c := cluster.Connect(t), config()
	streams := streamConfigs(c, replicas)
	streams[0].Duplicates = shortWindow
	createStreams(t, nc, streams...)
	return &forgetful{Store: open(t, nc, c, opts...), nc: nc, config: c}
}

// forget waits until the stream has forgotten the id of a message that was stored last.
func (f *forgetful) forget(t *testing.T) {
	t.Helper()
	id := fmt.Sprintf("window-%d", streams.Add(1))
	publish := func(header nats.Header) (answer struct {
		Duplicate bool `json:"duplicate"`
		Error     *struct {
			Code int `json:"err_code"`
		} `json:"error"`
	}) {
		header.Set(nats.MsgIdHdr, id)
		msg, err := f.nc.RequestMsgWithContext(deadline(t), &nats.Msg{Subject: jetstream.EventsSubject(f.config.EventsStream, "window"), Header: header})
		if err == nil {
			err = json.Unmarshal(msg.Data, &answer)
		}
		if err != nil {
			t.Fatal(err)
		}
		return answer
	}
	if stored := publish(nats.Header{}); stored.Error != nil || stored.Duplicate {
		t.Fatalf("%+v", stored)
	}
	eventually(t, "the duplicate window passes", func() bool {
		// There is no such rollup: JetStream refuses the message once it has looked for the id.
		again := publish(nats.Header{nats.MsgRollup: {"never"}, nats.ExpectedLastMsgIdHdr: {"never"}})
		return !again.Duplicate && again.Error != nil
	})
}

func TestForgetting(t *testing.T) {
	t.Parallel()
	onSystems(t, func(t *testing.T, cluster *natsserver.Cluster, replicas int) {
		storetest.RunForgetting(t, storetest.Forgetting{
			Open: func(t *testing.T, opts ...eventstore.Option) eventstore.Store {
				return newForgetful(t, cluster, replicas, opts...)
			},
			Forget: func(t *testing.T, store eventstore.Store) { store.(*forgetful).forget(t) },
			In:     func(t *testing.T, test func(*testing.T)) { test(t) },
		})
	})
}

// A Store that has just begun knows no ids, and looks where it is told to.
func TestForgettingBegunAnew(t *testing.T) {
	t.Parallel()
	f := newForgetful(t, sharedServers(t, 1), 1)
	ctx := deadline(t)
	versioned, unversioned, expected := event("v", "order-1", 1), event("u", "order-2", 0), event("x", "order-3", 0)
	expectNone := eventstore.Expect("order-3", eventstore.ExpectNone)
	save := func(ctx context.Context, want bool) {
		t.Helper()
		store := open(t, f.nc, f.config)
		for _, c := range []struct {
			event eventstore.Event
			opts  []eventstore.SaveOption
		}{{versioned, nil}, {unversioned, nil}, {expected, []eventstore.SaveOption{expectNone}}} {
			if saved, err := store.SaveEvent(ctx, c.event, c.opts...); err != nil || saved.Duplicate != want || saved.Version != 1 {
				t.Errorf("%s: %+v, %v, want duplicate %t of version 1", c.event.ID, saved, err, want)
			}
		}
	}
	save(ctx, false)
	f.forget(t)
	save(ctx, true)
}

// What has the id may be no event that can be compared. Then nobody is named.
func TestDuplicateOfNoEvent(t *testing.T) {
	t.Parallel()
	nc, c := sharedServers(t, 1).Connect(t), config()
	createStreams(t, nc, streamConfigs(c, 1)...)
	store := open(t, nc, c)
	if _, err := nc.RequestMsgWithContext(deadline(t), &nats.Msg{
		Subject: jetstream.EventsSubject(c.EventsStream, "order-9"), Header: nats.Header{nats.MsgIdHdr: {"taken"}},
	}); err != nil {
		t.Fatal(err)
	}
	_, err := store.SaveEvent(deadline(t), event("taken", "order-1", 1))
	var duplicate *eventstore.DuplicateEventError
	if !errors.As(err, &duplicate) || duplicate.ActorID != "order-9" || duplicate.Sequence != 1 {
		t.Errorf("%v (%+v), want a duplicate of the message at sequence 1, of order-9", err, duplicate)
	}
}

// Another process has saved the event, and this one does not know yet when it saves it
// too. That its own answer is lost does not make the other's event its own.
func TestLostAnswerOfADuplicate(t *testing.T) {
	t.Parallel()
	stamped := func(e eventstore.Event) eventstore.Event {
		e.Timestamp = time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
		return e
	}
	for name, theirs := range map[string][]eventstore.Event{
		"at the same place":            {event("a", "order-1", 2)},
		"after another, with its time": {event("y", "order-1", 2), stamped(event("a", "order-1", 3))},
		"without a version":            {event("y", "order-1", 0), event("a", "order-1", 0)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			metrics := &eventstore.Metrics{}
			far, near, p, c := proxied(t, eventstore.WithMetrics(metrics))
			ctx := deadline(t)
			if _, err := far.SaveEvent(ctx, event("before", "order-1", 1)); err != nil {
				t.Fatal(err)
			}
			for _, e := range theirs {
				if _, err := near.SaveEvent(ctx, e); err != nil {
					t.Fatal(err)
				}
			}
			again := theirs[len(theirs)-1:]
			p.muteSave(c, again)
			var watch sync.WaitGroup
			watch.Go(func() {
				eventually(t, "the save is sent", p.muted.Load)
				p.cut()
			})
			saved, err := far.SaveEvents(ctx, again)
			watch.Wait()
			if err != nil || !saved[0].Duplicate || saved[0].Sequence != uint64(1+len(theirs)) {
				t.Errorf("saved as %+v (%v), want a duplicate of the event at sequence %d", saved, err, 1+len(theirs))
			}
			if n := metrics.EventsSaved.Load(); n != 1 {
				t.Errorf("%d events are counted as saved, want the first alone", n)
			}
		})
	}
}

// The ids of many actors are asked for together, as where the actors stand is, and what
// was learned of one is there for the next try.
func TestManyColdActors(t *testing.T) {
	t.Parallel()
	far, near, p, _ := proxied(t)
	const actors = 100
	var before, batch []eventstore.Event
	for n := range actors {
		actor := fmt.Sprintf("order-%d", n)
		before = append(before, event(fmt.Sprintf("a-%d", n), actor, 1), event(fmt.Sprintf("b-%d", n), actor, 2))
		batch = append(batch, event(fmt.Sprintf("c-%d", n), actor, 0))
	}
	if _, err := near.SaveEvents(deadline(t), before); err != nil {
		t.Fatal(err)
	}
	p.mute(`"seq":`)
	saved := make(chan error, 1)
	go func() {
		_, err := far.SaveEvents(deadline(t), batch)
		saved <- err
	}()
	eventually(t, "many ids are asked for before any answer has come", func() bool { return p.hears() >= 32 })
	p.cut()
	if err := <-saved; err != nil {
		t.Fatal(err)
	}
	for n := range batch {
		batch[n].ID = fmt.Sprintf("d-%d", n)
	}
	// One is not where this Store thinks. The ids of all others are known.
	if _, err := near.SaveEvent(deadline(t), event("other", "order-7", 0)); err != nil {
		t.Fatal(err)
	}
	p.listenFor(`"seq":`)
	if _, err := far.SaveEvents(deadline(t), batch); err != nil {
		t.Fatal(err)
	}
	if n := p.hears(); n > 4 {
		t.Errorf("%d questions for messages, want those about the one actor that has moved", n)
	}
}
