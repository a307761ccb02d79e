package jetstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
)

// getRequest asks for messages of a stream, one of them or a batch.
type getRequest struct {
	Sequence      uint64     `json:"seq,omitempty"`
	StartTime     *time.Time `json:"start_time,omitempty"`
	LastBySubject string     `json:"last_by_subj,omitempty"`
	NextBySubject string     `json:"next_by_subj,omitempty"`
	Batch         int        `json:"batch,omitempty"`
	MaxBytes      int        `json:"max_bytes,omitempty"`
}

// leaderGet gets one message from the leader of a stream, nil where there is
// none. What any save has acknowledged before is in the answer.
func (s *Store) leaderGet(ctx context.Context, stream string, get getRequest) (*message, error) {
	var found *message
	err := s.askStream(ctx, "STREAM.MSG.GET", stream, get, func(answer *nats.Msg) (err error) {
		found, err = decodeLeaderAnswer(answer.Data)
		return err
	})
	return found, err
}

// askStream asks who has a stream, kind being what of the API of JetStream.
func (s *Store) askStream(ctx context.Context, kind, stream string, get getRequest, answer func(*nats.Msg) error) error {
	data, err := json.Marshal(get)
	if err != nil {
		return fmt.Errorf("encode request: %w", err)
	}
	return retry(ctx, func() error {
		msg, err := s.request(ctx, &nats.Msg{Subject: s.api + kind + "." + stream, Data: data})
		if err == nil {
			err = answer(msg)
		}
		return s.silence(ctx, stream, err)
	})
}

// silence finds out what it means that nobody answers for a stream: either JetStream
// says that there is none, or those who have it are between two leaders or restart. That
// passes, and is worth all the time that a call has.
func (s *Store) silence(ctx context.Context, stream string, err error) error {
	if !errors.Is(err, errNoResponders) {
		return err
	}
	subject := s.api + "STREAM.MSG.GET." + stream
	answer, askErr := s.request(ctx, &nats.Msg{Subject: subject, Data: []byte(`{"seq":1}`)})
	if askErr == nil {
		_, askErr = decodeLeaderAnswer(answer.Data)
	}
	if errCode(askErr) == codeStreamNotFound {
		return askErr
	}
	return fmt.Errorf("%w: %w", errNoServer, err)
}

func decodeLeaderAnswer(data []byte) (*message, error) {
	var answer struct {
		Error   *apiError `json:"error"`
		Message *struct {
			Subject  string    `json:"subject"`
			Sequence uint64    `json:"seq"`
			Header   []byte    `json:"hdrs"`
			Data     []byte    `json:"data"`
			Time     time.Time `json:"time"`
		} `json:"message"`
	}
	if err := json.Unmarshal(data, &answer); err != nil {
		return nil, fmt.Errorf("%w: the answer is not what JetStream answers: %w", eventstore.ErrUnavailable, err)
	}
	switch {
	case answer.Error != nil && answer.Error.ErrCode == codeNoMessage:
		return nil, nil
	case answer.Error != nil:
		return nil, answer.Error
	case answer.Message == nil:
		return nil, fmt.Errorf("%w: the answer holds no message", eventstore.ErrUnavailable)
	}
	m := &message{Subject: answer.Message.Subject, Sequence: answer.Message.Sequence, Data: answer.Message.Data, Time: answer.Message.Time}
	if len(answer.Message.Header) > 0 {
		// A header that cannot be read is an empty one: the message is malformed,
		// which is found where it is decoded.
		m.Header, _ = nats.DecodeHeadersMsg(answer.Message.Header)
	}
	return m, nil
}

// directGet gets one message from any replica, nil where it knows of none. The
// replica may be behind the leader by a few messages.
func (s *Store) directGet(ctx context.Context, stream string, get getRequest) (*message, error) {
	var found *message
	err := s.askStream(ctx, "DIRECT.GET", stream, get, func(answer *nats.Msg) (err error) {
		found, err = decodeGet(answer)
		return err
	})
	return found, err
}

// decodeGet reads the answer to a direct get, nil where there is no message.
func decodeGet(answer *nats.Msg) (*message, error) {
	switch status(answer) {
	case "":
		return decodeDirect(answer)
	case statusNotFound:
		return nil, nil
	case statusNoResponders:
		return nil, errNoResponders
	default:
		return nil, statusError(answer)
	}
}

// headerSequence is where the server says which message it is, and headerStream of
// which stream.
const (
	headerSequence = "Nats-Sequence"
	headerStream   = "Nats-Stream"
)

// Statuses of answers without a message.
const (
	statusNoResponders = "503"
	statusNotFound     = "404"
	statusEndOfBatch   = "204"
)

// status is the status of an answer without a message. A stored message has a
// sequence; one that a writer gave a header of this name is no status.
func status(m *nats.Msg) string {
	if len(m.Data) > 0 || len(m.Header[headerSequence]) > 0 {
		return ""
	}
	return m.Header.Get("Status")
}

func statusError(m *nats.Msg) error {
	return fmt.Errorf("%w: JetStream answers %s %s", eventstore.ErrUnavailable, m.Header.Get("Status"), m.Header.Get("Description"))
}

// errUnreadable: the header of a message is none, as a client can store one. Then the answer does not
// say which message it is, and only the leader does.
var errUnreadable = fmt.Errorf("%w: a message has a header that cannot be read", eventstore.ErrUnavailable)

// decodeDirect reads a message as a direct get answers it. The server adds its
// headers after those of the message, so that the last value is the server's
// even where a writer has used the same name.
func decodeDirect(answer *nats.Msg) (*message, error) {
	if len(answer.Header) == 0 {
		return nil, errUnreadable
	}
	sequence, err := lastUint(answer.Header, headerSequence)
	if err != nil {
		return nil, err
	}
	return &message{Subject: lastValue(answer.Header, "Nats-Subject"), Sequence: sequence, Header: answer.Header, Data: answer.Data}, nil
}

func lastValue(header nats.Header, name string) string {
	values := header[name]
	if len(values) == 0 {
		return ""
	}
	return values[len(values)-1]
}

func lastUint(header nats.Header, name string) (uint64, error) {
	value, err := strconv.ParseUint(lastValue(header, name), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%w: the answer has no number in header %s: %w", eventstore.ErrUnavailable, name, err)
	}
	return value, nil
}

// pageMessages is how many messages a page has at most: enough that round trips
// do not count. Config.ReadAheadBytes is how many bytes of a read; the server
// goes over them by one message at most.
const pageMessages = 256

// errIncomplete: messages of a page got lost on the way, or its end did. What
// came is thrown away: a short answer would look like a short history.
var errIncomplete = errors.New("a batch of messages is incomplete")

// page gets messages of a subject from a sequence on, of some bytes, and says whether
// the replica that answered has more. With errUnreadable it answers those before that one.
func (s *Store) page(ctx context.Context, stream, subject string, from uint64, size int) (messages []*message, more bool, err error) {
	body, err := json.Marshal(getRequest{Sequence: from, NextBySubject: subject, Batch: pageMessages, MaxBytes: size})
	if err != nil {
		return nil, false, fmt.Errorf("encode request: %w", err)
	}
	err = retry(ctx, func() (err error) {
		messages, more, err = s.tryPage(ctx, &nats.Msg{Subject: s.api + "DIRECT.GET." + stream, Data: body})
		return err
	})
	return messages, more, err
}

// tryPage has a subscription of its own, so that what is late of one try is not
// taken for the next.
func (s *Store) tryPage(ctx context.Context, request *nats.Msg) ([]*message, bool, error) {
	if ctx.Err() != nil {
		return nil, false, ended(ctx)
	}
	try, cancel := tryContext(ctx)
	defer cancel()
	permissions := s.permissions(request.Subject)
	try, stop := permissions.watch(try)
	defer stop()
	request.Reply = s.nc.NewInbox()
	answers, err := s.nc.SubscribeSync(request.Reply)
	if err != nil {
		return nil, false, sendError(err)
	}
	// It fails when the connection is closed, and then there is nothing to do.
	defer func() { _ = answers.Unsubscribe() }()
	if err := s.nc.PublishMsg(request); err != nil {
		return nil, false, sendError(err)
	}
	messages, more, err := collectPage(try, answers)
	if denied := permissions.denied(); err != nil && denied != nil {
		return nil, false, denied
	}
	return messages, more, err
}

// collectPage takes the answers of one request up to the end of the batch. Each
// names the one before it, so that none can be missing.
func collectPage(try context.Context, answers *nats.Subscription) ([]*message, bool, error) {
	var messages []*message
	var last uint64
	for {
		answer, err := answers.NextMsgWithContext(try)
		if err != nil {
			return nil, false, fmt.Errorf("%w after %d messages: %w", errIncomplete, len(messages), sendError(err))
		}
		switch status(answer) {
		case "", statusEndOfBatch:
		case statusNoResponders:
			return nil, false, errNoResponders
		case statusNotFound:
			return nil, false, nil
		default:
			return nil, false, statusError(answer)
		}
		if len(answer.Header) == 0 {
			return messages, true, errUnreadable
		}
		if before, err := lastUint(answer.Header, "Nats-Last-Sequence"); err != nil || before != last {
			return nil, false, fmt.Errorf("%w: %w: sequence %d should follow on %d", errNoAnswer, errIncomplete, before, last)
		}
		if status(answer) == statusEndOfBatch {
			pending, err := lastUint(answer.Header, "Nats-Num-Pending")
			return messages, pending > 0, err
		}
		m, err := decodeDirect(answer)
		if err != nil {
			return nil, false, err
		}
		messages, last = append(messages, m), m.Sequence
	}
}
