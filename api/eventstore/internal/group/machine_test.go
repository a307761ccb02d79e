package group

import (
	"slices"
	"testing"
	"time"
)

// driven is a coordinator with one member, p, and a store that writes at once when it
// is told to.
type driven struct {
	*Machine
	now   time.Time
	got   []uint64
	pings uint64
	// stored is the record as it was written last.
	stored Main
}

func drive(config Config, deliveries int) *driven {
	d := &driven{now: time.Unix(1_700_000_000, 0)}
	config.Alone = true
	d.Machine = New(config, Main{Epoch: 1, Revision: 1, Coordinator: "a", Key: "k", AckWait: time.Minute, MaxDeliveries: deliveries}, nil, d.now)
	d.ping(Ping{})
	return d
}

// ping is said by p, which takes 10 events.
func (d *driven) ping(said Ping) {
	d.pings++
	said.Number, said.Room, said.AckWait, said.MaxDeliveries = d.pings, 10, time.Minute, d.main.MaxDeliveries
	d.Hear(d.now, ToCoordinator{Epoch: 1, Member: "p", Ping: &said})
}

func (d *driven) ask(r Request) { d.Hear(d.now, ToCoordinator{Epoch: 1, Member: "p", Request: &r}) }

func (d *driven) arrives(sequence uint64, actor string, payload any, size int) {
	d.Arrived(d.now, Arrival{Sequence: sequence, Actor: actor, At: d.now, Payload: payload, Size: size})
}

func (d *driven) writeShards() (wrote bool) {
	for _, w := range d.Shards() {
		d.ShardCommitted(d.now, w.Number)
		wrote = true
	}
	return wrote
}

func (d *driven) writeMain() (wrote bool) {
	var main Main
	if main, wrote = d.Main(); wrote {
		d.stored = main
		d.Committed(d.now)
	}
	return wrote
}

// write stores all, and takes what is delivered.
func (d *driven) write() {
	for d.writeShards() || d.writeMain() {
	}
	for _, said := range d.Messages() {
		if said.Deliver != nil {
			d.got = append(d.got, said.Deliver.Sequence)
		}
	}
}

// An actor whose parked event is done while its other events arrive is one actor still.
func TestActorIsKnownOnce(t *testing.T) {
	d := drive(Config{}, 1)
	const actor = "order.order-1"
	d.arrives(1, actor, nil, 0)
	d.write()
	d.ask(Request{ID: 1, Kind: KindNak, Sequence: 1, Attempt: 1})
	d.writeShards()
	d.writeMain()
	d.writeShards()
	if _, is := d.Main(); !is {
		t.Fatal("Main is not written")
	}
	d.ask(Request{ID: 2, Kind: KindReplay})
	d.writeShards()
	d.ask(Request{ID: 3, Kind: KindAck, Sequence: 1, Attempt: 1})
	d.arrives(2, actor, nil, 0)
	d.Committed(d.now)
	d.arrives(3, actor, nil, 0)
	d.write()
	if slices.Contains(d.got, 3) || !slices.Contains(d.got, 2) {
		t.Errorf("delivered were %v, before 2 was acknowledged", d.got)
	}
}

// What has left the window keeps nothing of its event.
func TestWhatWaitsKeepsNoEvent(t *testing.T) {
	d := drive(Config{}, 5)
	d.arrives(1, "order.order-1", "large", 1000)
	d.write()
	d.ask(Request{ID: 1, Kind: KindNak, Sequence: 1, Attempt: 1, Delay: time.Hour})
	d.write()
	if d.bytes != 0 || d.tasks[1].payload != nil {
		t.Errorf("%d bytes are kept, and %v", d.bytes, d.tasks[1].payload)
	}
}

// A request that is said again while its write is under way takes no more memory.
func TestRequestsThatWaitAreKnownOnce(t *testing.T) {
	d := drive(Config{}, 5)
	d.arrives(1, "order.order-1", nil, 0)
	d.arrives(2, "order.order-2", nil, 0)
	d.write()
	for range 100 {
		d.ask(Request{ID: 1, Kind: KindAck, Sequence: 1, Attempt: 1})
		d.ask(Request{ID: 2, Kind: KindNak, Sequence: 2, Attempt: 1, Delay: time.Hour})
	}
	waiting := len(d.record.next) + len(d.tasks[1].answers)
	for _, s := range d.shards {
		waiting += len(s.next)
	}
	if waiting > 5 {
		t.Errorf("%d things wait for a write", waiting)
	}
	answers := 0
	for d.writeShards() || d.writeMain() {
	}
	for _, said := range d.Messages() {
		if said.Answer != nil {
			answers++
		}
	}
	if answers != 2 {
		t.Errorf("%d answers to two requests", answers)
	}
}

// An event that no shard has room for is delivered no more often than it may, also where
// another coordinates after each delivery.
func TestDeliveriesWithoutRoomAreCounted(t *testing.T) {
	const most = 3
	config := Config{MaxShardBytes: 1}
	d := drive(config, most)
	for attempt := 1; attempt <= most+2; attempt++ {
		d.arrives(1, "order.order-1", nil, 0)
		d.ping(Ping{Expired: []Held{{Sequence: 1, Attempt: attempt - 1}}})
		d.now = d.now.Add(time.Minute)
		d.ping(Ping{})
		d.Tick(d.now)
		d.write()
		if want := min(attempt, most); len(d.got) != want {
			t.Fatalf("%d deliveries after %d rounds, want %d", len(d.got), attempt, want)
		}
		main, err := Decode[Main](Encode(d.stored))
		if err != nil {
			t.Fatal(err)
		}
		config.Alone = true
		d.Machine = New(config, main, nil, d.now)
	}
}
