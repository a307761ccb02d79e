// Package collect gathers what the Events of a Store yields, so that every Store
// tells events, stored messages that are no events, and failures apart alike.
package collect

import (
	"errors"
	"iter"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
)

// Events reads all events and the errors among them. An error that is no
// *eventstore.ReplayError ends it, and nothing of what came before is kept: it
// would look like the whole.
func Events(events iter.Seq2[eventstore.Event, error]) (eventstore.ReplayResult, error) {
	var result eventstore.ReplayResult
	for event, err := range events {
		var malformed *eventstore.ReplayError
		switch {
		case err == nil:
			result.Events = append(result.Events, event)
		case errors.As(err, &malformed):
			result.Errors = append(result.Errors, malformed)
		default:
			return eventstore.ReplayResult{}, err
		}
	}
	return result, nil
}
