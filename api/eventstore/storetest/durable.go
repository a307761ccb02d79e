package storetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
)

// RunDurable tests the durable subscriptions of a Store. It calls open as Run
// does.
func RunDurable(t *testing.T, open func(t *testing.T, opts ...eventstore.Option) eventstore.DurableStore) {
	t.Helper()
	for _, c := range []struct {
		name string
		run  func(*env, eventstore.DurableStore)
	}{
		{"delivers in order and resumes", durableResumes},
		{"begins where it is told to", durableBegins},
		{"filters", durableFilters},
		{"an event given back comes again before those after it", durableNak},
		{"an event that is not acknowledged in time comes again", durableAckWait},
		{"an event that was extended does not", durableExtend},
		{"each member has its time", durableOwnAckWait},
		{"parks, lists and replays", durableParks},
		{"parks what nobody acknowledges", durableParksSilent},
		{"replays the events of an actor in order", durableReplaysInOrder},
		{"members share the work, and actors stay in order", durableShares},
		{"members come and go", durableMembersComeAndGo},
		{"an actor that waits holds up no other", durableHoldsUpNoOther},
		{"a member that is overtaken goes on", durableOvertaken},
		{"an application that hangs holds up what it has alone", durableHangs},
		{"what was released comes again", durableReleases},
		{"what was done too late is done", durableLateAck},
		{"nothing overtakes what is given back", durableOrderAfterNak},
		{"an event that waits holds up no other across restarts", durableWaitsAcrossRestarts},
		{"many events that wait hold up no other", durableManyWait},
		{"many are settled above one that waits", durableManySettled},
		{"parks many", durableManyParked},
		{"delivers no more often than it may", durableAtMost},
		{"refuses what makes no sense", durableRefuses},
		{"says how it is doing", durableStatus},
		{"close and delete end a waiting next", durableEnds},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), timeout)
			defer cancel()
			c.run(&env{T: t, ctx: ctx}, open(t))
		})
	}
}

// waitShort is an AckWait that tests can wait for.
const waitShort = time.Second

func (e *env) join(store eventstore.DurableStore, opts eventstore.DurableOptions) eventstore.DurableSubscription {
	e.Helper()
	if opts.Name == "" {
		opts.Name = "projection"
	}
	member, err := store.SubscribeDurable(e.ctx, opts)
	if err != nil {
		e.Fatalf("join: %v", err)
	}
	e.Cleanup(func() {
		if err := member.Close(); err != nil {
			e.Errorf("close: %v", err)
		}
	})
	return member
}

func (e *env) next(member eventstore.DurableSubscription) eventstore.Delivery {
	e.Helper()
	delivery, err := member.Next(e.ctx)
	if err != nil {
		e.Fatalf("next: %v", err)
	}
	return delivery
}

// wantDelivery wants this event to come next, in this attempt.
func (e *env) wantDelivery(member eventstore.DurableSubscription, want eventstore.Event, attempt int) {
	e.Helper()
	got := e.next(member)
	e.wantEvent(got.Event, want)
	if got.Attempt != attempt {
		e.Errorf("attempt %d of sequence %d, want %d", got.Attempt, want.Sequence, attempt)
	}
}

func (e *env) ack(member eventstore.DurableSubscription, sequence uint64) {
	e.Helper()
	if err := member.Ack(e.ctx, sequence); err != nil {
		e.Fatalf("ack %d: %v", sequence, err)
	}
}

func (e *env) nak(member eventstore.DurableSubscription, sequence uint64, delay time.Duration, reason string) {
	e.Helper()
	if err := member.Nak(e.ctx, sequence, delay, reason); err != nil {
		e.Fatalf("nak %d: %v", sequence, err)
	}
}

// wantNothing wants no event to come for a while: whatever could come has had
// the time that others took to come.
func (e *env) wantNothing(member eventstore.DurableSubscription) {
	e.Helper()
	ctx, cancel := context.WithTimeout(e.ctx, 200*time.Millisecond)
	defer cancel()
	if got, err := member.Next(ctx); err == nil {
		e.Errorf("sequence %d of %q came, want none", got.Event.Sequence, got.Event.ActorID)
	}
}

func (e *env) parked(member eventstore.DurableSubscription) []eventstore.Parked {
	e.Helper()
	parked, err := member.Parked(e.ctx)
	if err != nil {
		e.Fatalf("list what is parked: %v", err)
	}
	return parked
}

func durableResumes(e *env, store eventstore.DurableStore) {
	events := e.saved(store, newEvent("order-1", 1), newEvent("order-2", 1), newEvent("order-1", 2))
	member := e.join(store, eventstore.DurableOptions{MaxInHand: 1})
	e.wantDelivery(member, events[0], 1)
	e.ack(member, events[0].Sequence)
	if err := member.Close(); err != nil {
		e.Fatal(err)
	}
	// The place is kept, also for what comes meanwhile; where to begin counts once.
	events = append(events, e.saved(store, newEvent("order-3", 1))...)
	again := e.join(store, eventstore.DurableOptions{MaxInHand: 1, SubscribeOptions: eventstore.SubscribeOptions{FromNow: true}})
	// Among actors there is no order: what the first member had to give back comes
	// when it comes.
	left := map[uint64]eventstore.Event{}
	for _, event := range events[1:] {
		left[event.Sequence] = event
	}
	for len(left) > 0 {
		got := e.next(again)
		e.wantEvent(got.Event, left[got.Event.Sequence])
		e.ack(again, got.Event.Sequence)
		delete(left, got.Event.Sequence)
	}
	e.wantNothing(again)
}

func durableBegins(e *env, store eventstore.DurableStore) {
	events := e.saved(store, newEvents("order-1", 1, 2, 3)...)
	place := e.join(store, eventstore.DurableOptions{Name: "place", SubscribeOptions: eventstore.SubscribeOptions{FromSequence: events[1].Sequence}})
	now := e.join(store, eventstore.DurableOptions{Name: "now", SubscribeOptions: eventstore.SubscribeOptions{FromNow: true}})
	for _, event := range events[1:] {
		e.wantDelivery(place, event, 1)
		e.ack(place, event.Sequence)
	}
	e.wantDelivery(now, e.saved(store, newEvent("order-1", 4))[0], 1)
}

func durableFilters(e *env, store eventstore.DurableStore) {
	events := newEvents("order-1", 1, 2, 3)
	events[1].EventType = "Paid"
	other := newEvent("item-1", 1)
	other.EventType = "Paid"
	events = e.saved(store, append(events, other)...)
	for name, c := range map[string]struct {
		opts eventstore.SubscribeOptions
		want []eventstore.Event
	}{
		"type":      {eventstore.SubscribeOptions{ActorType: "item"}, events[3:]},
		"actor":     {eventstore.SubscribeOptions{ActorID: "order-1"}, events[:3]},
		"eventtype": {eventstore.SubscribeOptions{EventType: "Paid"}, []eventstore.Event{events[1], events[3]}},
	} {
		member := e.join(store, eventstore.DurableOptions{Name: name, SubscribeOptions: c.opts})
		for range c.want {
			got := e.next(member)
			if !slices.ContainsFunc(c.want, func(w eventstore.Event) bool { return w.ID == got.Event.ID }) {
				e.Errorf("%s: event %s came", name, got.Event.ID)
			}
			e.ack(member, got.Event.Sequence)
		}
		e.wantNothing(member)
		_, err := store.SubscribeDurable(e.ctx, eventstore.DurableOptions{Name: name})
		e.wantInvalid(err, "durable")
	}
}

func durableNak(e *env, store eventstore.DurableStore) {
	member := e.join(store, eventstore.DurableOptions{})
	events := e.saved(store, newEvents("order-1", 1, 2)...)
	e.wantDelivery(member, events[0], 1)
	e.nak(member, events[0].Sequence, 0, "later")
	e.wantDelivery(member, events[0], 2)
	delayed := time.Now()
	e.nak(member, events[0].Sequence, 300*time.Millisecond, "later")
	e.wantDelivery(member, events[0], 3)
	if waited := time.Since(delayed); waited < 250*time.Millisecond {
		e.Errorf("it came again after %s, and 300ms was asked for", waited)
	}
	e.ack(member, events[0].Sequence)
	e.wantDelivery(member, events[1], 1)
	e.ack(member, events[1].Sequence)
	// Done is done, however often it is said.
	e.ack(member, events[1].Sequence)
	e.wantErrorIs(member.Nak(e.ctx, events[1].Sequence, 0, ""), eventstore.ErrNotInHand)
	e.wantErrorIs(member.Nak(e.ctx, 999_999, 0, ""), eventstore.ErrNotInHand)
}

func durableAckWait(e *env, store eventstore.DurableStore) {
	// What it has had in hand for too long takes no room.
	member := e.join(store, eventstore.DurableOptions{AckWait: waitShort, MaxInHand: 1})
	events := e.saved(store, newEvents("order-1", 1, 2)...)
	e.wantDelivery(member, events[0], 1)
	e.wantDelivery(member, events[0], 2)
	e.ack(member, events[0].Sequence)
	if got := e.next(member); got.Event.ID != events[1].ID {
		e.Errorf("event %s came, want the next", got.Event.ID)
	}
}

func durableExtend(e *env, store eventstore.DurableStore) {
	member := e.join(store, eventstore.DurableOptions{AckWait: 3 * waitShort})
	events := e.saved(store, newEvents("order-1", 1)...)
	e.wantDelivery(member, events[0], 1)
	for until := time.Now().Add(4 * waitShort); time.Now().Before(until); {
		if err := member.Extend(e.ctx, events[0].Sequence); err != nil {
			e.Fatalf("extend: %v", err)
		}
		e.wantNothing(member)
	}
	e.ack(member, events[0].Sequence)
}

// durableOwnAckWait: a member that may have its events for less time than another takes
// none of that one's.
func durableOwnAckWait(e *env, store eventstore.DurableStore) {
	slow := e.join(store, eventstore.DurableOptions{AckWait: 30 * waitShort, MaxInHand: 1})
	quick := e.join(store, eventstore.DurableOptions{AckWait: waitShort, MaxInHand: 1})
	e.wantNothing(slow)
	e.wantNothing(quick)
	events := e.saved(store, newEvents("order-1", 1)...)
	// The other lets go of it, where it has it.
	e.wantDelivery(slow, events[0], 1)
	ctx, cancel := context.WithTimeout(e.ctx, 3*waitShort)
	defer cancel()
	if got, err := quick.Next(ctx); err == nil {
		e.Errorf("attempt %d of sequence %d came to another", got.Attempt, got.Event.Sequence)
	}
	e.ack(slow, events[0].Sequence)
}

func durableParks(e *env, store eventstore.DurableStore) {
	opts := eventstore.DurableOptions{MaxDeliveries: 2}
	member := e.join(store, opts)
	events := e.saved(store, newEvents("order-1", 1, 2)...)
	poison := events[0].Sequence
	for attempt := 1; attempt <= 2; attempt++ {
		e.wantDelivery(member, events[0], attempt)
		e.nak(member, poison, 0, "no such customer")
	}
	// Parked, it holds up nothing.
	e.wantDelivery(member, events[1], 1)
	e.ack(member, events[1].Sequence)
	want := eventstore.Parked{Sequence: poison, ActorID: "order-1", Attempts: 2, Reason: "no such customer"}
	got := e.parked(member)
	if len(got) != 1 || got[0].At.IsZero() {
		e.Fatalf("parked %+v, want %+v", got, want)
	}
	if want.At = got[0].At; got[0] != want {
		e.Errorf("parked %+v, want %+v", got[0], want)
	}
	// Another member sees it as well, and the replay outlives who asked for it.
	other := e.join(store, opts)
	if n, err := other.Replay(e.ctx, 999_999); n != 0 || err != nil {
		e.Errorf("replay of what is not parked: %d, %v", n, err)
	}
	if n, err := other.Replay(e.ctx); n != 1 || err != nil {
		e.Fatalf("replay: %d, %v", n, err)
	}
	e.wantDelivery(member, events[0], 1)
	if got := e.parked(member); len(got) != 1 || !got[0].Replaying {
		e.Errorf("while it is replayed, parked is %+v", got)
	}
	e.nak(member, poison, 0, "still not")
	e.wantDelivery(member, events[0], 2)
	e.nak(member, poison, 0, "never")
	if got := e.parked(member); len(got) != 1 || got[0].Replaying || got[0].Reason != "never" {
		e.Errorf("parked again: %+v", got)
	}
	if n, err := member.Replay(e.ctx, poison); n != 1 || err != nil {
		e.Fatalf("replay: %d, %v", n, err)
	}
	e.wantDelivery(member, events[0], 1)
	e.ack(member, poison)
	if got := e.parked(member); len(got) != 0 {
		e.Errorf("after it was acknowledged: %+v", got)
	}
	e.wantNothing(member)
}

// durableParksSilent: an event whose members do nothing, as if it killed them.
func durableParksSilent(e *env, store eventstore.DurableStore) {
	opts := eventstore.DurableOptions{MaxDeliveries: 1, AckWait: waitShort}
	events := e.saved(store, newEvents("order-1", 1)...)
	for deliveries := 0; ; deliveries++ {
		// One member after the other takes it, and is gone.
		member := e.join(store, opts)
		ctx, cancel := context.WithTimeout(e.ctx, 2*waitShort)
		_, err := member.Next(ctx)
		cancel()
		if err != nil {
			parked := e.parked(member)
			if len(parked) != 1 || parked[0].Sequence != events[0].Sequence || parked[0].Reason == "" {
				e.Fatalf("after %d deliveries parked is %+v, %v", deliveries, parked, err)
			}
			return
		}
		if err := member.Close(); err != nil {
			e.Fatal(err)
		}
	}
}

func durableReplaysInOrder(e *env, store eventstore.DurableStore) {
	member := e.join(store, eventstore.DurableOptions{MaxDeliveries: 1})
	events := e.saved(store, newEvents("order-1", 1, 2, 3)...)
	for _, event := range events {
		e.wantDelivery(member, event, 1)
		e.nak(member, event.Sequence, 0, "not now")
	}
	if n, err := member.Replay(e.ctx); n != 3 || err != nil {
		e.Fatalf("replay: %d, %v", n, err)
	}
	for _, event := range events {
		e.wantDelivery(member, event, 1)
		e.ack(member, event.Sequence)
	}
	if got := e.parked(member); len(got) != 0 {
		e.Errorf("after all were acknowledged: %+v", got)
	}
}

// order watches over the deliveries of all members.
type order struct {
	mu       sync.Mutex
	versions map[string]int64
	inHand   map[string]bool
	seen     map[string]int
	left     int
	done     chan struct{}
}

func newOrder(events int) *order {
	return &order{versions: map[string]int64{}, inHand: map[string]bool{}, seen: map[string]int{}, left: events, done: make(chan struct{})}
}

func (o *order) began(event eventstore.Event) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.inHand[event.ActorID] {
		return fmt.Errorf("version %d of %q came while another of that actor was in hand", event.Version, event.ActorID)
	}
	if o.versions[event.ActorID]+1 != event.Version {
		return fmt.Errorf("version %d of %q came after version %d", event.Version, event.ActorID, o.versions[event.ActorID])
	}
	o.inHand[event.ActorID] = true
	o.seen[event.ID]++
	return nil
}

func (o *order) ended(event eventstore.Event, acknowledged bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.inHand[event.ActorID] = false
	if acknowledged {
		o.versions[event.ActorID] = event.Version
		if o.left--; o.left == 0 {
			close(o.done)
		}
	}
}

// work takes events until all are done, and gives some back.
func (o *order) work(e *env, member eventstore.DurableSubscription) {
	ctx, cancel := context.WithCancel(e.ctx)
	defer cancel()
	go func() {
		select {
		case <-o.done:
			cancel()
		case <-ctx.Done():
		}
	}()
	for n := 1; ; n++ {
		delivery, err := member.Next(ctx)
		if err != nil {
			if !errors.Is(err, context.Canceled) {
				e.Errorf("next: %v", err)
			}
			return
		}
		if err := o.began(delivery.Event); err != nil {
			e.Error(err)
			return
		}
		back := n%7 == 0
		// Before the answer: another member may have the next event before this one
		// hears that it is done.
		o.ended(delivery.Event, !back)
		if back {
			err = member.Nak(e.ctx, delivery.Event.Sequence, 5*time.Millisecond, "again")
		} else {
			err = member.Ack(e.ctx, delivery.Event.Sequence)
		}
		if err != nil {
			e.Errorf("settle: %v", err)
			return
		}
	}
}

func durableShares(e *env, store eventstore.DurableStore) {
	const actors, versions, members, inHand = 12, 12, 3, 4
	o := newOrder(actors * versions)
	write := func(version int64) {
		var batch []eventstore.Event
		for _, v := range []int64{version, version + 1} {
			for actor := range actors {
				batch = append(batch, newEvent(fmt.Sprintf("order-%d", actor), v))
			}
		}
		// In one go and one by one: the messages prove differently what they follow on.
		if version%4 == 1 {
			e.saveAll(store, batch)
			return
		}
		for _, event := range batch {
			e.save(store, event)
		}
	}
	write(1)
	// There are as many actors as all members take at once, so that none can keep
	// another from its share.
	var joined []eventstore.DurableSubscription
	var taken []eventstore.Event
	for range members {
		member := e.join(store, eventstore.DurableOptions{MaxInHand: inHand, MaxDeliveries: 1000})
		joined = append(joined, member)
		event := e.next(member).Event
		if err := o.began(event); err != nil {
			e.Error(err)
		}
		taken = append(taken, event)
	}
	// Each has one at the same time.
	for i, event := range taken {
		o.ended(event, true)
		e.ack(joined[i], event.Sequence)
	}
	var working sync.WaitGroup
	for _, member := range joined {
		for range 2 {
			working.Go(func() { o.work(e, member) })
		}
	}
	for version := int64(3); version <= versions; version += 2 {
		write(version)
	}
	working.Wait()
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.left != 0 || len(o.seen) != actors*versions {
		e.Errorf("%d events are left, %d were seen of %d", o.left, len(o.seen), actors*versions)
	}
}

// durableMembersComeAndGo: what a member has in hand when it goes, others get.
func durableMembersComeAndGo(e *env, store eventstore.DurableStore) {
	const actors, versions = 5, 20
	opts := eventstore.DurableOptions{MaxInHand: 8, MaxDeliveries: 1000, AckWait: 5 * waitShort}
	var events []eventstore.Event
	for version := int64(1); version <= versions; version++ {
		for actor := range actors {
			events = append(events, newEvent(fmt.Sprintf("order-%d", actor), version))
		}
	}
	e.saveAll(store, events)
	versionsSeen := map[string]int64{}
	for left := len(events); left > 0; {
		member := e.join(store, opts)
		for range 7 {
			if left == 0 {
				break
			}
			delivery := e.next(member)
			if delivery.Event.Version != versionsSeen[delivery.Event.ActorID]+1 {
				e.Fatalf("version %d of %q came after version %d", delivery.Event.Version, delivery.Event.ActorID, versionsSeen[delivery.Event.ActorID])
			}
			versionsSeen[delivery.Event.ActorID]++
			e.ack(member, delivery.Event.Sequence)
			left--
		}
		if left > 0 {
			// Taken, and not done.
			e.next(member)
		}
		if err := member.Close(); err != nil {
			e.Fatal(err)
		}
	}
}

// durableHoldsUpNoOther: the events of an actor wait for one that is given back
// for long, more of them than a member takes, and another actor goes on.
func durableHoldsUpNoOther(e *env, store eventstore.DurableStore) {
	opts := eventstore.DurableOptions{MaxInHand: 2, AckWait: 4 * waitShort}
	member := e.join(store, opts)
	slow := e.saved(store, newEvents("slow-1", 1, 2, 3, 4, 5, 6, 7, 8)...)
	e.wantDelivery(member, slow[0], 1)
	e.nak(member, slow[0].Sequence, 6*waitShort, "not now")
	quick := e.saved(store, newEvents("quick-1", 1, 2, 3)...)
	for _, event := range quick {
		e.wantDelivery(member, event, 1)
		e.ack(member, event.Sequence)
	}
	for i, event := range slow {
		got := e.next(member)
		e.wantEvent(got.Event, event)
		// What waited was not counted as delivered again.
		if i > 0 && got.Attempt != 1 {
			e.Errorf("attempt %d of version %d, want 1", got.Attempt, event.Version)
		}
		e.ack(member, event.Sequence)
	}
}

func durableRefuses(e *env, store eventstore.DurableStore) {
	for field, opts := range map[string]eventstore.DurableOptions{
		"durable":       {Name: "a.b"},
		"ackWait":       {Name: "a", AckWait: time.Millisecond},
		"maxDeliveries": {Name: "a", MaxDeliveries: -1},
		"maxInHand":     {Name: "a", MaxInHand: -1},
		"fromSequence":  {Name: "a", SubscribeOptions: eventstore.SubscribeOptions{FromSequence: 1, FromNow: true}},
	} {
		_, err := store.SubscribeDurable(e.ctx, opts)
		e.wantInvalid(err, field)
	}
	_, err := store.SubscribeDurable(e.ctx, eventstore.DurableOptions{})
	e.wantInvalid(err, "durable")
	e.wantInvalid(store.DeleteDurable(e.ctx, "a.b"), "durable")
	if err := store.DeleteDurable(e.ctx, "never-there"); err != nil {
		e.Errorf("delete what is not there: %v", err)
	}
}

func durableEnds(e *env, store eventstore.DurableStore) {
	ends := map[string]func(eventstore.DurableSubscription) error{
		"close":  func(member eventstore.DurableSubscription) error { return errors.Join(member.Close(), member.Close()) },
		"delete": func(eventstore.DurableSubscription) error { return store.DeleteDurable(e.ctx, "delete") },
	}
	wants := map[string]error{"close": eventstore.ErrSubscriptionClosed, "delete": eventstore.ErrNoDurable}
	for name, end := range ends {
		member := e.join(store, eventstore.DurableOptions{Name: name})
		event := e.saved(store, newEvent("order-"+name, 1))[0]
		for got := e.next(member); got.Event.ID != event.ID; got = e.next(member) {
			e.ack(member, got.Event.Sequence)
		}
		e.ack(member, event.Sequence)
		ended := make(chan error)
		go func() {
			_, err := member.Next(e.ctx)
			ended <- err
		}()
		if err := end(member); err != nil {
			e.Errorf("%s: %v", name, err)
		}
		e.wantErrorIs(<-ended, wants[name])
		e.wantErrorIs(member.Ack(e.ctx, event.Sequence), wants[name])
	}
}
