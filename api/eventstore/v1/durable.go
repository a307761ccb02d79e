package eventstorev1

import (
	"math"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
)

// FromDurable is what a member of a durable subscription wants, as a message.
// Numbers that it has no room for are the largest that it has.
func FromDurable(store string, o eventstore.DurableOptions) *SubscribeDurableRequest {
	request := &SubscribeDurableRequest{
		Store: store, Name: o.Name, FromSequence: o.FromSequence, FromNow: o.FromNow, FromTime: fromTime(o.FromTime),
		ActorType: o.ActorType, ActorId: o.ActorID, EventType: o.EventType,
		MaxDeliveries: toInt32(o.MaxDeliveries), MaxInHand: toInt32(o.MaxInHand),
	}
	if o.AckWait != 0 {
		request.AckWait = durationpb.New(o.AckWait)
	}
	return request
}

// ToOptions is what the member of a message wants.
func (x *SubscribeDurableRequest) ToOptions() (eventstore.DurableOptions, error) {
	o := eventstore.DurableOptions{
		Name: x.GetName(), MaxDeliveries: int(x.GetMaxDeliveries()), MaxInHand: int(x.GetMaxInHand()),
		SubscribeOptions: eventstore.SubscribeOptions{
			FromSequence: x.GetFromSequence(), FromNow: x.GetFromNow(),
			ActorType: x.GetActorType(), ActorID: x.GetActorId(), EventType: x.GetEventType(),
		},
	}
	var err error
	if o.FromTime, err = toTime("fromTime", x.GetFromTime()); err != nil {
		return o, err
	}
	o.AckWait, err = toDuration("ackWait", x.GetAckWait())
	return o, err
}

// ToDelay is how long an event that is given back is not delivered.
func (x *NegativeAcknowledgeRequest) ToDelay() (time.Duration, error) {
	return toDuration("delay", x.GetDelay())
}

// FromParked is a parked event as a message.
func FromParked(p eventstore.Parked) *ParkedEvent {
	return &ParkedEvent{
		Sequence: p.Sequence, ActorId: p.ActorID, Attempts: toInt32(p.Attempts), Reason: p.Reason, ParkedAt: fromTime(p.At), Replaying: p.Replaying,
	}
}

// ToParked is the parked event of a message.
func (x *ParkedEvent) ToParked() (eventstore.Parked, error) {
	at, err := toTime("parkedAt", x.GetParkedAt())
	return eventstore.Parked{
		Sequence: x.GetSequence(), ActorID: x.GetActorId(), Attempts: int(x.GetAttempts()), Reason: x.GetReason(), At: at, Replaying: x.GetReplaying(),
	}, err
}

// FromDurableStatus is the status of a durable subscription as a message.
func FromDurableStatus(s eventstore.DurableStatus) *DurableStatus {
	return &DurableStatus{
		Name: s.Name, Position: s.Position, Lag: s.Lag, Members: int64(s.Members), InHand: int64(s.InHand), Queued: int64(s.Queued),
		Waiting: int64(s.Waiting), Parked: int64(s.Parked), Full: s.Full,
	}
}

// ToDurableStatus is the status of a message.
func (x *DurableStatus) ToDurableStatus() eventstore.DurableStatus {
	return eventstore.DurableStatus{
		Name: x.GetName(), Position: x.GetPosition(), Lag: x.GetLag(), Members: int(x.GetMembers()), InHand: int(x.GetInHand()), Queued: int(x.GetQueued()),
		Waiting: int(x.GetWaiting()), Parked: int(x.GetParked()), Full: x.GetFull(),
	}
}

// FromDelivery is a delivery as a message.
func FromDelivery(d *eventstore.Delivery) *Delivery {
	return &Delivery{Event: FromEvent(&d.Event), Attempt: toInt32(d.Attempt)}
}

// ToDelivery is the delivery of a message.
func (x *Delivery) ToDelivery() (eventstore.Delivery, error) {
	event, err := x.GetEvent().ToEvent()
	return eventstore.Delivery{Event: event, Attempt: int(x.GetAttempt())}, err
}

func toInt32(n int) int32 { return int32(min(max(n, math.MinInt32), math.MaxInt32)) }

func toDuration(field string, d *durationpb.Duration) (time.Duration, error) {
	if d == nil {
		return 0, nil
	}
	if err := d.CheckValid(); err != nil {
		return 0, &eventstore.InvalidEventError{Field: field, Reason: "is more than 10,000 years, or its nanoseconds are out of range"}
	}
	return d.AsDuration(), nil
}
