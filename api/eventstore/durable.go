package eventstore

import (
	"context"
	"fmt"
	"time"
)

// DurableStore is a Store that remembers how far subscriptions have come.
type DurableStore interface {
	Store

	// SubscribeDurable joins the durable subscription of a name, and makes it where
	// there is none. All who have joined are its members and share its events:
	// each event goes to one of them. A member gets an event only when the one
	// before it of the same actor is acknowledged or parked, whoever had it. The
	// context is for the call; the membership lives until its Close, and the
	// durable subscription until DeleteDurable.
	SubscribeDurable(ctx context.Context, opts DurableOptions) (DurableSubscription, error)

	// DeleteDurable forgets a durable subscription: its place, and what it has
	// parked. One that does not exist is no error. Its members get an error.
	DeleteDurable(ctx context.Context, name string) error

	// ListDurables lists the names of the durable subscriptions that there are, in
	// order.
	ListDurables(ctx context.Context) ([]string, error)

	// GetDurableStatus says how a durable subscription is doing. The error is
	// ErrNoDurable where there is none of that name.
	GetDurableStatus(ctx context.Context, name string) (DurableStatus, error)
}

// Limits of durable subscriptions.
const (
	// DefaultAckWait, DefaultMaxDeliveries and DefaultMaxInHand hold where
	// DurableOptions leave them out.
	DefaultAckWait       = 30 * time.Second
	DefaultMaxDeliveries = 10
	DefaultMaxInHand     = 64
	// maxDurableName leaves room in a subject for the names around it.
	maxDurableName = 64
)

// DurableOptions names a durable subscription and says what it delivers.
type DurableOptions struct {
	// Name is 1 to 64 letters, digits, '-' and '_'.
	Name string
	// SubscribeOptions are the filters, which all members have in common, and the
	// place to start, which counts when the durable subscription is made.
	SubscribeOptions
	// AckWait is how long this member may have an event in hand; at least 1 s, 0 is
	// DefaultAckWait. After it, the event is delivered again, to whichever member.
	AckWait time.Duration
	// MaxDeliveries is how often an event is delivered at most; 0 is
	// DefaultMaxDeliveries. One that is not acknowledged then is parked. What is given
	// back counts, also where that is only to wait. All members should say the same:
	// what the newest says counts.
	MaxDeliveries int
	// MaxInHand is how many events this member takes at once; 0 is
	// DefaultMaxInHand. Those of one actor come one by one all the same.
	MaxInHand int
}

// WithDefaults checks the options and fills in what is left out. Its error is an
// *InvalidEventError.
func (o DurableOptions) WithDefaults() (DurableOptions, error) {
	if err := o.Validate(); err != nil {
		return o, err
	}
	if err := ValidateDurableName(o.Name); err != nil {
		return o, err
	}
	if o.AckWait == 0 {
		o.AckWait = DefaultAckWait
	}
	if o.MaxDeliveries == 0 {
		o.MaxDeliveries = DefaultMaxDeliveries
	}
	if o.MaxInHand == 0 {
		o.MaxInHand = DefaultMaxInHand
	}
	switch {
	case o.AckWait < time.Second:
		return o, &InvalidEventError{Field: "ackWait", Reason: fmt.Sprintf("is %s: give at least 1s, or 0 for %s", o.AckWait, DefaultAckWait)}
	case o.MaxDeliveries < 0:
		return o, &InvalidEventError{Field: "maxDeliveries", Reason: fmt.Sprintf("is %d: give at least 1, or 0 for %d", o.MaxDeliveries, DefaultMaxDeliveries)}
	case o.MaxInHand < 0:
		return o, &InvalidEventError{Field: "maxInHand", Reason: fmt.Sprintf("is %d: give at least 1, or 0 for %d", o.MaxInHand, DefaultMaxInHand)}
	}
	return o, nil
}

// ValidateDurableName says what is wrong with the name of a durable
// subscription, as an *InvalidEventError.
func ValidateDurableName(name string) error {
	valid := name != "" && len(name) <= maxDurableName
	for i := range len(name) {
		c := name[i]
		valid = valid && ('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '_')
	}
	if !valid {
		return &InvalidEventError{Field: "durable", Reason: fmt.Sprintf("is %.100q: give 1 to %d letters, digits, '-' and '_'", name, maxDurableName)}
	}
	return nil
}

// Delivery is an event in the hand of a member.
type Delivery struct {
	Event Event
	// Attempt counts the deliveries of the event from 1: how often an application was
	// given it, or may have been where its member is gone.
	Attempt int
}

// Parked is an event that a durable subscription has put aside. It is stored
// still, and holds up nothing.
type Parked struct {
	// Sequence and ActorID tell the event.
	Sequence uint64
	ActorID  string
	// Attempts is how often it was delivered, and Reason why it was parked.
	Attempts int
	Reason   string
	// At is when it was parked.
	At time.Time
	// Replaying: Replay was called for it, and it is not acknowledged yet.
	Replaying bool
}

// DurableStatus is how a durable subscription is doing, as far as its members say:
// where none answers, as its records have it, with no members.
type DurableStatus struct {
	Name string
	// Position is the sequence up to which events were read for the members, and Lag
	// how many sequences of the store come after it. Where the filters let little
	// through, it may take a second until both say so.
	Position uint64
	Lag      uint64
	// Members are those that are there, and InHand the events that they have.
	Members int
	InHand  int
	// Queued are events that were read and that no member has had yet.
	Queued int
	// Waiting are the actors of whom an event waits to be delivered again, and all
	// that come after it for it.
	Waiting int
	// Parked are the events that were put aside.
	Parked int
	// Full: so many actors wait, or so much is parked, that no more events are read
	// until some are acknowledged.
	Full bool
}

// DurableSubscription is the membership in a durable subscription. It is safe
// for use by many goroutines: several may wait in Next, and work on one event
// each.
type DurableSubscription interface {
	// Next waits for the next event. The caller must Ack or Nak it within AckWait,
	// or Extend that. An error that is not the context's own ends the membership:
	// ErrSubscriptionClosed after Close, ErrNoDurable, ErrDurableAhead or ErrDurableTorn.
	// Events that cannot be read are parked, and do not come.
	Next(ctx context.Context) (Delivery, error)
	// Ack says that an event is done. It answers once the store knows: an event
	// whose Ack returned nil does not come again. It may be said again, and after
	// AckWait too, as long as no other member has the event; else it is ErrNotInHand.
	Ack(ctx context.Context, sequence uint64) error
	// Nak gives an event back. It is delivered again after the delay, to whichever
	// member, and events of the same actor wait for it. After its last delivery it
	// is parked at once, with the first 256 bytes of the reason.
	Nak(ctx context.Context, sequence uint64, delay time.Duration, reason string) error
	// Release gives events back on which nothing was begun: these deliveries do not
	// count. What the member does not have is left out.
	Release(ctx context.Context, sequences ...uint64) error
	// Extend starts the AckWait of an event anew.
	Extend(ctx context.Context, sequence uint64) error
	// Parked lists what is parked, in the order of sequences.
	Parked(ctx context.Context) ([]Parked, error)
	// Replay delivers parked events again, all of them where no sequence is given,
	// and answers how many. Later events of their actors may have gone ahead.
	Replay(ctx context.Context, sequences ...uint64) (int, error)
	// Close ends the membership. What it has in hand goes to other members. It may
	// be called more than once.
	Close() error
}
