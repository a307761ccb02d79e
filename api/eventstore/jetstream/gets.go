package jetstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
)

// getMany gets one message for each request, nil where there is none, without their
// data. Any replica may answer each.
func (s *Store) getMany(ctx context.Context, stream string, requests []getRequest) ([]*message, error) {
	return s.getHeaders(ctx, stream, requests, newGets(len(requests), math.MaxInt, firstGets))
}

// getAny does what getMany does, also where messages are large, of which it has one at a time,
// or have headers that cannot be read.
func (s *Store) getAny(ctx context.Context, stream string, requests []getRequest) ([]*message, error) {
	many := newGets(len(requests), math.MaxInt, 1)
	many.unreadable = true
	return s.getHeaders(ctx, stream, requests, many)
}

func (s *Store) getHeaders(ctx context.Context, stream string, requests []getRequest, many *gets) ([]*message, error) {
	if len(requests) == 0 {
		return nil, nil
	}
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
		some := newGets(len(requests), s.config.ReadAheadBytes, firstGets)
		err := retry(ctx, func() error { return s.tryGets(ctx, stream, requests, some) })
		if got := some.whole(); err == nil || errors.Is(err, errPageFull) && len(got) > 0 {
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
	// unreadable: an empty message stands for one whose header cannot be read.
	unreadable bool
	// window is how many are on their way at once; it begins with first.
	window, first int
}

func newGets(n, room, first int) *gets {
	return &gets{messages: make([]*message, n), answered: make([]bool, n), missing: n, room: room, window: first, first: first}
}

// whole are the answers before the first that is missing.
func (g *gets) whole() []*message {
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
	// What waits to be collected takes memory too. There is room for the largest message: one that
	// never comes would be asked for again and again.
	room := max(s.config.ReadAheadBytes, int(s.nc.MaxPayload()))
	if err := answers.SetPendingLimits(-1, room); err != nil {
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
// firstGets, each small message that comes lets one more be asked for, and a large one as
// few as at first. mostGets of the largest messages, 960 KiB each, are less than the 64 MiB
// that a server keeps for a connection before it ends it (max_pending).
const (
	firstGets = 16
	mostGets  = 64
	smallGet  = DefaultReadAheadBytes / pageMessages
)

// collect asks for what is not answered yet, and takes the answers until none is missing.
func (g *gets) collect(ctx context.Context, answers *nats.Subscription, prefix int, ask func(i int) error) error {
	next, underWay := 0, 0
	for g.missing > 0 {
		for ; next < len(g.answered) && underWay < g.window; next++ {
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
		if g.unreadable && errors.Is(err, errUnreadable) {
			m, err = &message{}, nil
		}
		if err != nil {
			return err
		}
		if underWay--; answer.Size() <= smallGet {
			g.window = min(mostGets, g.window+1)
		} else {
			g.window = g.first
		}
		if m != nil && g.headersOnly {
			m.Data, m.tooLarge = nil, len(m.Data) > eventstore.MaxDataBytes
			if len(m.Header) > fewNames || answer.Size()-len(answer.Data) > smallHeader {
				m.Header = slimHeader(m.Header)
			}
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

// headersKept are those that say of which version of which actor a message is, and which
// was before it.
var headersKept = [...]string{
	headerSpecVersion, headerID, headerType, headerSubject, headerTime, headerActorVersion, headerCommandID,
	headerPrev, headerLatestVersion, headerExpectedSubject, headerStreamSource, nats.ExpectedLastSubjSeqHdr,
}

// A header is kept as it is with so many names and bytes, which an event without metadata has
// at most.
const (
	fewNames    = 32
	smallHeader = 4 << 10
)

// A header that is kept has keptValue bytes at most, more than the engine writes: 255 bytes of
// an id are 765 when all are percent-encoded.
const keptValue = 1 << 10

// slimHeader is what is kept of the header of a message without its data, of which there are
// many. Whoever has stored it may have made thousands of names: one of 64 KiB takes more
// than 1 MiB once it is read. A value that is cut is none that the engine has written, and of
// more than two only the first and the last are kept.
func slimHeader(header nats.Header) nats.Header {
	slim := make(nats.Header, len(headersKept))
	for _, name := range headersKept {
		values := header[name]
		if len(values) == 0 {
			continue
		}
		if last := len(values) - 1; last > 1 {
			values = []string{values[0], values[last]}
		}
		kept := make([]string, len(values))
		for i, value := range values {
			kept[i] = strings.Clone(value[:min(len(value), keptValue)])
		}
		slim[name] = kept
	}
	return slim
}
