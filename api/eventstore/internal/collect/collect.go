// Package collect gathers what the Events of a Store yields, so that every Store
// tells events, stored messages that are no events, and failures apart alike,
// and does alike what an application wants of a read.
package collect

import (
	"errors"
	"iter"
	"math"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
)

// Events reads all events and the errors among them. An error that is no
// *eventstore.ReplayError ends it, and nothing of what came before is kept: it
// would look like the whole.
func Events(events iter.Seq2[eventstore.Event, error]) (eventstore.ReplayResult, error) {
	var result eventstore.ReplayResult
	for event, err := range events {
		var malformed *eventstore.ReplayError
		var truncated *eventstore.TruncatedError
		switch {
		case err == nil:
			result.Events = append(result.Events, event)
		case errors.As(err, &truncated):
			result.Truncated, result.FirstVersion = true, truncated.FirstVersion
		case errors.As(err, &malformed):
			result.Errors = append(result.Errors, malformed)
		default:
			return eventstore.ReplayResult{}, err
		}
	}
	return result, nil
}

// Window leaves of all events of an actor, in order, those that the options
// want, in the order they want.
func Window(events iter.Seq2[eventstore.Event, error], opts eventstore.ReadOptions) iter.Seq2[eventstore.Event, error] {
	if !opts.Until.IsZero() {
		events = until(events, opts)
	}
	if opts.Newest > 0 {
		// All that there is has room: it is a part of what is in memory already.
		events = Newest(events, opts.Newest, math.MaxInt, nil)
	}
	return events
}

func until(events iter.Seq2[eventstore.Event, error], opts eventstore.ReadOptions) iter.Seq2[eventstore.Event, error] {
	return func(yield func(eventstore.Event, error) bool) {
		for event, err := range events {
			if err == nil && event.Timestamp.After(opts.Until) || !yield(event, err) {
				return
			}
		}
	}
}
