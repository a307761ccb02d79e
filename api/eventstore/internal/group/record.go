package group

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"strings"
	"time"
)

// ShardCount is how many shards a group has. The actor of an event says which.
const ShardCount = 256

// MaxReasonBytes is how much of the reason is kept with a parked event.
const MaxReasonBytes = 256

// ClipReason leaves out of a reason what is not kept.
func ClipReason(reason string) string {
	return strings.ToValidUTF8(reason[:min(len(reason), MaxReasonBytes)], "")
}

// Main is the record of a group: who coordinates it, and how far it is. Every
// event that the group wants up to Top is settled, or in Out or Open, or belongs
// to the line of its actor in a shard.
type Main struct {
	// Epoch counts the coordinators, and Revision the writes of one of them.
	Epoch    uint64 `json:"epoch"`
	Revision uint64 `json:"revision"`
	// Coordinator is the member that coordinates; empty says that any may.
	Coordinator string `json:"coordinator,omitempty"`
	// Key is the random part of the subjects on which the members talk. What has
	// another is of an earlier group of the same name.
	Key     string `json:"key"`
	Deleted bool   `json:"deleted,omitempty"`
	// What all members have in common: the filters, and what the newest says of
	// MaxDeliveries.
	ActorType     string `json:"actorType,omitempty"`
	ActorID       string `json:"actorId,omitempty"`
	EventType     string `json:"eventType,omitempty"`
	MaxDeliveries int    `json:"maxDeliveries"`
	// AckWait is the longest of the members. Each has its own: this one is for those of
	// whom a coordinator has heard nothing yet.
	AckWait time.Duration `json:"ackWait"`
	// Top is how far the group is. Out are events up to it that members have been
	// given, by member, and Open those that nobody has. Attempts are those of Out that were
	// given more often than once, by how often: no shard had room for them.
	Top      uint64               `json:"top"`
	Out      map[string]Sequences `json:"out,omitempty"`
	Attempts map[int]Sequences    `json:"attempts,omitempty"`
	Open     Sequences            `json:"open,omitempty"`
	// Shards are those that are in use, and Stored those of them that have a record: one
	// that has none was removed.
	Shards Bits `json:"shards,omitzero"`
	Stored Bits `json:"stored,omitzero"`
	// MarkSequence and MarkTime are of an event that the group has seen: what has
	// another time there is another stream.
	MarkSequence uint64    `json:"markSequence,omitempty"`
	MarkTime     time.Time `json:"markTime,omitzero"`
}

// First is the first sequence that a coordinator reads.
func (m *Main) First() uint64 {
	first := m.Top + 1
	for _, out := range m.Out {
		if len(out) > 0 {
			first = min(first, out[0])
		}
	}
	if len(m.Open) > 0 {
		first = min(first, m.Open[0])
	}
	return first
}

// attempts is how often each event of Out was given.
func (m *Main) attempts() map[uint64]int {
	attempts := map[uint64]int{}
	for _, out := range m.Out {
		for _, sequence := range out {
			attempts[sequence] = 1
		}
	}
	for n, sequences := range m.Attempts {
		for _, sequence := range sequences {
			attempts[sequence] = n
		}
	}
	return attempts
}

// Shard is the record of some actors: those that wait, and what was parked.
type Shard struct {
	Epoch    uint64   `json:"epoch"`
	Revision uint64   `json:"revision"`
	Key      string   `json:"key"`
	Lines    []Line   `json:"lines,omitempty"`
	Parked   []Parked `json:"parked,omitempty"`
}

// Line is an actor whose events wait for one of them. All its events after First
// that Main has passed wait too, and are not listed.
type Line struct {
	Actor    string `json:"actor"`
	First    uint64 `json:"first"`
	Attempts int    `json:"attempts,omitempty"`
	// Due is when First may be delivered, and Out the member that may have it.
	Due time.Time `json:"due,omitzero"`
	Out string    `json:"out,omitempty"`
}

// Parked is an event that was put aside.
type Parked struct {
	Sequence uint64    `json:"sequence"`
	Actor    string    `json:"actor"`
	Attempts int       `json:"attempts"`
	Reason   string    `json:"reason"`
	At       time.Time `json:"at"`
	// Replaying: it is to be delivered again, as Request asked; Due and Out are as in
	// Line.
	Replaying bool      `json:"replaying,omitempty"`
	Request   string    `json:"request,omitempty"`
	Due       time.Time `json:"due,omitzero"`
	Out       string    `json:"out,omitempty"`
}

// ShardOf is the number of the shard of an actor.
func ShardOf(actor string) int {
	hash := fnv.New32a()
	_, _ = hash.Write([]byte(actor))
	return int(hash.Sum32() % ShardCount)
}

// Decode reads a record.
func Decode[R Main | Shard](data []byte) (R, error) {
	var record R
	if err := json.Unmarshal(data, &record); err != nil {
		return record, fmt.Errorf("it is not the record of a durable subscription: %w", err)
	}
	return record, nil
}

// Encode writes a record.
func Encode[R Main | Shard](record R) []byte {
	// Nothing in a record can fail to be encoded.
	data, _ := json.Marshal(record)
	return data
}

// Sequences are in ascending order. As text they are the distances from one to
// the next, as varints in base64: most are one byte.
type Sequences []uint64

// MarshalText encodes the sequences.
func (s Sequences) MarshalText() ([]byte, error) {
	var raw []byte
	var before uint64
	for _, sequence := range s {
		raw = binary.AppendUvarint(raw, sequence-before)
		before = sequence
	}
	return base64.RawStdEncoding.AppendEncode(nil, raw), nil
}

// UnmarshalText decodes what MarshalText has encoded.
func (s *Sequences) UnmarshalText(text []byte) error {
	raw, err := base64.RawStdEncoding.AppendDecode(nil, text)
	if err != nil {
		return fmt.Errorf("decode sequences: %w", err)
	}
	*s = nil
	var before uint64
	for len(raw) > 0 {
		distance, n := binary.Uvarint(raw)
		if n <= 0 {
			return errors.New("decode sequences: a number is cut off")
		}
		before += distance
		*s, raw = append(*s, before), raw[n:]
	}
	return nil
}

// Bits is a set of shards.
type Bits [ShardCount / 8]byte

// Has says whether a shard is in the set.
func (b *Bits) Has(shard int) bool { return b[shard/8]&(1<<(shard%8)) != 0 }

// Add puts a shard into the set.
func (b *Bits) Add(shard int) { b[shard/8] |= 1 << (shard % 8) }

// List is the shards of the set.
func (b *Bits) List() []int {
	var list []int
	for shard := range ShardCount {
		if b.Has(shard) {
			list = append(list, shard)
		}
	}
	return list
}

// MarshalText encodes the set.
func (b Bits) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, b[:]), nil }

// UnmarshalText decodes what MarshalText has encoded.
func (b *Bits) UnmarshalText(text []byte) error {
	raw, err := hex.DecodeString(string(text))
	if err != nil || len(raw) != len(b) {
		return fmt.Errorf("decode the set of shards: it is not %d bytes in hexadecimal digits", len(b))
	}
	copy(b[:], raw)
	return nil
}

func sorted(s Sequences) Sequences {
	slices.Sort(s)
	return s
}
