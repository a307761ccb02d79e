package jetstream

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
)

const (
	// headerPrev holds the index of a message; see index.
	headerPrev = "aether-prev"
	// headerStreamSource marks a message that came from another stream, where what
	// it says of sequences was true.
	headerStreamSource = "Nats-Stream-Source"
	// headerExpectedSubject says that the expected last sequence is that of another
	// subject.
	headerExpectedSubject = "Nats-Expected-Last-Subject-Sequence-Subject"
)

// indexOf is where a message says that the earlier ones of its actor are.
func indexOf(m *message) index {
	values := m.Header[headerPrev]
	if len(values) == 0 && m.follows(0) {
		return index{}
	}
	if len(values) == 1 {
		if x, err := decodeIndex(values[0], m.Sequence); err == nil {
			return x
		}
	}
	return index{partial: true}
}

// follows says whether it is proven that no message of the same actor lies
// between the one at a sequence, 0 for none, and m. It is when there is no room,
// or when the server has checked: it stores a message that expects the last
// sequence of its subject only where that is the one.
func (m *message) follows(before uint64) bool {
	if before+1 == m.Sequence {
		return true
	}
	if len(m.Header[headerExpectedSubject]) > 0 || len(m.Header[headerStreamSource]) > 0 {
		return false
	}
	values := m.Header[nats.ExpectedLastSubjSeqHdr]
	if len(values) != 1 {
		return false
	}
	expected, err := strconv.ParseUint(values[0], 10, 64)
	return err == nil && expected == before
}

// history reads the messages of one actor, oldest first, up to the last there
// was when it began. The index of that one leads to the others, and is trusted
// for speed alone: each message must be of the actor, and be proven to follow on
// the one before it. What is not is read from the server by subject, which is
// slower and cannot miss any.
type history struct {
	store *Store
	// last is the newest message.
	last *message
	// items are what is to be read, oldest first, and skip is how many messages at
	// their front are not wanted.
	items []item
	skip  uint64
	// unknown: there may be messages before the first item.
	unknown bool
	// cut: what comes before the first item is not wanted, provided that it is not
	// newer than version from.
	cut  bool
	from int64
	// least is the least sequence that is wanted.
	least uint64
	// before is the sequence of the message read last, 0 for none, or the one before
	// least.
	before uint64
	// size is that of the largest message met.
	size int
}

// item is a message that is to be read; one on a level above 0 comes after those
// that its own index leads to on the levels below.
type item struct {
	sequence uint64
	level    int
}

// errNotIndexed: what the index says of the number of messages does not hold, so
// that none can be left out.
var errNotIndexed = errors.New("the index does not hold")

func (s *Store) newHistory(last *message) *history {
	x := indexOf(last)
	return &history{
		store: s, last: last, unknown: x.partial, size: len(last.Data),
		items: append(itemsOf(x.levels), item{sequence: last.Sequence}),
	}
}

// historyFrom are the messages from a sequence on.
func (s *Store) historyFrom(last *message, sequence uint64) *history {
	h := s.newHistory(last)
	h.least, h.before = sequence, sequence-1
	h.drop()
	return h
}

// drop drops what is before the least sequence. A node stands for older messages than
// itself.
func (h *history) drop() {
	for len(h.items) > 0 && h.items[0].sequence < h.least {
		h.items = h.items[1:]
	}
}

// unindexed is a history whose messages are all read by subject.
func (s *Store) unindexed(last *message) *history {
	return &history{store: s, last: last, unknown: true, size: len(last.Data), items: []item{{sequence: last.Sequence}}}
}

func itemsOf(levels [][]uint64) []item {
	var items []item
	for level, sequences := range slices.Backward(levels) {
		for _, sequence := range sequences {
			items = append(items, item{sequence, level})
		}
	}
	return items
}

// total is how many messages the index leads to.
func (h *history) total() uint64 {
	var total uint64
	for _, i := range h.items {
		total += weight(i.level)
	}
	return total
}

// readAfter yields the messages from the first that may hold an event above a
// version, and not many more than the newest, where that is not 0. It says
// whether none was left out for being older than those.
func (h *history) readAfter(ctx context.Context, from int64, newest uint64, yield func(*message) bool) (all bool, err error) {
	if err := h.after(ctx, from); err != nil {
		return false, err
	}
	all = true
	if total := h.total(); newest > 0 && total > newest && total-newest > h.skip {
		h.skip, h.from = total-newest, math.MaxInt64
		h.cut, h.unknown, all = true, false, false
	}
	err = h.read(ctx, yield)
	if errors.Is(err, errNotIndexed) {
		return true, h.store.unindexed(h.last).read(ctx, yield)
	}
	return all, err
}

// after leaves only what comes after a version. Where the versions have no gaps
// they tell how many messages that are.
func (h *history) after(ctx context.Context, from int64) error {
	last, err := decodeEvent(h.last)
	if err != nil || from <= 0 {
		return nil
	}
	h.from = from
	if !h.unknown && uint64(last.Version) == h.total() {
		h.skip, h.cut = uint64(from), true
		return nil
	}
	return h.seek(ctx)
}

// seek goes down the levels to the newest message that is not wanted, looking at
// the versions of the nodes.
func (h *history) seek(ctx context.Context) error {
	for front := len(h.items); front > 0; {
		at := slices.IndexFunc(h.items[:front], func(i item) bool { return i.level > 0 })
		if at < 0 {
			return nil
		}
		nodes := slices.DeleteFunc(slices.Clone(h.items[:front]), func(i item) bool { return i.level == 0 })
		messages, err := h.get(ctx, sequencesOf(nodes))
		if err != nil {
			return err
		}
		for i, m := range slices.Backward(messages) {
			if m == nil {
				continue
			}
			if event, err := decodeEvent(m); err == nil && event.Version <= h.from {
				// All before it are older still. It is kept to prove what follows on it.
				drop := slices.Index(h.items, nodes[i])
				h.items, h.cut, h.unknown = h.items[drop:], true, false
				h.items[0].level = 0
				nodes, messages = nodes[i+1:], messages[i+1:]
				break
			}
		}
		if len(nodes) == 0 {
			return nil
		}
		at = slices.Index(h.items, nodes[0])
		children, err := h.children(messages[0], nodes[0], at)
		if err != nil {
			return err
		}
		h.items = slices.Replace(h.items, at, at+1, children...)
		front = at + len(children)
	}
	return nil
}

// children are the items that a node stands for, itself the last.
func (h *history) children(m *message, node item, at int) ([]item, error) {
	leaf := item{sequence: node.sequence}
	var older uint64
	if at > 0 {
		older = h.items[at-1].sequence
	}
	if m == nil {
		return []item{leaf}, h.uncounted()
	}
	x := indexOf(m)
	if len(x.levels) < node.level {
		return []item{leaf}, h.uncounted()
	}
	items := append(itemsOf(x.levels[:node.level]), leaf)
	for _, level := range x.levels[:node.level] {
		if len(level) != fanOut || items[0].sequence <= older {
			return []item{leaf}, h.uncounted()
		}
	}
	return items, nil
}

// uncounted is an error where messages are left out by their number.
func (h *history) uncounted() error {
	if h.skip > 0 {
		return errNotIndexed
	}
	return nil
}

// expandAhead is how many messages the nodes that are opened at once stand for:
// a few pages, so that the round trips for nodes are few beside those for pages.
const expandAhead = 4 * pageMessages

// nextPage takes the next sequences from the items.
func (h *history) nextPage(ctx context.Context) ([]uint64, error) {
	for {
		for h.skip > 0 && weight(h.items[0].level) <= h.skip {
			h.skip -= weight(h.items[0].level)
			h.items = h.items[1:]
		}
		size := min(pageMessages, max(1, h.store.config.ReadAheadBytes/max(1, h.size)))
		leaves := h.items[:min(size, len(h.items))]
		if at := slices.IndexFunc(leaves, func(i item) bool { return i.level > 0 }); at < 0 {
			h.items = h.items[len(leaves):]
			return sequencesOf(leaves), nil
		}
		if err := h.open(ctx); err != nil {
			return nil, err
		}
	}
}

// open puts in the place of the next nodes what they stand for.
func (h *history) open(ctx context.Context) error {
	var nodes []item
	var ahead uint64
	for _, i := range h.items {
		if ahead >= expandAhead {
			break
		}
		if ahead += weight(i.level); i.level > 0 {
			nodes = append(nodes, i)
		}
	}
	messages, err := h.get(ctx, sequencesOf(nodes))
	if err != nil {
		return err
	}
	opened := make([]item, 0, len(h.items)+len(nodes)*fanOut)
	for at, i := range h.items {
		if i.level == 0 || len(nodes) == 0 || i != nodes[0] {
			opened = append(opened, i)
			continue
		}
		children, err := h.children(messages[0], i, at)
		if err != nil {
			return err
		}
		opened = append(opened, children...)
		nodes, messages = nodes[1:], messages[1:]
	}
	h.items = opened
	h.drop()
	return nil
}

func sequencesOf(items []item) []uint64 {
	sequences := make([]uint64, len(items))
	for i := range items {
		sequences[i] = items[i].sequence
	}
	return sequences
}

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
		messages, proven, err := h.fetch(ctx, page)
		if err != nil {
			return err
		}
		if !proven {
			if more, err := h.scan(ctx, page[len(page)-1], give); err != nil || !more {
				return err
			}
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

// sparse is the number of messages in the stream for each of the actor from
// where on it is cheaper to get them one by one than to let the server look for
// them; docs/engine.md has the measurement.
const sparse = 32

// fetch gets a page by sequence, and says whether it is proven to be complete.
func (h *history) fetch(ctx context.Context, page []uint64) ([]*message, bool, error) {
	if h.byscan(page) {
		return nil, false, nil
	}
	messages, err := h.get(ctx, page)
	if err != nil {
		return nil, false, err
	}
	if h.before == 0 {
		// What expired first are the oldest.
		messages = messages[len(messages)-len(trimmed(messages)):]
	}
	if err := h.fill(ctx, page[len(page)-len(messages):], messages); err != nil {
		return nil, false, err
	}
	if slices.Contains(messages, nil) {
		return nil, false, nil
	}
	proven, err := h.prove(ctx, messages)
	return messages, proven, err
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

// get gets messages of the actor by sequence, nil for one that is absent or of
// another.
func (h *history) get(ctx context.Context, sequences []uint64) ([]*message, error) {
	requests := make([]getRequest, len(sequences))
	for i, sequence := range sequences {
		requests[i] = getRequest{Sequence: sequence}
	}
	known := len(sequences) > 0 && sequences[len(sequences)-1] == h.last.Sequence
	if known {
		requests = requests[:len(requests)-1]
	}
	messages, err := h.store.getMany(ctx, h.store.config.EventsStream, requests)
	if err != nil {
		return nil, err
	}
	if known {
		messages = append(messages, h.last)
	}
	for i, m := range messages {
		if m != nil && m.Subject != h.last.Subject {
			messages[i] = nil
		}
	}
	return messages, nil
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

// scan reads by subject, up to a sequence, and says whether the caller wants
// more. Any replica may answer, and may be behind.
func (h *history) scan(ctx context.Context, to uint64, give func(*message) bool) (bool, error) {
	for h.before < to {
		page, more, err := h.store.page(ctx, h.store.config.EventsStream, h.last.Subject, h.before+1)
		if err != nil {
			return false, err
		}
		for _, m := range page {
			if m.Sequence > to {
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
