package jetstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
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

// getMany gets one message for each request, nil where there is none, without their
// data. All are asked for at once, and any replica may answer each.
func (s *Store) getMany(ctx context.Context, stream string, requests []getRequest) ([]*message, error) {
	if len(requests) == 0 {
		return nil, nil
	}
	many := newGets(len(requests), math.MaxInt)
	many.headersOnly = true
	if err := retry(ctx, func() error { return s.tryGets(ctx, stream, requests, many) }); err != nil {
		return nil, err
	}
	return many.messages, nil
}

// getSome gets messages as getMany does, with their data, and as many from the first on
// as Config.ReadAheadBytes allow: how large they are is known when they have come. It is
// one at least.
func (s *Store) getSome(ctx context.Context, stream string, requests []getRequest) ([]*message, error) {
	if len(requests) > 1 {
		some := newGets(len(requests), s.config.ReadAheadBytes)
		err := retry(ctx, func() error { return s.tryGets(ctx, stream, requests, some) })
		if got := some.first(); err == nil || errors.Is(err, errPageFull) && len(got) > 0 {
			return got, nil
		}
		if !errors.Is(err, errPageFull) {
			return nil, err
		}
	}
	if len(requests) == 0 {
		return nil, nil
	}
	m, err := s.directGet(ctx, stream, requests[0])
	return []*message{m}, err
}

// errPageFull: more has come than there is room for, and what did not fit is dropped.
var errPageFull = errors.New("the page is full")

// gets are the answers to many requests.
type gets struct {
	messages []*message
	answered []bool
	missing  int
	// room is how many bytes of data may come still.
	room        int
	headersOnly bool
}

func newGets(n, room int) *gets {
	return &gets{messages: make([]*message, n), answered: make([]bool, n), missing: n, room: room}
}

// first are the answers before the first that is missing.
func (g *gets) first() []*message {
	if at := slices.Index(g.answered, false); at >= 0 {
		return g.messages[:at]
	}
	return g.messages
}

// tryGets asks for what is not answered yet. It has a subscription of its own,
// so that what is late of one try is not taken for the next.
func (s *Store) tryGets(ctx context.Context, stream string, requests []getRequest, many *gets) error {
	if ctx.Err() != nil {
		return ended(ctx)
	}
	try, cancel := tryContext(ctx)
	defer cancel()
	subject := s.api + "DIRECT.GET." + stream
	permissions := s.permissions(subject)
	try, stop := permissions.watch(try)
	defer stop()
	inbox := s.nc.NewInbox() + "."
	answers, err := s.nc.SubscribeSync(inbox + "*")
	if err != nil {
		return sendError(err)
	}
	// It fails when the connection is closed, and then there is nothing to do.
	defer func() { _ = answers.Unsubscribe() }()
	// What waits to be collected takes memory too.
	if err := answers.SetPendingLimits(-1, s.config.ReadAheadBytes); err != nil {
		return sendError(err)
	}
	err = many.collect(try, answers, len(inbox), func(i int) error {
		body, err := json.Marshal(requests[i])
		if err != nil {
			return fmt.Errorf("encode request: %w", err)
		}
		if err := s.nc.PublishMsg(&nats.Msg{Subject: subject, Reply: inbox + strconv.Itoa(i), Data: body}); err != nil {
			return sendError(err)
		}
		return nil
	})
	if denied := permissions.denied(); err != nil && denied != nil {
		return denied
	}
	return err
}

// How many gets of one read are on their way at once. How large the messages are is not
// known before, and what there is no room for is thrown away. So a read begins with
// firstGets, and each small message that comes lets one more be asked for. mostGets of the
// largest messages, 960 KiB each, are less than the 64 MiB that a server keeps for a
// connection before it ends it (max_pending).
const (
	firstGets = 16
	mostGets  = 64
	smallGet  = DefaultReadAheadBytes / pageMessages
)

// collect asks for what is not answered yet, and takes the answers until none is missing.
func (g *gets) collect(ctx context.Context, answers *nats.Subscription, prefix int, ask func(i int) error) error {
	next, underWay, window := 0, 0, firstGets
	for g.missing > 0 {
		for ; next < len(g.answered) && underWay < window; next++ {
			if g.answered[next] {
				continue
			}
			if err := ask(next); err != nil {
				return err
			}
			underWay++
		}
		answer, err := answers.NextMsgWithContext(ctx)
		if errors.Is(err, nats.ErrSlowConsumer) && !g.headersOnly {
			return errPageFull
		}
		if err != nil {
			return fmt.Errorf("%d of %d answers are missing: %w", g.missing, len(g.answered), sendError(err))
		}
		i, err := strconv.Atoi(answer.Subject[prefix:])
		if err != nil || i < 0 || i >= len(g.answered) || g.answered[i] {
			continue
		}
		m, err := decodeGet(answer)
		if err != nil {
			return err
		}
		if underWay--; len(answer.Data) <= smallGet {
			window = min(mostGets, window+1)
		}
		if m != nil && g.headersOnly {
			m.Data, m.tooLarge = nil, len(m.Data) > eventstore.MaxDataBytes
		} else if m != nil {
			g.room -= len(m.Data)
		}
		g.messages[i], g.answered[i] = m, true
		g.missing--
		if g.room < 0 && g.missing > 0 {
			return errPageFull
		}
	}
	return nil
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

// decodeDirect reads a message as a direct get answers it. The server adds its
// headers after those of the message, so that the last value is the server's
// even where a writer has used the same name.
func decodeDirect(answer *nats.Msg) (*message, error) {
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
// do not count. Config.ReadAheadBytes is how many bytes; the server goes over
// them by one message at most.
const pageMessages = 256

// errIncomplete: messages of a page got lost on the way, or its end did. What
// came is thrown away: a short answer would look like a short history.
var errIncomplete = errors.New("a batch of messages is incomplete")

// page gets messages of a subject from a sequence on, and says whether the
// replica that answered has more.
func (s *Store) page(ctx context.Context, stream, subject string, from uint64) (messages []*message, more bool, err error) {
	body, err := json.Marshal(getRequest{Sequence: from, NextBySubject: subject, Batch: pageMessages, MaxBytes: s.config.ReadAheadBytes})
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
