package jetstream

import (
	"context"
	"fmt"
	"math"
	"slices"
	"time"
)

// read yields the messages until there are no more, or yield has enough.
func (h *history) read(ctx context.Context, yield func(*message) bool) error {
	give := func(m *message) bool {
		h.before, h.size = m.Sequence, max(h.size, len(m.Data))
		return yield(m)
	}
	for len(h.items) > 0 {
		page, err := h.nextPage(ctx)
		if err != nil {
			return err
		}
		messages, got, proven, err := h.fetch(ctx, page)
		if err != nil {
			return err
		}
		if got < len(page) {
			h.putBack(page[got:])
			page = page[:got]
		}
		if !proven {
			if more, err := h.scan(ctx, page[len(page)-1], give); err != nil || !more {
				return err
			}
			h.passed()
			continue
		}
		for _, m := range messages {
			if !give(m) {
				return nil
			}
		}
	}
	return nil
}

// putBack makes the next page begin with sequences again.
func (h *history) putBack(sequences []uint64) {
	items := make([]item, len(sequences), len(sequences)+len(h.items))
	for i, sequence := range sequences {
		items[i] = item{sequence: sequence}
	}
	h.items = append(items, h.items...)
}

// sparse is the number of messages in the stream for each of the actor from
// where on it is cheaper to get them one by one than to let the server look for
// them; docs/engine.md has the measurement.
const sparse = 32

// fetch gets a page by sequence: its first messages, got in number, and says whether
// they are proven to be complete.
func (h *history) fetch(ctx context.Context, page []uint64) (messages []*message, got int, proven bool, err error) {
	if h.byscan(page) {
		return nil, len(page), false, nil
	}
	if messages, err = h.getPage(ctx, page); err != nil {
		return nil, 0, false, err
	}
	got = len(messages)
	if h.before == 0 {
		// What expired first are the oldest.
		messages = trimmed(messages)
	}
	if err := h.fill(ctx, page[got-len(messages):got], messages); err != nil {
		return nil, 0, false, err
	}
	if slices.Contains(messages, nil) {
		return nil, got, false, nil
	}
	proven, err = h.prove(ctx, messages)
	return messages, got, proven, err
}

// byscan says whether to read a page by subject in the first place.
func (h *history) byscan(page []uint64) bool {
	if h.before == 0 && (h.unknown || h.cut) {
		return h.unknown
	}
	after := h.before
	if after == 0 {
		after = page[0]
	}
	return len(page) > 1 && page[len(page)-1]-after < sparse*uint64(len(page))
}

// trimmed are messages without the absent ones at their start.
func trimmed(messages []*message) []*message {
	for len(messages) > 0 && messages[0] == nil {
		messages = messages[1:]
	}
	return messages
}

// getPage gets messages of the actor by sequence, nil for one that is absent or of
// another: the first of them, as many as there is room for.
func (h *history) getPage(ctx context.Context, sequences []uint64) ([]*message, error) {
	requests := requestsFor(sequences)
	known := sequences[len(sequences)-1] == h.last.Sequence
	if known {
		requests = requests[:len(requests)-1]
	}
	messages, err := h.store.getSome(ctx, h.store.config.EventsStream, requests)
	if err != nil {
		return nil, err
	}
	if known && len(messages) == len(requests) {
		messages = append(messages, h.last)
	}
	return h.own(messages), nil
}

// getNodes gets messages for what their indexes say, as getPage does but all of them,
// and without their data.
func (h *history) getNodes(ctx context.Context, sequences []uint64) ([]*message, error) {
	messages, err := h.store.getMany(ctx, h.store.config.EventsStream, requestsFor(sequences))
	return h.own(messages), err
}

func requestsFor(sequences []uint64) []getRequest {
	requests := make([]getRequest, len(sequences))
	for i, sequence := range sequences {
		requests[i] = getRequest{Sequence: sequence}
	}
	return requests
}

// own leaves of messages those of the actor.
func (h *history) own(messages []*message) []*message {
	for i, m := range messages {
		if m != nil && m.Subject != h.last.Subject {
			messages[i] = nil
		}
	}
	return messages
}

// mostFilled is how many messages are asked of the leader when a replica has
// none: more are not what one that is a few milliseconds behind lacks.
const mostFilled = 16

// fill gets from the leader what a replica does not have, perhaps not yet.
func (h *history) fill(ctx context.Context, sequences []uint64, messages []*message) error {
	absent := 0
	for i, m := range messages {
		if m != nil {
			continue
		}
		if absent++; absent > mostFilled {
			return nil
		}
		m, err := h.store.leaderGet(ctx, h.store.config.EventsStream, getRequest{Sequence: sequences[i]})
		if err != nil {
			return err
		}
		if m == nil || m.Subject != h.last.Subject {
			return nil
		}
		messages[i] = m
	}
	return nil
}

// prove says whether nothing is missing before and between messages. Where they
// do not say so themselves, the server is asked what comes next.
func (h *history) prove(ctx context.Context, messages []*message) (bool, error) {
	var questions []getRequest
	var answers []uint64
	before := h.before
	for _, m := range messages {
		if !m.follows(before) && !(before == 0 && h.startsWith(m)) {
			questions = append(questions, getRequest{Sequence: before + 1, NextBySubject: h.last.Subject})
			answers = append(answers, m.Sequence)
		}
		before = m.Sequence
	}
	next, err := h.store.getMany(ctx, h.store.config.EventsStream, questions)
	if err != nil {
		return false, err
	}
	for i, m := range next {
		if m == nil || m.Sequence != answers[i] {
			return false, nil
		}
	}
	return true, nil
}

// startsWith says that nothing before a message is wanted, whatever it is: the
// versions of an actor grow.
func (h *history) startsWith(m *message) bool {
	if !h.cut || h.from == math.MaxInt64 {
		return h.cut
	}
	event, err := decodeEvent(m)
	return err == nil && event.Version <= h.from+1
}

// replicaWait is the mean pause before a replica that is behind is asked again.
// It was 6 ms behind at most where that was measured under load.
const replicaWait = 5 * time.Millisecond

// scan reads by subject, up to a sequence or as far as the pages go that it takes for
// that, and says whether the caller wants more. Any replica may answer, and may be behind.
func (h *history) scan(ctx context.Context, to uint64, give func(*message) bool) (bool, error) {
	for h.before < to {
		page, more, err := h.store.page(ctx, h.store.config.EventsStream, h.last.Subject, h.before+1, h.store.config.ReadAheadBytes)
		if err != nil {
			return false, err
		}
		for _, m := range page {
			if m.Sequence > h.last.Sequence {
				return true, nil
			}
			if !give(m) {
				return false, nil
			}
		}
		if more || h.before >= to {
			continue
		}
		// The replica is behind, or what was there is erased.
		if err := pause(ctx, replicaWait); err != nil {
			return false, fmt.Errorf("%w: a replica of the stream is behind", err)
		}
		last, err := h.store.leaderGet(ctx, h.store.config.EventsStream, getRequest{LastBySubject: h.last.Subject})
		if err != nil {
			return false, err
		}
		if last == nil || last.Sequence <= h.before {
			return true, nil
		}
		to = min(to, last.Sequence)
	}
	return true, nil
}
