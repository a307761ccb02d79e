package jetstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
)

// KeepOptions say what KeepVersions does. The zero value is for who calls it again and
// again, each time after KeptVersions.Next.
type KeepOptions struct {
	// MaxAge is an age that the stream is to have: all events are looked at that need be
	// before max_age is lowered to it, whatever others do. 0 is the age that the stream has;
	// then nothing is done while nothing is due or another does it.
	MaxAge time.Duration
	// AtMost is after how long no further events are looked at, after 32 at least, and no further
	// snapshots stored once more, after one at least; 0 is never.
	AtMost time.Duration
	// Created is when the stream of events was made, to the microsecond: nothing is done to
	// another of its name. Zero is whenever.
	Created time.Time
}

// KeptVersions is what came of KeepVersions.
type KeptVersions struct {
	// MaxAge is the age of events that the pass was for; 0 says that they do not expire.
	MaxAge time.Duration
	// Looked is how many events it has looked at, and Marked of how many actors it has
	// stored the latest version.
	Looked, Marked int
	// More says that AtMost was over before all was done.
	More bool
	// Next is after how long there is something to do again.
	Next time.Duration
	// Behind is how long ago the first event that nobody has looked at, or whose actor is left
	// out, came into the window in which it should be; 0 for none, or where that is not known.
	Behind time.Duration
	// Answered says that a server has answered something.
	Answered bool
}

// KeepVersions has the store remember the latest version of actors whose events expire
// soon, so that it does not go back when the last one has. It looks at each event once,
// in the second half of its age and no earlier than 30 days before its end; where it is
// the last of its actor, a message of some 300 bytes, or the actor's snapshot once more,
// is stored in the stream of snapshots, which does not expire.
//
// Any number may call it again and again. Before max_age of the stream is lowered, call it
// with the new age, in KeepOptions.MaxAge. A Store that has saved an event calls it by
// itself until it is closed, unless Config.OperatorMakesConsumers.
//
// It takes the right to publish to $JS.API.STREAM.INFO of the stream of events. The
// context is for all of it: each request has Config.Timeout. What was done when it fails
// is done. ErrStoreFull says that the stream of snapshots takes no more. Actors whose
// snapshots others write all the time (ErrContested), or are too large (ErrTooLarge), are left
// out, 32 at most, so that others need not wait for them; they are tried again each time, and
// there is an error until their versions are stored.
func (s *Store) KeepVersions(ctx context.Context, opts KeepOptions) (KeptVersions, error) {
	if opts.MaxAge < 0 || opts.AtMost < 0 {
		return KeptVersions{}, fmt.Errorf("keep the latest versions of actors of stream %s: MaxAge is %s and AtMost %s: give none that is negative", s.config.EventsStream, opts.MaxAge, opts.AtMost)
	}
	p := &versionsPass{store: s, opts: opts, age: opts.MaxAge}
	err := p.begin(ctx)
	if err == nil && p.wanted() {
		err = p.run(ctx)
	}
	if errors.Is(err, errReplaced) {
		// Another keeps.
		p.record.Due = p.now().Add(keepPause(p.age))
		err = p.refusal()
	}
	kept := p.result(err)
	if errors.Is(err, eventstore.ErrStoreFull) {
		err = fmt.Errorf("%w: make room in stream %s, which remembers them", err, s.config.SnapshotsStream)
	}
	if err != nil {
		return kept, fmt.Errorf("keep the latest versions of actors of stream %s: %w", s.config.EventsStream, err)
	}
	return kept, nil
}

// versionsPass is one KeepVersions.
type versionsPass struct {
	store *Store
	opts  KeepOptions
	// age is that of events.
	age time.Duration
	// info is what the stream was at asked.
	info  streamInfo
	asked time.Time
	// record is how far versions are kept, at a sequence.
	record   versionsRecord
	sequence uint64
	// oldest is when the first message was stored that was not looked at; zero for none.
	oldest time.Time
	kept   KeptVersions
	// began is when the batch was begun that is under way.
	began time.Time
	// refused is why the version of an actor was not stored that is left out.
	refused error
}

// streamInfo is what a pass asks of the stream of events.
type streamInfo struct {
	// answered: a server has said something.
	answered bool

	Error   *apiError `json:"error"`
	Created time.Time `json:"created"`
	// Now is the time of the server.
	Now    time.Time `json:"ts"`
	Config struct {
		MaxAge time.Duration `json:"max_age"`
	} `json:"config"`
	State struct {
		FirstSequence uint64 `json:"first_seq"`
		LastSequence  uint64 `json:"last_seq"`
	} `json:"state"`
}

func (s *Store) streamInfo(ctx context.Context) (info streamInfo, err error) {
	ctx, cancel := s.timed(ctx)
	defer cancel()
	err = s.askStream(ctx, "STREAM.INFO", s.config.EventsStream, getRequest{}, func(answer *nats.Msg) error {
		info = streamInfo{answered: true}
		if err := json.Unmarshal(answer.Data, &info); err != nil {
			return fmt.Errorf("%w: the answer is not what JetStream answers: %w", eventstore.ErrUnavailable, err)
		}
		if info.Error != nil {
			return info.Error
		}
		return nil
	})
	return info, err
}

// begin finds out what there is to do.
func (p *versionsPass) begin(ctx context.Context) (err error) {
	p.asked = time.Now()
	if p.info, err = p.store.streamInfo(ctx); err != nil {
		return err
	}
	if created := p.opts.Created; !created.IsZero() && !p.info.Created.Truncate(time.Microsecond).Equal(created.Truncate(time.Microsecond)) {
		return fmt.Errorf("%w: the stream is another one, which was made at %s: look whose it is", eventstore.ErrUnavailable, p.info.Created.Format(time.RFC3339Nano))
	}
	if !p.forced() {
		p.age = p.info.Config.MaxAge
	}
	if p.age == 0 {
		return nil
	}
	if err := p.read(ctx); err != nil {
		return err
	}
	return p.recognise(ctx)
}

// next is the first sequence that nobody has looked at.
func (p *versionsPass) next() uint64 { return max(p.record.LastSequence+1, p.info.State.FirstSequence) }

// following asks for the first message that nobody has looked at.
func (p *versionsPass) following() getRequest {
	return getRequest{Sequence: p.next(), NextBySubject: ">"}
}

// forced: what others do does not count.
func (p *versionsPass) forced() bool { return p.opts.MaxAge != 0 }

// over says whether nothing further is to be begun after a while.
func (p *versionsPass) over(after time.Duration) bool {
	return p.opts.AtMost > 0 && time.Since(p.asked)+after >= p.opts.AtMost
}

// isOver says whether the time is over that there is, or will be once the servers had time for
// others.
func (p *versionsPass) isOver() bool {
	if p.isBehind() {
		return p.over(0)
	}
	// A pause is half as long again at most.
	return p.over(2 * p.rest())
}

// now is the time of the server.
func (p *versionsPass) now() time.Time { return p.info.Now.Add(time.Since(p.asked)) }

// due says whether events are to be looked at, and wanted whether there is something to do.
func (p *versionsPass) due() bool { return p.forced() || p.record.isDue(p.now(), p.age) }

func (p *versionsPass) wanted() bool { return p.age != 0 && (p.due() || len(p.record.Left) > 0) }

// windowOf is when a message comes into its window that was stored at a time.
func (p *versionsPass) windowOf(stored time.Time) time.Time {
	return stored.Add(p.age - KeepWindow(p.age))
}

// isBehind says whether half of the time is over that there is for the first message that
// was not looked at.
func (p *versionsPass) isBehind() bool {
	return !p.oldest.IsZero() && p.now().Sub(p.windowOf(p.oldest)) > KeepWindow(p.age)/2
}

func (p *versionsPass) result(err error) KeptVersions {
	kept := p.kept
	kept.MaxAge, kept.Answered = p.age, p.info.answered
	if p.age != 0 {
		kept.Next = max(p.record.Due.Sub(p.now()), 0)
	}
	oldest := p.oldest
	for _, left := range p.record.Left {
		if oldest.IsZero() || left.Time.Before(oldest) {
			oldest = left.Time
		}
	}
	if (err != nil || kept.More) && !oldest.IsZero() {
		kept.Behind = max(p.now().Sub(p.windowOf(oldest)), 0)
	}
	return kept
}

// run tries what was left out, and looks at what has come into its window.
func (p *versionsPass) run(ctx context.Context) error {
	due, left := p.due(), len(p.record.Left)
	if left > 0 {
		if err := p.keepLeft(ctx); err != nil {
			return err
		}
	}
	var err error
	switch {
	case due:
		err = p.look(ctx)
	case len(p.record.Left) < left:
		err = p.write(ctx)
	}
	return errors.Join(err, p.refusal())
}

// look looks at what has come into its window. So that the servers have time for others,
// it waits for as long as each batch takes, unless it is behind.
func (p *versionsPass) look(ctx context.Context) error {
	more, err := p.peek(ctx)
	for more && err == nil && !p.kept.More {
		if more, err = p.batch(ctx); more && err == nil && !p.kept.More && !p.isBehind() {
			err = pause(ctx, p.rest())
		}
	}
	return err
}

// rest is how long the servers have time for others after a batch.
func (p *versionsPass) rest() time.Duration { return max(time.Since(p.began), time.Millisecond) }

// peek looks at the time of the first message alone: a batch is large, and mostly
// nothing is to be done.
func (p *versionsPass) peek(ctx context.Context) (more bool, err error) {
	ctx, cancel := p.store.timed(ctx)
	defer cancel()
	first, err := p.store.directGet(ctx, p.store.config.EventsStream, p.following())
	if errors.Is(err, errUnreadable) {
		first, err = p.store.leaderGet(ctx, p.store.config.EventsStream, p.following())
	}
	if err != nil {
		return false, err
	}
	if first == nil {
		return false, p.advance(ctx, nil, nil, false)
	}
	due, left, err := p.split([]*message{first})
	if err != nil || len(due) > 0 {
		return len(due) > 0, err
	}
	return false, p.advance(ctx, nil, left, false)
}

// split divides messages into those that are in their window, and the others.
func (p *versionsPass) split(messages []*message) (due, left []*message, err error) {
	for i, m := range messages {
		if m.Time.IsZero() {
			m.Time, err = storedAt(m)
		}
		if err != nil {
			return nil, nil, err
		}
		if i == 0 {
			p.oldest = m.Time
		}
		if p.windowOf(m.Time).After(p.now()) {
			return messages[:i], messages[i:], nil
		}
	}
	return messages, nil, nil
}

// storedAt is when a message was stored that came as the answer to a direct get.
func storedAt(m *message) (time.Time, error) {
	at, err := time.Parse(time.RFC3339Nano, lastValue(m.Header, "Nats-Time-Stamp"))
	if err != nil {
		return at, fmt.Errorf("%w: the answer has no time: %w", eventstore.ErrUnavailable, err)
	}
	return at, nil
}

// advance writes that messages were looked at; left are those after them that are not in
// their window yet, and more says that nobody has seen what comes after them.
func (p *versionsPass) advance(ctx context.Context, looked, left []*message, more bool) error {
	if len(looked) > 0 {
		last := looked[len(looked)-1]
		p.record.LastSequence, p.record.LastTime = last.Sequence, last.Time
	}
	p.record.MaxAge = p.age
	now := p.now()
	switch {
	case more && p.isOver():
		// Whoever comes first goes on.
		p.kept.More, p.record.Due = true, now
	case more:
		p.record.Due = now.Add(keepPause(p.age) / 2)
	case len(left) > 0:
		p.oldest = left[0].Time
		p.record.Due = nextDue(now, p.windowOf(p.oldest), p.age)
	case p.next() > p.info.State.LastSequence:
		// What comes was not stored yet when the stream was asked.
		p.record.Due = nextDue(now, p.windowOf(p.info.Now), p.age)
	default:
		// What is left was erased, or the replica that has answered is behind.
		p.record.Due = nextDue(now, now, p.age)
	}
	if !more && len(left) == 0 {
		p.oldest = time.Time{}
	}
	if p.sequence == 0 && len(looked) == 0 {
		// A stream of snapshots that never held anything stays so: then nothing is lost with it.
		return nil
	}
	return p.write(ctx)
}
