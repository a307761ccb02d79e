package group

import (
	"time"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
)

// ToCoordinator is what a member says: that it is there and what it has, or what
// it asks for.
type ToCoordinator struct {
	Epoch  uint64 `json:"epoch"`
	Member string `json:"member"`
	Ping   *Ping  `json:"ping,omitempty"`
	// Request is repeated until it is answered.
	Request *Request `json:"request,omitempty"`
}

// Ping is said at least twice a second.
type Ping struct {
	// Number counts the pings of a member, and Seen is the number of the last
	// message that it has had of this coordinator.
	Number uint64 `json:"number"`
	Seen   uint64 `json:"seen"`
	// Room is how many events the member takes at once.
	Room int `json:"room"`
	// Have is what it has, and Expired what its application did not settle in time.
	Have    []Held `json:"have,omitempty"`
	Expired []Held `json:"expired,omitempty"`
	// Never are events of which it was asked and that it never had.
	Never []uint64 `json:"never,omitempty"`
	// Gone are members of which it knows that they have ended.
	Gone []Leave `json:"gone,omitempty"`
	// AckWait is how long its application may have an event, and MaxDeliveries what the
	// member wants all of them to have.
	AckWait       time.Duration `json:"ackWait"`
	MaxDeliveries int           `json:"maxDeliveries"`
}

// Held is an event that a member has.
type Held struct {
	Sequence uint64 `json:"sequence"`
	Attempt  int    `json:"attempt"`
	// Started: its application was given it.
	Started bool `json:"started,omitempty"`
}

// Leave is a member that has ended, and what it had.
type Leave struct {
	Member string `json:"member"`
	Have   []Held `json:"have,omitempty"`
}

// Kinds of requests.
const (
	KindAck    = "ack"
	KindNak    = "nak"
	KindExtend = "extend"
	KindPark   = "park"
	KindReplay = "replay"
	KindLeave  = "leave"
	KindStatus = "status"
)

// Request asks for something, and is answered.
type Request struct {
	ID   uint64 `json:"id"`
	Kind string `json:"kind"`
	// Sequence and Attempt are of the event. Late: the member had it, and its time
	// was over.
	Sequence uint64        `json:"sequence,omitempty"`
	Attempt  int           `json:"attempt,omitempty"`
	Late     bool          `json:"late,omitempty"`
	Delay    time.Duration `json:"delay,omitempty"`
	Reason   string        `json:"reason,omitempty"`
	// Sequences are to be replayed, all where none is given.
	Sequences []uint64 `json:"sequences,omitempty"`
	Have      []Held   `json:"have,omitempty"`
}

// Codes of answers.
const (
	CodeDone      = ""
	CodeNotInHand = "not_in_hand"
	CodeFull      = "full"
)

// ToMember is what a coordinator says to a member.
type ToMember struct {
	Epoch       uint64 `json:"epoch"`
	Coordinator string `json:"coordinator"`
	Member      string `json:"member"`
	// Number counts what the coordinator says to all members, and Ping is the number
	// of the last ping that it has heard of it.
	Number uint64 `json:"number"`
	Ping   uint64 `json:"ping"`
	// Pong answers a ping: the member has what it said that it has, but for Drop.
	Pong bool   `json:"pong,omitempty"`
	Drop []Held `json:"drop,omitempty"`
	// Ask are events that the member may have had of an earlier coordinator.
	Ask []Held `json:"ask,omitempty"`
	// Age is how long ago the coordinator sent the last write that was stored. Another
	// may have followed since: what it says counts for so much less.
	Age     time.Duration `json:"age"`
	Deliver *Deliver      `json:"deliver,omitempty"`
	Answer  *Answer       `json:"answer,omitempty"`
}

// Deliver gives an event to a member.
type Deliver struct {
	Sequence uint64 `json:"sequence"`
	Attempt  int    `json:"attempt"`
	Actor    string `json:"actor"`
	// Payload is the event itself, where the coordinator has it, and Size what it takes of
	// the member that has it.
	Payload any `json:"-"`
	Size    int `json:"-"`
}

// Answer is that of a request.
type Answer struct {
	Request uint64  `json:"request"`
	Code    string  `json:"code,omitempty"`
	Count   int     `json:"count,omitempty"`
	Status  *Status `json:"status,omitempty"`
}

// Err is the error that an answer stands for, nil where all was done.
func (a Answer) Err() error {
	switch a.Code {
	case CodeDone:
		return nil
	case CodeFull:
		return eventstore.ErrTooManyParked
	}
	return eventstore.ErrNotInHand
}

// Status is how a group is doing.
type Status struct {
	// Position is the last sequence that was read.
	Position uint64 `json:"position"`
	// Members are those heard of, InHand what they have, Queued what was read and
	// nobody has, Waiting the actors that wait for one event, and Parked the events
	// that were put aside.
	Members int `json:"members"`
	InHand  int `json:"inHand"`
	Queued  int `json:"queued"`
	Waiting int `json:"waiting"`
	Parked  int `json:"parked"`
	// Full: so much waits or is parked that no more events are read.
	Full bool `json:"full,omitempty"`
}

// Of is the status as it is told of a durable subscription, last being the last sequence
// of its store.
func (s Status) Of(name string, last uint64) eventstore.DurableStatus {
	return eventstore.DurableStatus{
		Name: name, Position: s.Position, Lag: last - min(s.Position, last),
		Members: s.Members, InHand: s.InHand, Queued: s.Queued, Waiting: s.Waiting, Parked: s.Parked, Full: s.Full,
	}
}
