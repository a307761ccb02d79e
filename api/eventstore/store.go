package eventstore

import (
	"context"
	"fmt"
	"iter"
	"log/slog"
	"strings"
	"time"
	"unicode/utf8"
)

// Store keeps the events of many actors. Implementations are safe for use by
// many goroutines. Every method honours its context; one without a deadline is
// bounded by the implementation's own.
//
// Errors are those of this package, wrapped: *VersionConflictError,
// *DuplicateEventError, ErrInvalidEvent, ErrTooLarge, ErrStoreFull,
// ErrUnavailable, ErrPermissionDenied, ErrUnknownOutcome, ErrNoSnapshot,
// ErrNoSuchVersion. When the caller's own context ended first, errors.Is finds its
// error as well.
type Store interface {
	// SaveEvent stores one event. A version that is not greater than the actor's
	// latest is refused with *VersionConflictError; version 0 takes the next one.
	//
	// Saving the same event again answers as the first time, marked Duplicate, and an
	// id that another event has is refused with *DuplicateEventError: one of another
	// actor, version or content. The timestamp is not part of the content, since a
	// Store sets it where the caller does not. A Store does not remember ids for ever.
	// It finds an event that is stored
	//   - inside its duplicate window, commonly 2 minutes, whatever the save says;
	//   - at the version that the save gives, or would have with the number that it
	//     expects (Expect), for as long as it is stored;
	//   - among the newest 64 of the actor, where the save gives no version. Where it
	//     gives one, a Store looks there as far as it remembers them.
	// What it does not find is stored as an event of its own. So give a version or a
	// number with a save that may be tried again later than the window, or use
	// Repository.Update, which knows the ids of the actor.
	SaveEvent(ctx context.Context, event Event, opts ...SaveOption) (Saved, error)

	// SaveEvents stores 1 to MaxBatchEvents events, of one or many actors, all or
	// none, and answers in their order. Events of one actor take versions in the
	// order given.
	SaveEvents(ctx context.Context, events []Event, opts ...SaveOption) ([]Saved, error)

	// GetEvents answers the events of one actor with a version above fromVersion,
	// in order; none is no error. Stored messages that are no events are skipped,
	// and counted in Metrics; that events have expired is not said. What a save through the same Store has answered
	// before the call is in the result.
	GetEvents(ctx context.Context, actorID string, fromVersion int64, opts ...ReadOption) ([]Event, error)

	// GetEventsWithErrors is GetEvents that reports what GetEvents skips, and says
	// whether events above fromVersion have expired.
	GetEventsWithErrors(ctx context.Context, actorID string, fromVersion int64, opts ...ReadOption) (ReplayResult, error)

	// Events is GetEvents as an iterator with bounded memory. It yields either an
	// event, or an error: a *ReplayError is followed by more, and so is a
	// *TruncatedError, which comes before what is left of events that have expired.
	// Any other error is the last thing it yields.
	Events(ctx context.Context, actorID string, fromVersion int64, opts ...ReadOption) iter.Seq2[Event, error]

	// GetLatestVersion answers the version of the actor's newest event, also where that
	// has expired, and 0 for an actor that never had one. It is as new as with UpToDate.
	GetLatestVersion(ctx context.Context, actorID string) (int64, error)

	// SaveSnapshot stores the state of an actor at a version that the actor has: one
	// above its latest is refused with ErrNoSuchVersion. One of the same version
	// replaces the earlier one; one that is older than the newest snapshot is refused
	// with *VersionConflictError.
	SaveSnapshot(ctx context.Context, snapshot Snapshot) error

	// DeleteSnapshot deletes the actor's newest snapshot and all that are older; none
	// is no error. A version from 1 to MaxVersion deletes only while the newest is of
	// that version, and is refused with *VersionConflictError else; 0 deletes any. The
	// actor's latest version stays.
	DeleteSnapshot(ctx context.Context, actorID string, version int64) error

	// GetLatestSnapshot answers the actor's newest snapshot, and ErrNoSnapshot
	// where there is none. It is as new as with UpToDate.
	GetLatestSnapshot(ctx context.Context, actorID string) (Snapshot, error)

	// Subscribe follows the store: first what is stored, then what is saved, in
	// the order of sequences, without gap or repeat. The place to start is fixed
	// when Subscribe returns. The context is for the call; the subscription lives
	// until its Close. A FromSequence whose events have expired is refused with
	// ErrPlaceExpired, and one above the next that is saved with ErrPlaceAhead.
	Subscribe(ctx context.Context, opts SubscribeOptions) (Subscription, error)
}

// SubscribeOptions says which events a Subscription delivers. The zero value is
// all of them from the first.
type SubscribeOptions struct {
	// FromSequence is the first sequence to deliver, at most the next that is saved; 0
	// is the first there is.
	FromSequence uint64
	// FromTime starts with the first event that was stored at this time or later, by
	// the clock of the store; one to come is waited for, and zero does not count.
	// FromSequence must then be 0.
	FromTime time.Time
	// FromNow delivers only what is saved after Subscribe has returned.
	// FromSequence must then be 0, and FromTime zero.
	FromNow bool
	// ActorType delivers only events of actors of this type, shorter than MaxActorIDBytes
	// of UTF-8 without '-'; see [ActorType].
	ActorType string
	// ActorID delivers only events of this actor, which is of ActorType where both are
	// given.
	ActorID string
	// EventType delivers only events of this type.
	EventType string
}

// Validate says which options contradict each other, as an *InvalidEventError.
func (o SubscribeOptions) Validate() error {
	if o.FromNow && o.FromSequence != 0 {
		return &InvalidEventError{Field: "fromSequence", Reason: "cannot go with a start from now: give one of them"}
	}
	if !o.FromTime.IsZero() && (o.FromNow || o.FromSequence != 0) {
		return &InvalidEventError{Field: "fromTime", Reason: "cannot go with a start from a sequence or from now: give one of them"}
	}
	if err := validateTime("fromTime", o.FromTime); err != nil {
		return err
	}
	if o.ActorID != "" {
		if err := ValidateActorID(o.ActorID); err != nil {
			return err
		}
	}
	if err := validateActorType(o.ActorType); err != nil {
		return err
	}
	if o.ActorID != "" && o.ActorType != "" && o.ActorType != ActorType(o.ActorID) {
		return &InvalidEventError{Field: "actorType", Reason: fmt.Sprintf("is %.100q, and actor %.100q is of the type %.100q: give one of them", o.ActorType, o.ActorID, ActorType(o.ActorID))}
	}
	return validateText("eventType", o.EventType, MaxEventTypeBytes, false)
}

// validateActorType refuses what no actor id can begin with. What is longer than a
// subject may be would end the connection to NATS, and with it the calls of others.
func validateActorType(kind string) error {
	if kind == "" {
		return nil
	}
	reason := ""
	switch {
	case len(kind) >= MaxActorIDBytes:
		reason = fmt.Sprintf("has %d bytes: at most %d are allowed, as an id has a '-' after it", len(kind), MaxActorIDBytes-1)
	case !utf8.ValidString(kind):
		reason = "is not valid UTF-8"
	case strings.Contains(kind, "-"):
		reason = fmt.Sprintf("is %.100q: the type of an actor is what its id has before the first '-'", kind)
	default:
		return nil
	}
	return &InvalidEventError{Field: "actorType", Reason: reason}
}

// Matches says whether an event passes the filters.
func (o SubscribeOptions) Matches(e *Event) bool {
	return (o.ActorType == "" || o.ActorType == ActorType(e.ActorID)) &&
		(o.ActorID == "" || o.ActorID == e.ActorID) &&
		(o.EventType == "" || o.EventType == e.EventType)
}

// Subscription delivers events one by one. It is for one goroutine; only Position and
// Close may be called from others.
type Subscription interface {
	// Next waits for the next event. A *ReplayError reports a stored message that
	// is no event, and Next may be called again; after any other error but the
	// context's own the subscription is over. When its context ends Next returns
	// an error that is the context's, and nothing is skipped. ErrPlaceExpired says
	// that the next events have expired before they were delivered, and ErrPlaceAhead
	// that the store has lost what was delivered.
	Next(ctx context.Context) (Event, error)
	// Position is the sequence up to which all that passes the filters was delivered,
	// or is before the place to start: a subscription from the sequence after it goes
	// on where this one is. It is known when Subscribe returns, and grows while Next
	// waits, for which it does not wait. It is not known before the FromTime of a
	// subscription has come.
	Position() (sequence uint64, known bool)
	// Close ends the subscription; a Next that waits returns
	// ErrSubscriptionClosed. It may be called more than once.
	Close() error
}

// ExpectedVersion is what a save expects an actor's latest version to be: a
// number from 0, or one of the constants.
type ExpectedVersion int64

const (
	// ExpectNone expects an actor without events: version 0.
	ExpectNone ExpectedVersion = 0
	// ExpectAny expects nothing; it is the default.
	ExpectAny ExpectedVersion = -1
	// ExpectExists expects an actor that has a version, whichever.
	ExpectExists ExpectedVersion = -2
)

// Holds says whether latest is what was expected.
func (x ExpectedVersion) Holds(latest int64) bool {
	switch x {
	case ExpectAny:
		return true
	case ExpectExists:
		return latest > 0
	default:
		return int64(x) == latest
	}
}

// words is what is expected, in a sentence.
func (x ExpectedVersion) words() string {
	switch x {
	case ExpectNone:
		return "none"
	case ExpectExists:
		return "that it has one"
	}
	return fmt.Sprintf("version %d", int64(x))
}

// SaveOption changes one SaveEvent or SaveEvents.
type SaveOption func(*SaveOptions)

// SaveOptions is what SaveOption values add up to. Applications use the
// options; implementations of Store read the sum.
type SaveOptions struct {
	// Expected holds the expected latest version of each actor that has one.
	Expected map[string]ExpectedVersion
}

// NewSaveOptions adds options up.
func NewSaveOptions(opts ...SaveOption) SaveOptions {
	var sum SaveOptions
	for _, opt := range opts {
		opt(&sum)
	}
	return sum
}

// ExpectedOf is the expected version of an actor, ExpectAny where none was
// given.
func (o SaveOptions) ExpectedOf(actorID string) ExpectedVersion {
	if expected, given := o.Expected[actorID]; given {
		return expected
	}
	return ExpectAny
}

// Expect refuses the save with a *VersionConflictError unless the actor's
// latest version, before the save, is exactly what is expected. The actor must
// be one of those whose events are saved.
func Expect(actorID string, version ExpectedVersion) SaveOption {
	return func(o *SaveOptions) {
		if o.Expected == nil {
			o.Expected = map[string]ExpectedVersion{}
		}
		o.Expected[actorID] = version
	}
}

// ReadOption changes one read of events.
type ReadOption func(*ReadOptions)

// ReadOptions is what ReadOption values add up to. Applications use the options;
// implementations of Store read the sum.
type ReadOptions struct {
	// UpToDate wants what any save, through any Store, has answered before.
	UpToDate bool
	// Newest wants only so many, the newest first, at most MaxNewest; 0 or less wants all,
	// in order.
	Newest int
	// Until wants none from the first event on whose timestamp is later; zero sets
	// no end.
	Until time.Time
	// FromSequence wants only what is stored at this sequence or after it; 0 wants all.
	FromSequence uint64
}

// MaxNewest is the most that Newest may want: what a page of the sidecar has.
const MaxNewest = 1000

// Validate says what is wrong with the options, as an *InvalidEventError.
func (o ReadOptions) Validate() error {
	if o.Newest > MaxNewest {
		return &InvalidEventError{Field: "newest", Reason: fmt.Sprintf("is %d: give at most %d, or read from a version on", o.Newest, MaxNewest)}
	}
	return nil
}

// NewReadOptions adds read options up.
func NewReadOptions(opts ...ReadOption) ReadOptions {
	var sum ReadOptions
	for _, opt := range opts {
		opt(&sum)
	}
	return sum
}

// UpToDate reads what any save, through any Store in any process, has answered
// before the read began. On JetStream the leader is asked; one that is cut off from its
// followers may for up to 20 s answer what was the latest when that began, but not less
// than the same Store has saved or seen. Without it a read sees what this Store has saved or
// seen, and what others have saved perhaps some milliseconds later. In either case an event
// that was erased or has expired some milliseconds before may be among the others.
func UpToDate() ReadOption { return func(o *ReadOptions) { o.UpToDate = true } }

// Newest reads backwards: the newest first, at most n, which may be MaxNewest. A stored
// message that is no event counts as one of them.
func Newest(n int) ReadOption { return func(o *ReadOptions) { o.Newest = n } }

// Until ends a read before the first event whose timestamp is later than t: the
// actor as it was then, where timestamps grow with versions.
func Until(t time.Time) ReadOption { return func(o *ReadOptions) { o.Until = t } }

// FromSequence leaves out what is stored before a sequence: a read that goes on where
// another has stopped, also among stored messages that are no events.
func FromSequence(sequence uint64) ReadOption {
	return func(o *ReadOptions) { o.FromSequence = sequence }
}

// Option configures a Store of any kind.
type Option func(*Options)

// Options is what Option values add up to. Applications use the options;
// implementations of Store read the sum.
type Options struct {
	// Bus receives EventStored notifications; nil sends none.
	Bus *Bus
	// Metrics counts what the Store does; never nil.
	Metrics *Metrics
	// Now is the clock for events without a timestamp; never nil.
	Now func() time.Time
	// DuplicateWindow is how long a Store that keeps ids by itself remembers those of all
	// actors; 0 is its default. A stream of JetStream has a window of its own.
	DuplicateWindow time.Duration
	// Logger takes what goes wrong, or on, beside all calls; never nil.
	Logger *slog.Logger
}

// NewOptions adds options up.
func NewOptions(opts ...Option) Options {
	sum := Options{Now: time.Now, Metrics: &Metrics{}, Logger: slog.New(slog.DiscardHandler)}
	for _, opt := range opts {
		opt(&sum)
	}
	return sum
}

// WithBus sends an EventStored notification to the bus, in InternalNamespace,
// for each event that this Store has saved; never for one that failed, and not
// again for a duplicate.
func WithBus(bus *Bus) Option { return func(o *Options) { o.Bus = bus } }

// WithLogger logs what a Store does by itself, beside all calls, and what keeps it from
// that, once each time that it changes.
func WithLogger(logger *slog.Logger) Option { return func(o *Options) { o.Logger = logger } }

// WithMetrics counts into metrics what the Store does.
func WithMetrics(metrics *Metrics) Option { return func(o *Options) { o.Metrics = metrics } }
