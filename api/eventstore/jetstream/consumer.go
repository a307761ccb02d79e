package jetstream

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
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

// makeConsumer makes a consumer, and answers what it is then. The request is the same whoever answers it,
// JetStream or the operator.
func (s *Store) makeConsumer(ctx context.Context, config consumerConfig) (*consumerInfo, error) {
	request := map[string]any{"stream_name": s.config.EventsStream, "action": "create", "config": config}
	if s.config.OperatorMakesConsumers {
		return s.askOperator(ctx, request)
	}
	return s.askConsumer(ctx, s.api+"CONSUMER.CREATE."+s.config.EventsStream+"."+config.Name+"."+config.FilterSubject, request)
}

// askOperator has the operator make a consumer. It answers with errors of
// JetStream: its own are codeBadRequest, which is final, codeStreamNotFound for a
// store that it does not have, and codeTooManyRequests.
func (s *Store) askOperator(ctx context.Context, request any) (*consumerInfo, error) {
	subject := MakeConsumerSubject(s.config.EventsStream)
	info, err := s.askConsumer(ctx, subject, request)
	switch {
	case errors.Is(err, errNoResponders):
		return nil, fmt.Errorf("%w: no operator of Aether answers on %s, who makes the consumers of subscriptions: see that one runs, and that pods of the store do not ask all the time", eventstore.ErrUnavailable, subject)
	case errCode(err) == codeBadRequest:
		// Trying again is no use, as it is with what is unavailable.
		return nil, fmt.Errorf("%w: the operator of Aether makes no such consumer: %v", eventstore.ErrPermissionDenied, err)
	}
	return info, err
}

func (s *Store) askConsumer(ctx context.Context, subject string, request any) (*consumerInfo, error) {
	info := &consumerInfo{}
	err := s.ask(ctx, subject, request, func(answer *nats.Msg) error {
		if err := json.Unmarshal(answer.Data, info); err != nil {
			return fmt.Errorf("%w: the answer is not what JetStream answers: %w", eventstore.ErrUnavailable, err)
		}
		if info.Error != nil {
			return info.Error
		}
		return nil
	})
	return info, err
}

// messagesRequest asks a consumer for messages: for so many at most, of so many
// bytes in all where that is not 0. It holds for pullExpires where it says nothing.
type messagesRequest struct {
	Batch     int           `json:"batch"`
	MaxBytes  int           `json:"max_bytes,omitempty"`
	Expires   time.Duration `json:"expires"`
	Heartbeat time.Duration `json:"idle_heartbeat"`
}

// askForMessages asks a consumer for messages, which go to an inbox.
func (s *Store) askForMessages(consumer, inbox string, request messagesRequest) error {
	request.Expires, request.Heartbeat = cmp.Or(request.Expires, pullExpires), heartbeat
	data, err := json.Marshal(request)
	if err != nil {
		return fmt.Errorf("encode request: %w", err)
	}
	subject := s.api + "CONSUMER.MSG.NEXT." + s.config.EventsStream + "." + consumer
	if err := s.nc.PublishMsg(&nats.Msg{Subject: subject, Reply: inbox, Data: data}); err != nil {
		return fmt.Errorf("%w: %w", eventstore.ErrUnavailable, err)
	}
	return nil
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
