package jetstream

import (
	"context"
	"errors"
	"math"
	"slices"
	"strconv"

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

// passed leaves out what is at or before the message that was read last.
func (h *history) passed() {
	h.least = h.before + 1
	h.drop()
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
		messages, err := h.getNodes(ctx, sequencesOf(nodes))
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
	messages, err := h.getNodes(ctx, sequencesOf(nodes))
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
