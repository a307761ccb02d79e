package jetstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/internal/group"
)

// wordLook is the only word on the subject of a group: the record has changed.
// Whoever else says it makes members read the record, and no more.
const wordLook = "look"

// lookPause is how often a record is read at most.
const lookPause = 200 * time.Millisecond

// maxEventOnWire is how large an event may be to go along with its hand-out. A
// member gets a larger one itself.
const maxEventOnWire = 128 << 10

// heldOnWire is how much one event in hand takes at most of what a member says of
// itself, twice if its time is over. All of them are told in one message.
const heldOnWire = 150

// spoken is what members say to each other, one of the two.
type spoken struct {
	Up   *group.ToCoordinator `json:"up,omitempty"`
	Down *group.ToMember      `json:"down,omitempty"`
	// Event is that of a hand-out.
	Event *spokenEvent `json:"event,omitempty"`
}

type spokenEvent struct {
	Subject string      `json:"subject"`
	Header  nats.Header `json:"header"`
	Data    []byte      `json:"data,omitempty"`
}

// memberSubject is where a member of the group of a key is told something.
func memberSubject(stream, key, member string) string { return GroupSubject(stream, key+"-"+member) }

func (d *durable) subjectOf(member string) string {
	return memberSubject(d.store.config.EventsStream, d.key, member)
}

func (d *durable) listen() error {
	var err error
	if d.own, err = d.store.nc.Subscribe(d.subjectOf(d.id), d.hear); err == nil {
		d.group, err = d.store.nc.Subscribe(GroupSubject(d.store.config.EventsStream, d.key), d.hearWord)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", eventstore.ErrUnavailable, err)
	}
	return nil
}

// run lets time pass until the membership has ended.
func (d *durable) run() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-d.life.Done():
			return
		case <-d.poke:
		case <-timer.C:
		}
		d.mu.Lock()
		now := time.Now()
		if d.lead != nil {
			d.lead.machine.Tick(now)
		}
		d.speak(now)
		if d.lead == nil && d.member.Silent(now) {
			d.look = true
		}
		// Who is leaving looks too: if nobody coordinates, it does, to say what it had.
		if d.look && !d.looking && now.Sub(d.looked) >= lookPause && (d.over.Err() == nil || d.told != nil) {
			d.look, d.looking, d.looked = false, true, now
			d.spawn(d.readRecord)
		}
		wake := d.member.Wake(now)
		if d.lead != nil {
			if of := d.lead.machine.Wake(); of.Before(wake) {
				wake = of
			}
		} else if limit := now.Add(group.PingInterval); limit.Before(wake) {
			wake = limit
		}
		if d.look && wake.After(now.Add(lookPause)) {
			wake = now.Add(lookPause)
		}
		d.mu.Unlock()
		timer.Reset(max(wake.Sub(now), time.Millisecond))
	}
}

// spawn starts a goroutine of the membership, unless it has ended. The lock is
// held.
func (d *durable) spawn(do func()) {
	if d.life.Err() == nil {
		d.background.Go(do)
	}
}

func (d *durable) wake() {
	select {
	case d.poke <- struct{}{}:
	default:
	}
}

// speak says what the member has to say. The lock is held.
func (d *durable) speak(now time.Time) {
	for _, said := range d.member.Tick(now) {
		switch {
		case d.lead != nil:
			d.lead.machine.Hear(now, said)
		case d.member.Coordinator() != d.id:
			d.send(d.member.Coordinator(), spoken{Up: &said})
		}
	}
	if d.lead != nil {
		d.lead.flush(now)
	}
}

func (d *durable) send(member string, what spoken) {
	data, err := json.Marshal(what)
	if err == nil && what.Event != nil && int64(len(data)) > d.store.nc.MaxPayload() {
		// The member gets the event itself.
		what.Event = nil
		data, err = json.Marshal(what)
	}
	if err != nil {
		return
	}
	// It fails when the connection is lost, and then it is said again.
	_ = d.store.nc.Publish(d.subjectOf(member), data)
}

// sendDown says something to another member, with the event of a hand-out.
func (d *durable) sendDown(said group.ToMember) {
	what := spoken{Down: &said}
	if said.Deliver != nil {
		if m, is := said.Deliver.Payload.(*message); is && m != nil && len(m.Data) <= maxEventOnWire {
			what.Event = &spokenEvent{Subject: m.Subject, Header: m.Header, Data: m.Data}
		}
	}
	d.send(said.Member, what)
}

// hear takes what another member says. Who may read another stream can have what
// it holds sent to a subject, as an answer: but that has a header, or says where
// to acknowledge; and nobody but members knows this subject.
func (d *durable) hear(msg *nats.Msg) {
	if len(msg.Header) > 0 || msg.Reply != "" {
		return
	}
	var said spoken
	if json.Unmarshal(msg.Data, &said) != nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	now := time.Now()
	switch {
	case said.Up != nil && d.lead != nil:
		d.lead.machine.Hear(now, *said.Up)
		d.lead.flush(now)
	case said.Down != nil:
		if said.Down.Deliver != nil && said.Event != nil {
			d.keep(said.Down.Deliver, &message{
				Subject: said.Event.Subject, Sequence: said.Down.Deliver.Sequence, Header: said.Event.Header, Data: said.Event.Data,
			})
		}
		d.hearDown(now, *said.Down)
		d.wake()
	}
}

// hearDown takes what the coordinator says. The lock is held.
func (d *durable) hearDown(now time.Time, said group.ToMember) {
	if !d.member.Hear(now, said) {
		d.look = true
	}
	d.kept.leave(int64(d.member.Kept()))
	if said.Deliver != nil || said.Pong {
		close(d.changed)
		d.changed = make(chan struct{})
	}
}

func (d *durable) hearWord(msg *nats.Msg) {
	if len(msg.Header) > 0 || msg.Reply != "" || string(msg.Data) != wordLook {
		return
	}
	d.mu.Lock()
	d.look = true
	d.mu.Unlock()
	d.wake()
}

// readRecord reads the record, and takes over where nobody coordinates.
func (d *durable) readRecord() {
	ctx, cancel := context.WithTimeout(d.life, 2*tryTimeout)
	defer cancel()
	main, sequence, err := d.store.readMain(ctx, d.opts.Name)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.looking = false
	switch {
	case errCode(err) == codeStreamNotFound:
		d.end(fmt.Errorf("%w: stream %s of its record is gone: %w", eventstore.ErrNoDurable, d.store.config.SnapshotsStream, err))
	case errors.Is(err, eventstore.ErrPermissionDenied):
		d.end(err)
	case err != nil:
		d.look = true
	case main == nil || main.Deleted || main.Key != d.key:
		d.end(fmt.Errorf("%w: it was deleted", eventstore.ErrNoDurable))
		d.depose()
	default:
		d.found(main, sequence)
	}
	d.wake()
}

// found takes what the record says. The lock is held.
func (d *durable) found(main *group.Main, sequence uint64) {
	now := time.Now()
	if d.lead != nil {
		if d.lead.machine != nil && main.Coordinator == d.id || main.Epoch < d.lead.epoch {
			return
		}
		d.depose()
	}
	silent := d.member.Silent(now) && d.seen == sequence
	d.member.Follow(now, main.Epoch, main.Coordinator)
	d.seen = sequence
	if main.Coordinator == "" || silent || d.store.hasDeparted(main.Coordinator) {
		d.looking = true
		d.spawn(func() { d.takeOver(*main, sequence) })
	}
}

// Bounds of what is remembered of members that could not tell that they ended: how many
// there are, and how many events of one group they tell of in one message.
const (
	maxDeparted     = 256
	maxDepartedHeld = 200
)

// departure is a member that has ended, of the group of a key.
type departure struct {
	key string
	group.Leave
}

// departed remembers a member of this Store that has ended and could not tell.
func (s *Store) departed(key string, left group.Leave) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gone == nil || len(s.gone) >= maxDeparted {
		s.gone = map[string]departure{}
	}
	s.gone[left.Member] = departure{key, left}
}

// departures are those of a group. The events of those for which there is no room come
// again after AckWait.
func (s *Store) departures(key string) []group.Leave {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []group.Leave
	room := maxDepartedHeld
	for _, d := range s.gone {
		// A member takes some room beside what it had.
		if need := len(d.Have) + 1; d.key == key && need <= room {
			list, room = append(list, d.Leave), room-need
		}
	}
	return list
}

func (s *Store) hasDeparted(member string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, gone := s.gone[member]
	return gone
}
