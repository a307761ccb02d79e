package jetstream

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
)

// acknowledgement is what JetStream answers to a message or batch it has stored.
type acknowledgement struct {
	Sequence  uint64 `json:"seq"`
	Duplicate bool   `json:"duplicate"`
	// Batch and Count are of a batch: its id, and how many messages it has.
	Batch string    `json:"batch"`
	Count int       `json:"count"`
	Error *apiError `json:"error"`
}

// publish stores one message. Its errors are those of request, and *apiError.
func (s *Store) publish(ctx context.Context, msg *nats.Msg) (acknowledgement, error) {
	answer, err := s.request(ctx, msg)
	if err != nil {
		return acknowledgement{}, err
	}
	if sequence, ok := plainAcknowledgement(answer.Data); ok {
		return acknowledgement{Sequence: sequence}, nil
	}
	return decodeAcknowledgement(answer)
}

// plainAcknowledgement reads the one answer that nearly all saves get: taking it
// apart as JSON is a tenth of what a save costs here.
func plainAcknowledgement(data []byte) (uint64, bool) {
	stream, digits, found := strings.Cut(string(data), `","seq":`)
	digits, whole := strings.CutSuffix(digits, "}")
	if !found || !whole || !strings.HasPrefix(stream, `{"stream":"`) {
		return 0, false
	}
	sequence, err := strconv.ParseUint(digits, 10, 64)
	return sequence, err == nil && sequence > 0
}

func decodeAcknowledgement(answer *nats.Msg) (acknowledgement, error) {
	var ack acknowledgement
	if err := json.Unmarshal(answer.Data, &ack); err != nil {
		return ack, fmt.Errorf("%w: the answer is not what JetStream answers: %w", errNoAnswer, err)
	}
	if ack.Error != nil {
		return ack, ack.Error
	}
	if ack.Sequence == 0 {
		return ack, fmt.Errorf("%w: the answer names no sequence", errNoAnswer)
	}
	return ack, nil
}

// Headers of an atomic batch.
const (
	headerBatchID       = "Nats-Batch-Id"
	headerBatchSequence = "Nats-Batch-Sequence"
	headerBatchCommit   = "Nats-Batch-Commit"
)

// publishBatch stores several messages, all or none, and answers the sequence of
// the last; those before it have the sequences right below. The first message
// and the last wait for an answer. Those between do not: one that is missing
// ends the batch. It takes the headers of the messages for its own use.
func (s *Store) publishBatch(ctx context.Context, messages []*nats.Msg) (uint64, error) {
	id := rand.Text()
	subjects := make([]string, len(messages))
	for i, msg := range messages {
		msg.Header[headerBatchID] = []string{id}
		msg.Header[headerBatchSequence] = []string{strconv.Itoa(i + 1)}
		subjects[i] = msg.Subject
	}
	messages[len(messages)-1].Header[headerBatchCommit] = []string{"1"}
	permissions := s.permissions(subjects...)
	ctx, stop := permissions.watch(ctx)
	defer stop()
	sequence, err := s.sendBatch(ctx, messages)
	// A message that is not permitted is missing from the batch, and that is all
	// that the stream can say.
	if denied := permissions.denied(); err != nil && denied != nil {
		return 0, denied
	}
	return sequence, err
}

func (s *Store) sendBatch(ctx context.Context, messages []*nats.Msg) (uint64, error) {
	end := len(messages) - 1
	answer, err := s.request(ctx, messages[0])
	if err != nil {
		return 0, beforeCommit(err)
	}
	// Empty says go on.
	if len(answer.Data) > 0 {
		if _, err := decodeAcknowledgement(answer); err != nil {
			return 0, beforeCommit(err)
		}
		return 0, fmt.Errorf("%w: the server stores the messages of a batch one by one: it is older than 2.12", eventstore.ErrUnknownOutcome)
	}
	for _, msg := range messages[1:end] {
		if err := s.nc.PublishMsg(msg); err != nil {
			return 0, beforeCommit(sendError(err))
		}
	}
	ack, err := s.publish(ctx, messages[end])
	if err != nil {
		return 0, err
	}
	// The sequences of all follow from that of the last, if it is of the whole batch.
	if id := messages[end].Header[headerBatchID][0]; ack.Batch != id || ack.Count != len(messages) {
		return 0, fmt.Errorf("%w: the server answers for %d messages of batch %.100q, and %d of %s were sent", errNoAnswer, ack.Count, ack.Batch, len(messages), id)
	}
	return ack.Sequence, nil
}

// beforeCommit is the error of a batch that was not committed: without its end
// nothing of it is stored, whatever became of the rest.
func beforeCommit(err error) error {
	if errors.Is(err, errNoAnswer) {
		return fmt.Errorf("%w: the batch was not committed: %v", errAgain, err)
	}
	return err
}

// isConflict says that the message was refused because the actor is not where
// the writer thought. A replicated stream with another write under way says it
// with other codes.
func isConflict(err error) bool {
	switch errCode(err) {
	case codeWrongSequence, codeWrongSequenceAlso, codeSequenceNotReady, codeIDInProcess:
		return true
	}
	return false
}

func errCode(err error) int {
	var refused *apiError
	if errors.As(err, &refused) {
		return refused.ErrCode
	}
	return 0
}

// settle is the error of a save that has come to its end. Where a message was
// sent whose answer never came, only what rules out that it is stored may say
// so.
func settle(err error, sent bool) error {
	var conflict *eventstore.VersionConflictError
	var duplicate *eventstore.DuplicateEventError
	switch {
	case err == nil, errors.As(err, &conflict), errors.As(err, &duplicate):
		return err
	case sent || errors.Is(err, errNoAnswer):
		// Its text, and no more: it may claim that nothing was changed.
		unknown := fmt.Errorf("%w: save the same event again to find out: %v", eventstore.ErrUnknownOutcome, err)
		for _, ctxErr := range []error{context.Canceled, context.DeadlineExceeded} {
			if errors.Is(err, ctxErr) {
				unknown = fmt.Errorf("%w: %w", unknown, ctxErr)
			}
		}
		return unknown
	}
	return err
}
