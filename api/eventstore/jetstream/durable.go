package jetstream

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
)

const (
	// maxAckPending is how many events all members of a durable subscription have at
	// most, in hand or held back: what bounds their memory. JetStream's own default.
	maxAckPending = 1000
	// givenBack is how many deliveries beyond the limit an event is allowed before
	// it is parked without being handed out once more. A member that is stopped
	// gives back what it has, and JetStream counts that as a delivery: 16 such
	// stops should not park an event that nobody has looked at. What kills each
	// member that touches it is parked all the same.
	givenBack = 16
	// metadataEventType is where the consumer keeps the filter that JetStream does
	// not know.
	metadataEventType = "aether.flowmade.one/event-type"
	// metadataGroupKey is where it keeps the random part of the subject on which the
	// members tell each other what they have settled: only who may look at the consumer
	// knows it.
	metadataGroupKey = "aether.flowmade.one/group-key"
)

// durable is the membership in a durable subscription: a durable pull consumer
// that all members ask for events.
//
// JetStream hands each message to one of them, and does not care about actors.
// So a member holds an event back until the one before it of the same actor is
// settled. Which one that is, the event says itself; see history. Members tell
// each other what they have settled, on a subject of core NATS; what such a
// message does not reach is found out from the consumer's acknowledgement floor.
type durable struct {
	store *Store
	opts  eventstore.DurableOptions
	// life ends with Close, or with what makes the membership impossible.
	life context.Context
	end  context.CancelCauseFunc
	// background are the goroutines of the membership; ending keeps new ones from
	// being started while Close waits for them.
	background sync.WaitGroup
	ending     sync.RWMutex

	arrived, news chan *nats.Msg
	deliveries    *nats.Subscription
	group         *nats.Subscription
	// poke wakes run when there may be more to ask for.
	poke chan struct{}

	mu    sync.Mutex
	turns *turns
	// line are deliveries that wait for a Next, and inHand those that a Next has
	// answered. Both are held in turns too, but for what was delivered once more.
	line   []*delivery
	inHand map[uint64]*delivery
	// changed is closed when line has grown, and replaced.
	changed chan struct{}
	// active: somebody has called Next.
	active bool
	// wanted is how many messages were asked for that have not come, and heard when
	// the server was last heard of.
	wanted int
	heard  time.Time
	// asking: what others have in hand is being asked for.
	asking bool
	// extended is when the time of what waits here was extended.
	extended time.Time
}

var _ eventstore.DurableStore = (*Store)(nil)

// SubscribeDurable joins a durable subscription: a durable consumer of the same
// name on the events stream.
func (s *Store) SubscribeDurable(ctx context.Context, opts eventstore.DurableOptions) (eventstore.DurableSubscription, error) {
	d, err := s.join(ctx, opts)
	if err != nil {
		return nil, fmt.Errorf("join durable subscription %.100q of stream %s: %w", opts.Name, s.config.EventsStream, err)
	}
	return d, nil
}

func (s *Store) join(ctx context.Context, opts eventstore.DurableOptions) (*durable, error) {
	opts, err := opts.WithDefaults()
	if err != nil {
		return nil, err
	}
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	info, err := s.bind(ctx, opts)
	if err != nil {
		return nil, err
	}
	opts.AckWait = info.Config.AckWait
	d := &durable{
		store: s, opts: opts, changed: make(chan struct{}), poke: make(chan struct{}, 1), inHand: map[uint64]*delivery{},
		// What does not fit is dropped, and delivered again.
		arrived: make(chan *nats.Msg, 2*opts.MaxInHand+16), news: make(chan *nats.Msg, 1024),
	}
	if d.turns, err = newTurns(info.AckFloor.Stream); err != nil {
		return nil, err
	}
	// Not of ctx, which is for this call.
	d.life, d.end = context.WithCancelCause(context.WithoutCancel(ctx))
	if d.deliveries, err = s.nc.ChanSubscribe(s.nc.NewInbox(), d.arrived); err == nil {
		d.group, err = s.nc.ChanSubscribe(GroupSubject(s.config.EventsStream, info.Config.Metadata[metadataGroupKey]), d.news)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%w: %w", eventstore.ErrUnavailable, err), d.Close())
	}
	d.spawn(d.run)
	return d, s.register(d)
}

// spawn starts a goroutine of the membership, unless it has ended.
func (d *durable) spawn(do func()) {
	d.ending.RLock()
	defer d.ending.RUnlock()
	if d.life.Err() == nil {
		d.background.Go(do)
	}
}

// bind answers the consumer of a durable subscription, and makes it where there
// is none.
func (s *Store) bind(ctx context.Context, opts eventstore.DurableOptions) (*consumerInfo, error) {
	info, err := s.consumer(ctx, opts.Name)
	if errCode(err) == codeConsumerNotFound {
		if info, err = s.makeConsumer(ctx, opts); isConsumerThere(err) {
			// Another member was first.
			info, err = s.consumer(ctx, opts.Name)
		}
	}
	if err != nil {
		return nil, err
	}
	filter, eventType := s.subjectsOf("events", opts.SubscribeOptions), info.Config.Metadata[metadataEventType]
	if info.Config.FilterSubject != filter || eventType != opts.EventType || info.Config.AckPolicy != "explicit" {
		return nil, &eventstore.InvalidEventError{Field: "durable", Reason: fmt.Sprintf(
			"%.100q delivers subject %.100q and event type %.100q, not subject %.100q and event type %.100q: give other filters another name",
			opts.Name, info.Config.FilterSubject, eventType, filter, opts.EventType)}
	}
	if key := info.Config.Metadata[metadataGroupKey]; key == "" || EncodeToken(key) != key {
		return nil, &eventstore.InvalidEventError{Field: "durable", Reason: fmt.Sprintf(
			"%q is a consumer that was not made by SubscribeDurable: it has no %s in its metadata; give another name, or delete it", opts.Name, metadataGroupKey)}
	}
	if info.Config.AckWait != opts.AckWait {
		info.Config.AckWait = opts.AckWait
		return s.writeConsumer(ctx, "update", info.Config)
	}
	return info, nil
}

func isConsumerThere(err error) bool {
	switch errCode(err) {
	case codeConsumerExists, codeConsumerExistsToo, codeConsumerNameExists:
		return true
	}
	return false
}

func (s *Store) makeConsumer(ctx context.Context, opts eventstore.DurableOptions) (*consumerInfo, error) {
	start, err := s.startOf(ctx, opts.SubscribeOptions)
	if err != nil {
		return nil, err
	}
	return s.writeConsumer(ctx, "create", consumerConfig{
		Name: opts.Name, Durable: opts.Name, DeliverPolicy: "by_start_sequence", StartSequence: start, ReplayPolicy: "instant",
		FilterSubject: s.subjectsOf("events", opts.SubscribeOptions), AckPolicy: "explicit", AckWait: opts.AckWait,
		// The limit of deliveries is kept here: JetStream would drop the event.
		MaxDeliver: -1, MaxAckPending: maxAckPending,
		Metadata: map[string]string{metadataEventType: opts.EventType, metadataGroupKey: rand.Text()},
	})
}

// DeleteDurable deletes the consumer, and forgets what was parked.
func (s *Store) DeleteDurable(ctx context.Context, name string) error {
	if err := s.deleteDurable(ctx, name); err != nil {
		return fmt.Errorf("delete durable subscription %.100q of stream %s: %w", name, s.config.EventsStream, err)
	}
	return nil
}

func (s *Store) deleteDurable(ctx context.Context, name string) error {
	if err := eventstore.ValidateDurableName(name); err != nil {
		return err
	}
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	_, err := s.askConsumer(ctx, s.api+"CONSUMER.DELETE."+s.config.EventsStream+"."+name, nil)
	if err != nil && errCode(err) != codeConsumerNotFound {
		return err
	}
	return s.changeParked(ctx, name, func(p *parkedEvents) (bool, error) {
		parked := len(p.Events) > 0
		p.Events = nil
		return parked, nil
	})
}

// run takes what arrives until the membership ends.
func (d *durable) run() {
	tick := time.NewTicker(heartbeat)
	defer tick.Stop()
	replays := time.NewTicker(d.opts.AckWait)
	defer replays.Stop()
	for {
		d.pull()
		select {
		case <-d.life.Done():
			return
		case <-d.poke:
		case msg := <-d.arrived:
			d.receive(msg)
		case msg := <-d.news:
			d.hear(msg)
		case <-replays.C:
			d.takeReplays()
		case <-tick.C:
			d.tend()
		}
	}
}

// durablePullExpires is how long a request for messages of a durable subscription
// holds. What is sent to one whose member is gone is delivered again after AckWait
// only. The servers leave such a request out where they see that nobody listens any
// more; across accounts, in a cluster, they do not see it. So it ends before AckWait
// does: an event meets such requests once at most. It is at least two heartbeats.
func durablePullExpires(ackWait time.Duration) time.Duration {
	return max(min(5*time.Second, ackWait/2), 2*heartbeat)
}

func (d *durable) wake() {
	select {
	case d.poke <- struct{}{}:
	default:
	}
}

// pull asks for as many messages as there is room for, once somebody waits. What
// is held back takes no room: it may wait for a message that is still to come.
func (d *durable) pull() {
	d.mu.Lock()
	defer d.mu.Unlock()
	more := d.room() - d.wanted
	// Not one by one: a consumer takes 512 requests at a time, of all members.
	if !d.active || more <= 0 || d.wanted > 0 && more < d.opts.MaxInHand/2 {
		return
	}
	request := messagesRequest{Batch: more, Expires: durablePullExpires(d.opts.AckWait)}
	if err := d.store.askForMessages(d.opts.Name, d.deliveries.Subject, request); err != nil {
		if d.store.nc.IsClosed() {
			d.end(err)
		}
		return
	}
	d.wanted += more
	d.heard = time.Now()
}

// room is for how many more events the member has. What it has had in hand for
// longer than AckWait takes none: it comes again, and may come here. The lock is
// held.
func (d *durable) room() int {
	room, now := d.opts.MaxInHand-len(d.line), time.Now()
	for _, held := range d.inHand {
		if held.until.After(now) {
			room--
		}
	}
	return room
}

// receive takes one message of the consumer.
func (d *durable) receive(msg *nats.Msg) {
	d.mu.Lock()
	d.heard = time.Now()
	d.mu.Unlock()
	if msg.Header.Get("Status") != "" && !isDelivered(msg) {
		d.heed(msg)
		return
	}
	metadata, err := msg.Metadata()
	if err != nil {
		// From elsewhere.
		return
	}
	m := &message{Subject: msg.Subject, Sequence: metadata.Sequence.Stream, Header: msg.Header, Data: msg.Data}
	d.mu.Lock()
	d.wanted = max(0, d.wanted-1)
	d.mu.Unlock()
	d.accept(&delivery{message: m, reply: msg.Reply, attempt: int(metadata.NumDelivered)})
}

// accept puts a delivery into its line, unless it is none for the application.
func (d *durable) accept(next *delivery) {
	var err error
	if next.event, err = decodeEvent(next.message); err != nil {
		d.spawn(func() { d.parkUnseen(next, fmt.Sprintf("it is no event: %v", err)) })
		return
	}
	if !d.opts.Matches(&next.event) {
		d.spawn(func() { d.skip(next) })
		return
	}
	next.before, next.known = predecessor(next.message)
	if next.reply == "" {
		// What is replayed was overtaken already.
		next.before, next.known = 0, true
	}
	d.mu.Lock()
	d.turns.arrive(next)
	d.handOut()
	blocked := !next.out && next.known
	d.mu.Unlock()
	if blocked {
		d.tell("settled?", next.before)
	}
	if !next.known {
		d.spawn(func() { d.prove(next) })
	}
}

// predecessor is the sequence of the event before m of the same actor, 0 for
// none, and whether that is proven.
func predecessor(m *message) (uint64, bool) {
	var before uint64
	for before = range indexOf(m).descending {
		break
	}
	return before, m.follows(before)
}

// prove asks the server whether the event that a delivery names as the one
// before it is that.
func (d *durable) prove(next *delivery) {
	ctx, cancel := d.store.bounded(d.life)
	defer cancel()
	m, err := d.store.directGet(ctx, d.store.config.EventsStream, getRequest{Sequence: next.before + 1, NextBySubject: next.message.Subject})
	if err != nil || m == nil || m.Sequence != next.message.Sequence {
		// It waits until nobody else has anything; see settleBlocked.
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	next.known = true
	d.handOut()
}

// handOut moves deliveries whose turn it is to where Next finds them. The lock is
// held.
func (d *durable) handOut() {
	ready := d.turns.ready()
	for _, next := range ready {
		if next.reply != "" && next.attempt > d.opts.MaxDeliveries+givenBack {
			d.spawn(func() {
				d.parkUnseen(next, fmt.Sprintf("it was delivered %d times, and never acknowledged", next.attempt-1))
			})
			continue
		}
		d.line = append(d.line, next)
	}
	if len(ready) > 0 {
		close(d.changed)
		d.changed = make(chan struct{})
	}
}

// heed does what a message without an event asks for.
func (d *durable) heed(msg *nats.Msg) {
	description := strings.ToLower(msg.Header.Get("Description"))
	code := msg.Header.Get("Status")
	if code == "100" {
		return
	}
	if code == "409" && strings.Contains(description, "consumer deleted") {
		d.end(fmt.Errorf("%w: consumer %s was deleted", eventstore.ErrNoDurable, d.opts.Name))
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	unmet, err := strconv.Atoi(msg.Header.Get("Nats-Pending-Messages"))
	if err != nil {
		// The consumer has no leader now, or what has become of the request is not
		// known. Not at once: tend asks again.
		d.heard = time.Time{}
		return
	}
	// A request has come to its end before it had all that it asked for.
	d.wanted = max(0, d.wanted-unmet)
}

// tend looks after what waits, every heartbeat.
func (d *durable) tend() {
	d.mu.Lock()
	silent := d.active && d.wanted > 0 && time.Since(d.heard) > 2*heartbeat
	if silent {
		d.wanted = 0
	}
	waiting := d.extend()
	blocked := d.turns.blocked()
	ask := (silent || len(blocked) > 0) && !d.asking
	d.asking = d.asking || ask
	d.mu.Unlock()
	for _, reply := range waiting {
		// It fails when the connection is closed, and then there is nothing to do.
		_ = d.store.nc.Publish(reply, ackProgress)
	}
	for _, next := range blocked {
		if next.known {
			d.tell("settled?", next.before)
		}
	}
	if ask {
		d.spawn(d.settleBlocked)
	}
}

// extend answers the deliveries that nobody has taken yet and whose time is to be
// extended now. The lock is held.
func (d *durable) extend() []string {
	if time.Since(d.extended) < d.opts.AckWait/3 {
		return nil
	}
	d.extended = time.Now()
	var replies []string
	for sequence, held := range d.turns.held {
		if d.inHand[sequence] == nil && held.reply != "" {
			replies = append(replies, held.reply)
		}
	}
	return replies
}

// settleBlocked asks the consumer what is settled, and whether there is anything
// that another member has.
func (d *durable) settleBlocked() {
	d.mu.Lock()
	ours := make([]*delivery, 0, len(d.turns.held))
	for _, held := range d.turns.held {
		if held.reply != "" {
			ours = append(ours, held)
		}
	}
	d.mu.Unlock()
	// Long enough for a stream that is gone to be told from one between two leaders.
	ctx, cancel := context.WithTimeout(d.life, 2*tryTimeout)
	defer cancel()
	info, err := d.store.consumer(ctx, d.opts.Name)
	if errCode(err) == codeConsumerNotFound || errCode(err) == codeStreamNotFound {
		d.end(fmt.Errorf("%w: %w", eventstore.ErrNoDurable, err))
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.asking = false
	if err != nil {
		// The next tick asks again.
		return
	}
	d.turns.raise(info.AckFloor.Stream)
	// What was ours before and is ours still was so when the consumer answered.
	ours = slices.DeleteFunc(ours, func(held *delivery) bool { return d.turns.held[held.message.Sequence] != held })
	if info.AckPending == len(ours) {
		for _, held := range ours {
			held.alone = true
		}
	}
	d.handOut()
}

// tell says something about a sequence to the other members.
func (d *durable) tell(word string, sequence uint64) {
	if sequence == 0 {
		return
	}
	// It fails when the connection is closed, and then nobody is there.
	_ = d.store.nc.Publish(d.group.Subject, []byte(word+" "+strconv.FormatUint(sequence, 10)))
}

// hear takes what another member says.
func (d *durable) hear(msg *nats.Msg) {
	if len(msg.Header) > 0 || msg.Reply != "" {
		// From no member. Who may read another stream can have what it holds sent here, as
		// an answer: but that has a header, or says where to acknowledge.
		return
	}
	word, number, _ := strings.Cut(string(msg.Data), " ")
	if word == "replay" {
		d.takeReplays()
		return
	}
	sequence, err := strconv.ParseUint(number, 10, 64)
	if err != nil {
		return
	}
	d.mu.Lock()
	if word == "settled" {
		d.turns.settle(sequence)
		d.handOut()
	}
	answer := word == "settled?" && d.turns.isSettled(sequence)
	d.mu.Unlock()
	if answer {
		d.tell("settled", sequence)
	}
}

// What a message is answered with; see the JetStream documentation of
// acknowledgements.
var (
	ackDone     = []byte("+ACK")
	ackProgress = []byte("+WPI")
)

func ackAgain(delay time.Duration) []byte {
	return fmt.Appendf(nil, `-NAK {"delay": %d}`, max(delay, 0))
}

// acknowledge answers a message, until the server says that it knows.
func (d *durable) acknowledge(ctx context.Context, held *delivery, ack []byte) error {
	for {
		_, err := d.store.request(ctx, &nats.Msg{Subject: held.reply, Data: ack})
		if err == nil || !errors.Is(err, errNoAnswer) && !errors.Is(err, errNoResponders) {
			return err
		}
		if pauseErr := pause(ctx, retryWait); pauseErr != nil {
			return fmt.Errorf("%w; last try: %v", pauseErr, err)
		}
	}
}

// skip acknowledges what the filters leave out.
func (d *durable) skip(held *delivery) {
	ctx, cancel := context.WithTimeout(d.life, d.opts.AckWait)
	defer cancel()
	if d.acknowledge(ctx, held, ackDone) == nil {
		d.settle(held)
	}
}

// parkUnseen parks what is not handed out. When it fails the event is delivered
// again.
func (d *durable) parkUnseen(held *delivery, reason string) {
	ctx, cancel := context.WithTimeout(d.life, d.opts.AckWait)
	defer cancel()
	if err := d.park(ctx, held, reason); errors.Is(err, eventstore.ErrTooManyParked) {
		d.end(err)
	}
}

// park puts an event aside, and then acknowledges it.
func (d *durable) park(ctx context.Context, held *delivery, reason string) error {
	// A message that is no event has no actor but the one of its subject.
	actorID, err := decodeActor(held.message.Subject)
	if err != nil {
		actorID = held.message.Subject
	}
	err = d.store.changeParked(ctx, d.opts.Name, func(p *parkedEvents) (bool, error) {
		return true, p.park(parkedEvent{
			Sequence: held.message.Sequence, ActorID: actorID, Attempts: held.attempt, Reason: strings.ToValidUTF8(reason, "?"),
			At: d.store.opts.Now().UTC(),
		})
	})
	if err != nil {
		return fmt.Errorf("park the event: %w", err)
	}
	if held.reply != "" {
		if err := d.acknowledge(ctx, held, ackDone); err != nil {
			return err
		}
	}
	d.settle(held)
	return nil
}

// settle forgets a delivery that is acknowledged or parked, and tells.
func (d *durable) settle(held *delivery) {
	d.forget(held)
	d.mu.Lock()
	d.turns.settle(held.message.Sequence)
	d.handOut()
	d.mu.Unlock()
	d.tell("settled", held.message.Sequence)
}

// forget drops a delivery.
func (d *durable) forget(held *delivery) {
	d.mu.Lock()
	delete(d.inHand, held.message.Sequence)
	if now := d.turns.held[held.message.Sequence]; now != nil {
		d.turns.drop(now)
	}
	d.line = slices.DeleteFunc(d.line, func(other *delivery) bool { return other.message.Sequence == held.message.Sequence })
	d.mu.Unlock()
	d.wake()
}

// activate makes the member take events, from the first Next on: one that only
// looks at what is parked takes none.
func (d *durable) activate() {
	d.mu.Lock()
	first := !d.active
	d.active = true
	d.mu.Unlock()
	if first {
		d.wake()
		d.takeReplays()
	}
}

// Next waits for the next event.
func (d *durable) Next(ctx context.Context) (eventstore.Delivery, error) {
	for {
		d.activate()
		d.mu.Lock()
		if len(d.line) > 0 && d.life.Err() == nil && ctx.Err() == nil {
			next := d.line[0]
			d.line = d.line[1:]
			next.until = time.Now().Add(d.opts.AckWait)
			d.inHand[next.message.Sequence] = next
			d.mu.Unlock()
			d.store.opts.Metrics.EventsRead.Add(1)
			return eventstore.Delivery{Event: next.event, Attempt: next.attempt}, nil
		}
		changed := d.changed
		d.mu.Unlock()
		select {
		case <-changed:
		case <-d.life.Done():
			return eventstore.Delivery{}, d.failed("wait for the next event", context.Cause(d.life))
		case <-ctx.Done():
			return eventstore.Delivery{}, d.failed("wait for the next event", ctx.Err())
		}
	}
}

func (d *durable) failed(what string, err error) error {
	return fmt.Errorf("%s of durable subscription %.100q of stream %s: %w", what, d.opts.Name, d.store.config.EventsStream, err)
}

// hand answers a delivery that a Next has answered.
func (d *durable) hand(sequence uint64) (*delivery, error) {
	if d.life.Err() != nil {
		return nil, context.Cause(d.life)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	held := d.inHand[sequence]
	if held == nil {
		return nil, eventstore.ErrNotInHand
	}
	return held, nil
}

// settling does something with a delivery in hand, in bounded time.
func (d *durable) settling(ctx context.Context, what string, sequence uint64, do func(context.Context, *delivery) error) error {
	ctx, cancel := d.store.bounded(ctx)
	defer cancel()
	held, err := d.hand(sequence)
	if err == nil {
		err = do(ctx, held)
	}
	if err != nil {
		return d.failed(fmt.Sprintf("%s event %d", what, sequence), err)
	}
	return nil
}

// Ack says that an event is done.
func (d *durable) Ack(ctx context.Context, sequence uint64) error {
	return d.settling(ctx, "acknowledge", sequence, func(ctx context.Context, held *delivery) error {
		if held.reply == "" {
			if err := d.endReplay(ctx, sequence); err != nil {
				return err
			}
		} else if err := d.acknowledge(ctx, held, ackDone); err != nil {
			return err
		}
		d.settle(held)
		return nil
	})
}

// Nak gives an event back.
func (d *durable) Nak(ctx context.Context, sequence uint64, delay time.Duration, reason string) error {
	return d.settling(ctx, "give back", sequence, func(ctx context.Context, held *delivery) error {
		if held.attempt >= d.opts.MaxDeliveries {
			return d.park(ctx, held, reason)
		}
		if held.reply == "" {
			if err := d.lease(ctx, sequence, delay); err != nil {
				return err
			}
			// Who is there then takes it; whoever it is looks once in AckWait anyway.
			time.AfterFunc(delay, d.tellReplay)
		} else if err := d.acknowledge(ctx, held, ackAgain(delay)); err != nil {
			return err
		}
		d.forget(held)
		return nil
	})
}

// Extend starts the time of an event anew.
func (d *durable) Extend(ctx context.Context, sequence uint64) error {
	return d.settling(ctx, "extend the time of", sequence, func(ctx context.Context, held *delivery) error {
		d.mu.Lock()
		held.until = time.Now().Add(d.opts.AckWait)
		d.mu.Unlock()
		if held.reply == "" {
			return d.lease(ctx, sequence, d.opts.AckWait)
		}
		return d.acknowledge(ctx, held, ackProgress)
	})
}

// Close ends the membership, and gives back what it has.
func (d *durable) Close() error {
	d.ending.Lock()
	d.end(eventstore.ErrSubscriptionClosed)
	d.ending.Unlock()
	d.background.Wait()
	// All of these fail when the connection is closed, and then there is nothing to
	// do: the server delivers again what was not acknowledged in time.
	_ = d.group.Unsubscribe()
	if d.deliveries.Drain() == nil {
		// Once the server has heard that no more is wanted, nothing more is on its way.
		_ = d.store.nc.FlushTimeout(heartbeat)
	}
	d.giveBack()
	d.store.unregister(d)
	return nil
}

// giveBack lets other members have what this one has.
func (d *durable) giveBack() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, held := range d.turns.held {
		if held.reply != "" {
			_ = d.store.nc.Publish(held.reply, ackAgain(0))
		}
		d.turns.drop(held)
	}
	d.line, d.inHand = nil, map[uint64]*delivery{}
	for {
		select {
		case msg := <-d.arrived:
			if isDelivered(msg) {
				_ = d.store.nc.Publish(msg.Reply, ackAgain(0))
			}
		default:
			return
		}
	}
}
