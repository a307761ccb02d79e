package jetstream_test

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/jetstream"
)

// stored is a message as the test knows it.
type stored struct {
	sequence uint64
	id       string
	// version is 0 for a message that is no event.
	version int64
}

// world is a stream written by several Stores and by others who know nothing of
// the index, or lie in it.
type world struct {
	*testing.T
	nc     *nats.Conn
	js     natsjs.JetStream
	config jetstream.Config
	stores []*jetstream.Store
	random *rand.Rand
	actors map[string][]stored
	events int
	// replicas is how many the streams have, and erased what was erased, as a read answers it.
	replicas int
	erased   map[string]bool
}

var historySeed = flag.Uint64("history-seed", 0, "the seed of each case of TestHistory; 0 is any")

// FuzzHistory-like, with a seed that is told: whatever was written, erased and
// forged, a read is what is stored.
func TestHistory(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ servers, replicas, rounds int }{{1, 1, 6}, {3, 3, 2}} {
		for round := range c.rounds {
			t.Run(fmt.Sprintf("%d servers, %d", c.servers, round), func(t *testing.T) {
				t.Parallel()
				seed := cmp.Or(*historySeed, rand.Uint64())
				t.Logf("seed %d", seed)
				nc := sharedServers(t, c.servers).Connect(t)
				config := config()
				createStreams(t, nc, streamConfigs(config, c.replicas)...)
				js, err := natsjs.New(nc)
				if err != nil {
					t.Fatal(err)
				}
				w := &world{T: t, nc: nc, js: js, config: config, random: rand.New(rand.NewPCG(seed, 0)), actors: map[string][]stored{}, replicas: c.replicas, erased: map[string]bool{}}
				for range 2 {
					w.stores = append(w.stores, open(t, nc, config))
				}
				for range 8 {
					for range 1 + w.random.IntN(40) {
						w.act()
					}
					w.check()
				}
			})
		}
	}
}

func (w *world) actor() string { return fmt.Sprintf("order-%d", w.random.IntN(4)) }

func (w *world) store() *jetstream.Store { return w.stores[w.random.IntN(len(w.stores))] }

func (w *world) latest(actorID string) int64 {
	var latest int64
	for _, s := range w.actors[actorID] {
		latest = max(latest, s.version)
	}
	return latest
}

// act does one thing that may happen to a stream.
func (w *world) act() {
	actorID := w.actor()
	switch n := w.random.IntN(100); {
	case n < 45:
		w.save([]string{actorID})
	case n < 70:
		// Of one actor or of several in turn, more than a level of the index holds.
		batch := make([]string, 2+w.random.IntN(60))
		for i := range batch {
			batch[i] = actorID
			if n < 60 && w.random.IntN(2) == 0 {
				batch[i] = w.actor()
			}
		}
		w.save(batch)
	case n < 80:
		w.foreign(actorID)
	case n < 90:
		w.forge(actorID)
	case n < 95:
		w.erase(actorID, w.random.IntN(len(w.actors[actorID])+1))
	case n < 98:
		// As age does it: the oldest first.
		for range w.random.IntN(30) {
			w.erase(actorID, 0)
		}
	default:
		w.stores[w.random.IntN(len(w.stores))] = open(w.T, w.nc, w.config)
	}
}

func (w *world) save(actorIDs []string) {
	ctx := deadline(w.T)
	events := make([]eventstore.Event, len(actorIDs))
	versions := map[string]int64{}
	for i, actorID := range actorIDs {
		w.events++
		if versions[actorID] == 0 {
			versions[actorID] = w.latest(actorID)
		}
		versions[actorID]++
		if w.random.IntN(10) == 0 {
			versions[actorID] += w.random.Int64N(1000)
		}
		events[i] = event(fmt.Sprint("e", w.events), actorID, versions[actorID])
	}
	saved, err := w.store().SaveEvents(ctx, events)
	if err != nil {
		w.Fatalf("save %d events, the first %+v: %v", len(events), events[0], err)
	}
	for i, s := range saved {
		w.actors[actorIDs[i]] = append(w.actors[actorIDs[i]], stored{s.Sequence, events[i].ID, s.Version})
	}
}

// foreign stores a message of somebody who knows nothing of events.
func (w *world) foreign(actorID string) {
	ack, err := w.js.Publish(deadline(w.T), jetstream.EventsSubject(w.config.EventsStream, actorID), []byte("anything"))
	if err != nil {
		w.Fatal(err)
	}
	w.actors[actorID] = append(w.actors[actorID], stored{sequence: ack.Sequence})
}

// forge stores an event whose header about the earlier ones is not true.
func (w *world) forge(actorID string) {
	w.events++
	ctx := deadline(w.T)
	version := w.latest(actorID) + 1
	header := eventHeader(actorID, fmt.Sprint("e", w.events), strconv.FormatInt(version, 10))
	others := slices.Concat(slices.Collect(maps.Values(w.actors))...)
	switch w.random.IntN(5) {
	case 0:
		header.Set("aether-prev", "no index")
	case 1:
		// That of another message, of this actor or not.
		if len(others) > 0 {
			stream, err := w.js.Stream(ctx, w.config.EventsStream)
			if err != nil {
				w.Fatal(err)
			}
			if m, err := stream.GetMsg(ctx, others[w.random.IntN(len(others))].sequence); err == nil {
				header["aether-prev"] = m.Header["aether-prev"]
			}
		}
	case 2:
		// One of our own, of an actor that was not there.
		header.Set("aether-prev", "EAIBAAE")
	case 3:
		// The expectation is true, and of another actor.
		if other := w.actor(); other != actorID && len(w.actors[other]) > 0 {
			own := w.actors[other]
			header.Set("Nats-Expected-Last-Subject-Sequence", fmt.Sprint(own[len(own)-1].sequence))
			header.Set("Nats-Expected-Last-Subject-Sequence-Subject", jetstream.EventsSubject(w.config.EventsStream, other))
		}
	case 4:
		// As if it were the first.
	}
	ack, err := w.js.PublishMsg(ctx, &nats.Msg{Subject: jetstream.EventsSubject(w.config.EventsStream, actorID), Header: header, Data: []byte("{}")})
	if err != nil {
		w.Fatal(err)
	}
	w.actors[actorID] = append(w.actors[actorID], stored{ack.Sequence, header.Get("ce-id"), version})
}

func (w *world) erase(actorID string, at int) {
	own := w.actors[actorID]
	// The last stays: what an actor was at without it, nobody knows. So does the latest
	// version where a replica may be behind: while that has it, the same version once more
	// is none that grows.
	if at >= len(own)-1 || w.replicas > 1 && own[at].version == w.latest(actorID) {
		return
	}
	stream, err := w.js.Stream(deadline(w.T), w.config.EventsStream)
	if err != nil {
		w.Fatal(err)
	}
	if err := stream.DeleteMsg(deadline(w.T), own[at].sequence); err != nil {
		w.Fatal(err)
	}
	w.erased[own[at].answer()] = true
	w.actors[actorID] = slices.Delete(own, at, at+1)
}

// answer is what a read answers for the message: the id of an event, and the sequence of
// what is none.
func (s stored) answer() string {
	if s.version == 0 {
		return fmt.Sprint("!", s.sequence)
	}
	return s.id
}

// want is what a read from a version answers, ids of events and sequences of
// what is none.
func (w *world) want(actorID string, from int64) (want []string) {
	var latest int64
	var held []string
	for _, s := range w.actors[actorID] {
		switch {
		case s.version <= latest:
			held = append(held, fmt.Sprint("!", s.sequence))
		case s.version <= from:
			latest, held = s.version, nil
		default:
			latest = s.version
			want = append(append(want, held...), s.id)
			held = nil
		}
	}
	return append(want, held...)
}

// read reads until the answer has nothing that was erased: a replica that is behind has that
// for some moments still.
func (w *world) read(store *jetstream.Store, actorID string, from int64, opts ...eventstore.ReadOption) (got []string) {
	again := w.replicas > 1
	eventually(w.T, "a read without what was erased", func() bool {
		got = w.readOnce(store, actorID, from, opts...)
		behind := slices.IndexFunc(got, func(answer string) bool { return w.erased[answer] })
		if behind >= 0 {
			w.Logf("a read of %s has %s, which was erased", actorID, got[behind])
		}
		return behind < 0 || !again
	})
	return got
}

func (w *world) readOnce(store *jetstream.Store, actorID string, from int64, opts ...eventstore.ReadOption) (got []string) {
	for e, err := range store.Events(deadline(w.T), actorID, from, append(opts, eventstore.UpToDate())...) {
		var malformed *eventstore.ReplayError
		var truncated *eventstore.TruncatedError
		switch {
		case errors.As(err, &truncated):
			// Erased, or forged.
		case errors.As(err, &malformed):
			got = append(got, fmt.Sprint("!", malformed.Sequence))
		case err != nil:
			w.Fatalf("read %s from %d: %v", actorID, from, err)
		default:
			got = append(got, e.ID)
		}
	}
	return got
}

// check reads every actor through every Store.
func (w *world) check() {
	for actorID, own := range w.actors {
		for _, store := range append(w.stores, open(w.T, w.nc, w.config)) {
			latest := w.latest(actorID)
			for _, from := range []int64{0, latest, latest - 1, latest - w.random.Int64N(20), w.random.Int64N(latest + 2)} {
				from = max(from, 0)
				want := w.want(actorID, from)
				if from >= own[len(own)-1].version && own[len(own)-1].version > 0 {
					want = nil
				}
				if got := w.read(store, actorID, from); !slices.Equal(got, want) {
					w.Fatalf("%s of %d messages from version %d of %d:\n got %s\nwant %s", actorID, len(own), from, latest, strings.Join(got, " "), strings.Join(want, " "))
				}
			}
			if version, err := store.GetLatestVersion(deadline(w.T), actorID); err != nil || version != latest {
				w.Fatalf("latest version of %s is %d (%v), want %d", actorID, version, err, latest)
			}
			w.checkFrom(store, actorID)
			n := 1 + w.random.IntN(40)
			want := w.want(actorID, 0)
			slices.Reverse(want)
			if got := w.read(store, actorID, 0, eventstore.Newest(n)); !slices.Equal(got, want[:min(n, len(want))]) {
				w.Fatalf("newest %d of %s:\n got %s\nwant %s", n, actorID, strings.Join(got, " "), strings.Join(want, " "))
			}
		}
	}
}

// checkFrom reads an actor from the sequence of one of its messages, and from one that
// is none.
func (w *world) checkFrom(store *jetstream.Store, actorID string) {
	own := w.actors[actorID]
	at := w.random.IntN(len(own))
	rest := &world{actors: map[string][]stored{actorID: own[at:]}}
	least := own[at].sequence
	if at > 0 {
		least = own[at-1].sequence + 1
	}
	for _, sequence := range []uint64{own[at].sequence, least} {
		if got, want := w.read(store, actorID, 0, eventstore.FromSequence(sequence)), rest.want(actorID, 0); !slices.Equal(got, want) {
			w.Fatalf("%s of %d messages from sequence %d:\n got %s\nwant %s", actorID, len(own), sequence, strings.Join(got, " "), strings.Join(want, " "))
		}
	}
	if got := w.read(store, actorID, 0, eventstore.FromSequence(own[len(own)-1].sequence+1)); len(got) > 0 {
		w.Fatalf("%s from the sequence after its last: %s", actorID, strings.Join(got, " "))
	}
}

// A conflict is explained by what is stored at the versions of the save: what came
// after them is not read, however long it is.
func TestConflictReadsNoHistory(t *testing.T) {
	t.Parallel()
	nc := sharedServers(t, 1).Connect(t)
	config := config()
	createStreams(t, nc, streamConfigs(config, 1)...)
	store := open(t, nc, config)
	ctx := deadline(t)
	const events = 3000
	for batch := range events / 1000 {
		saved := make([]eventstore.Event, 1000)
		for i := range saved {
			saved[i] = eventstore.Event{ID: fmt.Sprintf("e-%d-%d", batch, i), EventType: "T", ActorID: "order-1"}
		}
		if _, err := store.SaveEvents(ctx, saved); err != nil {
			t.Fatal(err)
		}
	}
	before := nc.Stats().InMsgs
	_, err := open(t, nc, config).SaveEvent(ctx, eventstore.Event{ID: "late", EventType: "T", ActorID: "order-1", Version: 3})
	var conflict *eventstore.VersionConflictError
	if !errors.As(err, &conflict) || conflict.CurrentVersion != events {
		t.Fatalf("saved with %v, want a conflict at version %d", err, events)
	}
	// A page, a way down the index to it, and what a save asks in any case.
	if read := nc.Stats().InMsgs - before; read > 600 {
		t.Errorf("%d messages were read for a conflict", read)
	}
	again, err := open(t, nc, config).SaveEvent(ctx, eventstore.Event{ID: "e-0-2", EventType: "T", ActorID: "order-1", Version: 3})
	if err != nil || !again.Duplicate || again.Version != 3 {
		t.Errorf("saved again with %+v, %v, want the duplicate of version 3", again, err)
	}
}
