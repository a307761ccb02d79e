package jetstream

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"slices"
)

// fanOut is how many sequences a level of an index holds before it is folded
// into one of the next. docs/engine.md has the measurement behind the number:
// fewer make the header smaller, more make the round trips of a read fewer.
const fanOut = 16

// index is what header aether-prev of a message holds: where the earlier
// messages of its actor are, as its writer knew them under compare-and-set.
//
// Level 0 holds the sequences of the newest ones, at most fanOut. When it is
// full, the next message becomes a node of level 1: it keeps the full level in
// its own header, and those after it name the node alone. Nodes of level 1 are
// folded into one of level 2 in the same way, and so on, like the digits of a
// number that counts up. So a message of an actor with n events names at most
// fanOut for each of about log(n) levels, every earlier message can be reached
// from it in as many steps, and each is on one path alone.
type index struct {
	// levels hold sequences, oldest first. What is on a level is newer than what
	// is on the levels above it.
	levels [][]uint64
	// partial says that there may be messages before the oldest, to which the
	// index does not lead: of a writer that makes none, for example.
	partial bool
}

// push is the index of a message that follows on the one at a sequence, whose
// index x is. It leaves x as it is.
func (x index) push(sequence uint64) index {
	level := 0
	for level < len(x.levels) && len(x.levels[level]) == fanOut {
		level++
	}
	next := index{levels: make([][]uint64, max(len(x.levels), level+1)), partial: x.partial}
	for l := level; l < len(x.levels); l++ {
		next.levels[l] = x.levels[l]
	}
	next.levels[level] = append(slices.Clip(next.levels[level]), sequence)
	return next
}

// weight is how many messages a node of a level stands for, itself among them.
func weight(level int) uint64 {
	n := uint64(1)
	for range level {
		n *= fanOut + 1
	}
	return n
}

// maxLevels is more than an actor can have: a stream has fewer than 2^64
// messages, and 16 levels stand for more.
const maxLevels = 16

// descending yields the sequences from the newest to the oldest.
func (x index) descending(yield func(uint64) bool) {
	for _, level := range x.levels {
		for _, sequence := range slices.Backward(level) {
			if !yield(sequence) {
				return
			}
		}
	}
}

// batchBase is where the sequences of a batch that is not committed yet start:
// JetStream gives them real ones that follow on each other. It is above all that
// a stream can have, and leaves room for the whole batch.
const batchBase = uint64(1) << 62

// encode is the value of the header of a message. Inside a batch own is its
// sequence from batchBase on, elsewhere it is 0.
//
// It is base64 of unsigned varints: fanOut; the number of levels times two, plus
// one when partial; the length of each level; how many of the sequences are of
// the same batch; and the sequences from the newest on, each as its distance to
// the one before, and the first of the batch as its distance to the message. The
// first that is not of the batch stands as it is.
func (x index) encode(own uint64) string {
	raw := make([]byte, 0, 128)
	raw = binary.AppendUvarint(raw, fanOut)
	flags := uint64(len(x.levels)) << 1
	if x.partial {
		flags |= 1
	}
	raw = binary.AppendUvarint(raw, flags)
	inBatch := 0
	for _, level := range x.levels {
		raw = binary.AppendUvarint(raw, uint64(len(level)))
		for _, sequence := range level {
			if sequence >= batchBase {
				inBatch++
			}
		}
	}
	raw = binary.AppendUvarint(raw, uint64(inBatch))
	newer, n := own, 0
	for sequence := range x.descending {
		if n == inBatch {
			raw = binary.AppendUvarint(raw, sequence)
		} else {
			raw = binary.AppendUvarint(raw, newer-sequence)
		}
		newer, n = sequence, n+1
	}
	return base64.RawStdEncoding.EncodeToString(raw)
}

var errIndex = errors.New("it is no index that this version knows")

// decodeIndex reads the header of the message at sequence own. What it answers
// is well formed: sequences are from 1, each is smaller than the one before it
// and than own, and no level holds more than fanOut.
func decodeIndex(value string, own uint64) (index, error) {
	raw, err := base64.RawStdEncoding.DecodeString(value)
	if err != nil {
		return index{}, errIndex
	}
	failed := false
	next := func() uint64 {
		number, size := binary.Uvarint(raw)
		if size <= 0 {
			failed = true
			return 0
		}
		raw = raw[size:]
		return number
	}
	base, flags := next(), next()
	if base != fanOut || flags>>1 > maxLevels {
		return index{}, errIndex
	}
	x := index{levels: make([][]uint64, flags>>1), partial: flags&1 == 1}
	for l := range x.levels {
		length := next()
		if length > fanOut {
			return index{}, errIndex
		}
		x.levels[l] = make([]uint64, length)
	}
	inBatch, n, newer := next(), uint64(0), own
	for _, level := range x.levels {
		for i := range slices.Backward(level) {
			sequence := next()
			if n != inBatch {
				sequence = newer - sequence
			}
			if failed || sequence == 0 || sequence >= newer {
				return index{}, errIndex
			}
			level[i], newer, n = sequence, sequence, n+1
		}
	}
	if failed || len(raw) > 0 {
		return index{}, errIndex
	}
	return x, nil
}
