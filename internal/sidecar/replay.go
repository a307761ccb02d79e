package sidecar

import (
	"context"
	"iter"
	"time"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
)

// longestReplay bounds a read that goes on and on: a client that takes an event
// now and then must not hold a reader for ever.
const longestReplay = time.Hour

// replay is Store.Events for streams. A Store bounds a read whose context has no
// deadline as a whole, and a stream takes as long as its client: here the wait
// for each event is bounded, by the time that a call may take.
func (s *Server) replay(ctx context.Context, store *Store, actorID string, fromVersion int64, opts ...eventstore.ReadOption) iter.Seq2[eventstore.Event, error] {
	return func(yield func(eventstore.Event, error) bool) {
		ctx, cancel := context.WithTimeout(ctx, longestReplay)
		defer cancel()
		silence := time.AfterFunc(s.config.RequestTimeout, cancel)
		defer silence.Stop()
		account := accountOf(ctx)
		if err := account.reading(ctx); err != nil {
			yield(eventstore.Event{}, err)
			return
		}
		for event, err := range store.Store.Events(ctx, actorID, fromVersion, opts...) {
			// Not while the client takes the event.
			silence.Stop()
			if err == nil {
				err = account.met(&event, 1)
			}
			if !yield(event, err) {
				return
			}
			silence.Reset(s.config.RequestTimeout)
		}
	}
}
