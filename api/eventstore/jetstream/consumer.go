package jetstream

import (
	"context"
	"crypto/rand"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
)

// consumerConfig is what is said of a consumer when it is made, and what the
// server says of one.
type consumerConfig struct {
	Name          string `json:"name"`
	DeliverPolicy string `json:"deliver_policy"`
	StartSequence uint64 `json:"opt_start_seq,omitempty"`
	FilterSubject string `json:"filter_subject,omitempty"`
	AckPolicy     string `json:"ack_policy"`
	ReplayPolicy  string `json:"replay_policy"`
	Replicas      int    `json:"num_replicas"`
	// Inactive is how long the server keeps a consumer that nobody asks, and Memory
	// keeps it in its memory.
	Inactive time.Duration `json:"inactive_threshold,omitempty"`
	Memory   bool          `json:"mem_storage,omitempty"`
}

// inactiveThreshold is how long the server keeps a consumer that nobody asks: one that
// is given up is gone soon after, and nobody has to delete it. One whose subscriber works
// for longer on a single event is made again.
const inactiveThreshold = 10*time.Second + pullExpires

// lookInactive is the same for one that tells something when it is made, and is not asked.
const lookInactive = time.Second

// consumerName is that of a new consumer. It cannot be guessed: who knows it can have
// what is delivered.
func consumerName() string { return "aether-" + rand.Text() }

// orderedConsumer is one that nobody acknowledges to, from a sequence on.
func orderedConsumer(filter string, next uint64) consumerConfig {
	return consumerConfig{
		Name: consumerName(), DeliverPolicy: "by_start_sequence", StartSequence: next, FilterSubject: filter,
		AckPolicy: "none", ReplayPolicy: "instant", Inactive: inactiveThreshold, Replicas: 1, Memory: true,
	}
}

// consumerInfo is what the server says of a consumer.
type consumerInfo struct {
	Error *apiError `json:"error"`
	// Delivered is the place, which the server moves to before the first message there
	// is, and Pending how many messages come after it.
	Delivered struct {
		Stream uint64 `json:"stream_seq"`
	} `json:"delivered"`
	Pending uint64 `json:"num_pending"`
}

// isDelivered says whether a message is one of the stream, which waits for its
// acknowledgement or could: a writer may have given it a header of any name.
func isDelivered(msg *nats.Msg) bool { return strings.HasPrefix(msg.Reply, "$JS.ACK.") }

// startOf is the sequence at which a subscription begins.
func (s *Store) startOf(ctx context.Context, opts eventstore.SubscribeOptions) (uint64, error) {
	if opts.FromNow || !opts.FromTime.IsZero() {
		return s.startAt(ctx, opts.FromTime)
	}
	return max(opts.FromSequence, 1), nil
}
