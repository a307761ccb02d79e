package jetstream_test

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
)

// An answer that is about another batch, or about a part of this one, is none: the
// sequences of all events follow from it. No server gives one, so that a program does.
func TestAnswerOfAnotherBatch(t *testing.T) {
	t.Parallel()
	nc := sharedServers(t, 1).Connect(t)
	for name, change := range map[string]func(answer map[string]any){
		"another batch": func(answer map[string]any) { answer["batch"] = "other" },
		"fewer events":  func(answer map[string]any) { answer["count"] = 1 },
		"no batch":      func(answer map[string]any) { delete(answer, "batch") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := config()
			configs := streamConfigs(c, 1)
			// The stream takes none of the events, and who does answers in its place.
			configs[0].Subjects, configs[0].RePublish = []string{c.EventsStream + ".else"}, nil
			createStreams(t, nc, configs...)
			sub, err := nc.Subscribe(c.EventsStream+".events.>", func(msg *nats.Msg) {
				var data []byte
				if msg.Header.Get("Nats-Batch-Commit") != "" {
					answer := map[string]any{"stream": c.EventsStream, "seq": 2, "batch": msg.Header.Get("Nats-Batch-Id"), "count": 2}
					change(answer)
					data, _ = json.Marshal(answer)
				}
				_ = msg.Respond(data)
			})
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = sub.Unsubscribe() }()
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			defer cancel()
			saved, err := open(t, nc, c).SaveEvents(ctx, []eventstore.Event{event("a", "order-1", 1), event("b", "order-2", 1)})
			if err == nil {
				t.Errorf("saved %+v on the word of another batch", saved)
			}
		})
	}
}
