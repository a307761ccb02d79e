// Package outcome tells Metrics and Bus what a call to a Store came to, so that
// every Store counts and notifies alike.
package outcome

import (
	"errors"
	"fmt"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
)

// Subject names the events of a save in an error about it, as far as they have names.
func Subject(events []eventstore.Event) string {
	switch {
	case len(events) == 0:
		return "events"
	case len(events) > 1:
		return fmt.Sprintf("%d events", len(events))
	case events[0].ID == "" || events[0].ActorID == "":
		return "an event"
	}
	return fmt.Sprintf("event %.100q of actor %.100q", events[0].ID, events[0].ActorID)
}

// Saved counts events that were saved, and sends an EventStored notification
// for each that was not stored before. Both slices are in the same order; the
// events have the timestamps with which they were stored.
func Saved(opts *eventstore.Options, events []eventstore.Event, saved []eventstore.Saved) {
	for i := range saved {
		if saved[i].Duplicate {
			opts.Metrics.DuplicatesSaved.Add(1)
			continue
		}
		opts.Metrics.EventsSaved.Add(1)
		if opts.Bus == nil {
			continue
		}
		opts.Bus.Publish(eventstore.InternalNamespace, eventstore.EventStored{
			EventID: saved[i].ID, ActorID: saved[i].ActorID, Version: saved[i].Version, Timestamp: events[i].Timestamp,
		})
		opts.Metrics.NotificationsSent.Add(1)
	}
}

// Failed counts a save, of events or of a snapshot, that was refused or failed.
func Failed(opts *eventstore.Options, err error) {
	var conflict *eventstore.VersionConflictError
	if errors.As(err, &conflict) {
		opts.Metrics.VersionConflicts.Add(1)
		return
	}
	opts.Metrics.SaveErrors.Add(1)
}
