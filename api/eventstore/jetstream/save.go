package jetstream

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/nats-io/nats.go"
	"golang.org/x/sync/errgroup"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/internal/outcome"
	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/internal/versioning"
)

// SaveEvent stores one event.
func (s *Store) SaveEvent(ctx context.Context, event eventstore.Event, opts ...eventstore.SaveOption) (eventstore.Saved, error) {
	saved, err := s.saveEvents(ctx, []eventstore.Event{event}, opts)
	if err != nil {
		return eventstore.Saved{}, err
	}
	return saved[0], nil
}

// SaveEvents stores events, all or none.
func (s *Store) SaveEvents(ctx context.Context, events []eventstore.Event, opts ...eventstore.SaveOption) ([]eventstore.Saved, error) {
	return s.saveEvents(ctx, slices.Clone(events), opts)
}

// saveEvents stores events that are the Store's own to change.
func (s *Store) saveEvents(ctx context.Context, events []eventstore.Event, opts []eventstore.SaveOption) ([]eventstore.Saved, error) {
	s.complete(events)
	saved, err := s.save(ctx, events, eventstore.NewSaveOptions(opts...))
	if err != nil {
		outcome.Failed(&s.opts, err)
		return nil, fmt.Errorf("save %s in stream %s: %w", outcome.Subject(events), s.config.EventsStream, err)
	}
	outcome.Saved(&s.opts, events, saved)
	if !s.versionsKept.Load() {
		s.startKeeping()
	}
	return saved, nil
}

// complete gives each event its defaults but the version.
func (s *Store) complete(events []eventstore.Event) {
	for i := range events {
		if events[i].Timestamp.IsZero() {
			events[i].Timestamp = s.opts.Now()
		}
	}
}

// save tries until the events are stored, refused, or the context ends.
func (s *Store) save(ctx context.Context, events []eventstore.Event, opts eventstore.SaveOptions) ([]eventstore.Saved, error) {
	if err := versioning.ValidateBatch(events, opts); err != nil {
		return nil, err
	}
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	if takesNext(events, opts) {
		leave, err := s.writers.enter(ctx, events[0].ActorID)
		if err != nil {
			return nil, err
		}
		defer leave()
	}
	a := &attempt{store: s, events: events, opts: opts, fromLeader: !s.trustsHeads(ctx)}
	silent := 0
	for try := 1; ; try++ {
		saved, err := a.try(ctx)
		err = s.silence(ctx, s.config.EventsStream, err)
		a.sent = a.sent || errors.Is(err, errNoAnswer)
		if errCode(err) == codeStreamNotFound || errors.Is(err, errNotConnected) {
			silent++
		}
		if err = askAgain(err, silent); !errors.Is(err, errAgain) {
			return saved, settle(err, a.sent)
		}
		// From here on somebody else may have been first: only the leader knows.
		a.fromLeader = true
		if pauseErr := pause(ctx, waitAfter(err, try)); pauseErr != nil {
			return nil, settle(fmt.Errorf("%w; last try: %v", pauseErr, err), a.sent)
		}
	}
}

// attempt is what one save has learned so far.
type attempt struct {
	store  *Store
	events []eventstore.Event
	opts   eventstore.SaveOptions
	// heads are where the actors stood, at the last look, and before are those that
	// were known before the leader was asked. Pointers, since a map has room for eight
	// from the first, and most saves have one.
	heads  map[string]*head
	before map[string]head
	// stored are events that were found stored, by the id of ours.
	stored map[string]*storedEvent
	// fromLeader reads the heads from the leader.
	fromLeader bool
	// sent says that a message was sent whose answer never came, and lost which
	// sequences such messages expected to be the last of their actors.
	sent bool
	lost map[string][]uint64
}

// try looks, decides and writes once. An error that is errAgain wants another.
func (a *attempt) try(ctx context.Context) ([]eventstore.Saved, error) {
	if err := a.look(ctx); err != nil {
		return nil, err
	}
	if err := a.findRecent(ctx); err != nil {
		return nil, err
	}
	saved, err := a.decide()
	var conflict *conflictError
	if errors.As(err, &conflict) {
		return nil, a.explain(ctx, conflict)
	}
	if err != nil {
		return nil, err
	}
	if err := a.write(ctx, saved); err != nil {
		return nil, err
	}
	return saved, nil
}

// looks is how many heads are read at once: a batch may have 1,000 actors.
const looks = 32

// look finds where the actors stand, asking only for those that are not known.
func (a *attempt) look(ctx context.Context) error {
	heads, before := make(map[string]*head, 1), map[string]head(nil)
	var unknown []*eventstore.Event
	for i := range a.events {
		e := &a.events[i]
		if _, seen := heads[e.ActorID]; seen {
			continue
		}
		known, found, _ := a.store.heads.get(e.ActorID)
		if !found || a.fromLeader {
			unknown = append(unknown, e)
			if known.recent != nil {
				before = with(before, e.ActorID, known)
			}
		}
		heads[e.ActorID] = &known
	}
	a.store.opts.Metrics.HeadMisses.Add(int64(len(unknown)))
	a.store.opts.Metrics.HeadHits.Add(int64(len(heads) - len(unknown)))
	if len(unknown) > 0 {
		if err := a.ask(ctx, unknown, heads); err != nil {
			return err
		}
	}
	for actorID, known := range before {
		if now := heads[actorID]; now.sequence == known.sequence {
			now.recent = known.recent
		}
	}
	a.heads, a.before = heads, before
	return nil
}

func with(heads map[string]head, actorID string, h head) map[string]head {
	if heads == nil {
		heads = map[string]head{}
	}
	heads[actorID] = h
	return heads
}

// ask fills in where the actors of events stand.
func (a *attempt) ask(ctx context.Context, events []*eventstore.Event, heads map[string]*head) error {
	found := make([]head, len(events))
	asking, ctx := errgroup.WithContext(ctx)
	asking.SetLimit(looks)
	for i, e := range events {
		asking.Go(func() error {
			done, err := a.store.reading(ctx)
			if err != nil {
				return err
			}
			defer done()
			if e.Version == 1 && !a.fromLeader {
				found[i], err = a.store.guessNew(ctx, e.ActorID)
			} else {
				// Who has lost has lost to an event.
				found[i], err = a.store.readHead(ctx, e.ActorID, a.fromLeader, e.Version == 0 && !a.fromLeader)
			}
			return err
		})
	}
	if err := asking.Wait(); err != nil {
		return err
	}
	for i, e := range events {
		heads[e.ActorID] = &found[i]
	}
	return nil
}

// conflictError is a version conflict that is not yet explained: the event may
// be stored already.
type conflictError struct {
	index int
	err   error
}

// Error is the text of the conflict.
func (e *conflictError) Error() string { return e.err.Error() }

// decide gives every event its version, or finds it stored. Sequences of events
// that are to be stored are 0. It is pure.
func (a *attempt) decide() ([]eventstore.Saved, error) {
	saved := make([]eventstore.Saved, len(a.events))
	latest := make(map[string]int64, 1)
	for i := range a.events {
		e := &a.events[i]
		if stored := a.stored[e.ID]; stored != nil {
			if !versioning.Same(&stored.Event, e) {
				return nil, versioning.Duplicate(&stored.Event)
			}
			saved[i] = eventstore.Saved{ID: e.ID, ActorID: e.ActorID, Version: stored.Version, Sequence: stored.Sequence, Duplicate: !a.isOurs(stored, e)}
			continue
		}
		expected, current := eventstore.ExpectAny, latest[e.ActorID]
		if current == 0 {
			expected, current = a.opts.ExpectedOf(e.ActorID), a.heads[e.ActorID].version
		}
		version, err := versioning.Assign(e, expected, current)
		if err != nil {
			return nil, &conflictError{index: i, err: err}
		}
		latest[e.ActorID] = version
		saved[i] = eventstore.Saved{ID: e.ID, ActorID: e.ActorID, Version: version}
	}
	return saved, nil
}

// write stores what decide has found to be new, and fills in the sequences.
func (a *attempt) write(ctx context.Context, saved []eventstore.Saved) error {
	var indexes []int
	for i := range saved {
		if saved[i].Sequence == 0 {
			indexes = append(indexes, i)
		}
	}
	var err error
	switch len(indexes) {
	case 0:
		return nil
	case 1:
		err = a.writeOne(ctx, indexes[0], &saved[indexes[0]])
	default:
		err = a.writeBatch(ctx, indexes, saved)
	}
	if errors.Is(err, errNoAnswer) {
		a.lose(indexes)
	}
	return err
}

// lose remembers what was sent and not answered.
func (a *attempt) lose(indexes []int) {
	if a.lost == nil {
		a.lost = map[string][]uint64{}
	}
	for _, i := range indexes {
		actorID := a.events[i].ActorID
		if expected := a.heads[actorID].sequence; !slices.Contains(a.lost[actorID], expected) {
			a.lost[actorID] = append(a.lost[actorID], expected)
		}
	}
}

func (a *attempt) writeOne(ctx context.Context, index int, saved *eventstore.Saved) error {
	before := a.heads[saved.ActorID]
	msg, prev := a.message(index, saved.Version, before.next(), 0)
	expect(msg, before.sequence)
	ack, err := a.store.publish(ctx, msg)
	if err != nil {
		return a.refused(ctx, err)
	}
	if ack.Duplicate {
		return a.recall(ctx, index, ack.Sequence)
	}
	saved.Sequence = ack.Sequence
	a.store.heads.put(saved.ActorID, before.sequence, head{
		sequence: ack.Sequence, version: saved.Version, prev: prev, recent: before.recent.with(saved.ID),
		id: messageID(msg.Header), saved: true,
	})
	return nil
}

func (a *attempt) writeBatch(ctx context.Context, indexes []int, saved []eventstore.Saved) error {
	messages := make([]*nats.Msg, len(indexes))
	next := map[string]index{}
	for n, i := range indexes {
		own := batchBase + uint64(n)
		actorID := saved[i].ActorID
		x, again := next[actorID]
		if !again {
			x = a.heads[actorID].next()
		}
		messages[n], _ = a.message(i, saved[i].Version, x, own)
		// Inside a batch only the first message of a subject can be checked.
		if !again {
			expect(messages[n], a.heads[actorID].sequence)
		}
		next[actorID] = x.push(own)
	}
	last, err := a.store.publishBatch(ctx, messages)
	if err != nil {
		return a.refused(ctx, err)
	}
	first := last - uint64(len(indexes)-1)
	for n, i := range indexes {
		saved[i].Sequence = first + uint64(n)
	}
	a.remember(indexes, saved, messages)
	return nil
}

// remember keeps where the actors stand after a batch.
func (a *attempt) remember(indexes []int, saved []eventstore.Saved, messages []*nats.Msg) {
	for n, i := range indexes {
		before := a.heads[saved[i].ActorID]
		now := headAt(&message{Sequence: saved[i].Sequence, Header: messages[n].Header}, saved[i].Version)
		now.recent, now.saved = before.recent.with(saved[i].ID), true
		a.heads[saved[i].ActorID] = &now
		a.store.heads.put(saved[i].ActorID, before.sequence, now)
	}
}

// message is what stores an event at a version, with the index x; own is its
// sequence inside a batch. It answers the header of the index too.
func (a *attempt) message(index int, version int64, x index, own uint64) (*nats.Msg, string) {
	event := a.events[index]
	event.Version = version
	msg := a.store.eventMessage(&event)
	prev := ""
	if now := a.heads[event.ActorID]; now.sequence == 0 && now.version > 0 {
		msg.Header[headerAfter] = []string{strconv.FormatInt(now.version, 10)}
	}
	if x.partial || len(x.levels) > 0 {
		prev = x.encode(own)
		msg.Header[headerPrev] = []string{prev}
	}
	return msg, prev
}

func expect(msg *nats.Msg, sequence uint64) {
	msg.Header[nats.ExpectedLastSubjSeqHdr] = []string{strconv.FormatUint(sequence, 10)}
}

func (s *Store) eventMessage(event *eventstore.Event) *nats.Msg {
	header := eventHeader(s.source(), event)
	header[nats.ExpectedStreamHdr] = []string{s.config.EventsStream}
	return &nats.Msg{Subject: EventsSubject(s.config.EventsStream, event.ActorID), Header: header, Data: event.Data}
}

// refused says what follows from a write that failed.
func (a *attempt) refused(ctx context.Context, err error) error {
	switch {
	case isConflict(err):
		return fmt.Errorf("%w: %w", errAgain, err)
	case errCode(err) == codeBatchDuplicate:
		return a.findDuplicates(ctx, err)
	case errCode(err) == codeStoreFailed && errors.Is(err, eventstore.ErrUnavailable):
		// The server could not write. Whether another replica has is not said.
		return fmt.Errorf("%w: %w", errNoAnswer, err)
	}
	return err
}
