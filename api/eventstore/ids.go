package eventstore

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"iter"
	"slices"
)

// metadataIDs is the key under which a snapshot of a Repository has, in its
// metadata, the ids of the events that its state contains.
const metadataIDs = "aether-ids"

const (
	// idsOfGeneration is how many ids a generation takes before the next begins: 13 bits
	// for each, and one id in 500 that is not in it seems to be.
	idsOfGeneration = 5000
	// bitsOfGeneration is the size of the filter of a generation, 8 KiB. Two of them, in
	// base64, stay below what the metadata of a snapshot may take.
	bitsOfGeneration = 1 << 16
	// exactIDs is up to how many ids a generation keeps the hashes themselves, which
	// take no more room and find no id that is not there.
	exactIDs = bitsOfGeneration / 64
	// idProbes is how many bits of the filter each id sets.
	idProbes = 9
	// idsFormat is the first byte of the encoding.
	idsFormat = 1
)

// idHash is what is kept of an id: the same in every process.
func idHash(id string) uint64 {
	sum := sha256.Sum256([]byte(id))
	return binary.BigEndian.Uint64(sum[:])
}

// idFilter says of the ids of an actor's events that they may be there, or are not:
// a Bloom filter of two generations. When the younger is full it takes the place of
// the elder, which is forgotten. So it knows at least the newest idsOfGeneration ids,
// and twice as many at most.
type idFilter struct {
	// since is the version up to which ids were forgotten; 0 for none.
	since int64
	// split is the version of the last event in elder.
	split          int64
	elder, younger idGeneration
}

// idGeneration is a part of an idFilter.
type idGeneration struct {
	count int
	// hashes are those of the ids while there are at most exactIDs, and bits is the
	// filter after that.
	hashes []uint64
	bits   []byte
}

// add puts in the id of an event at a version. Versions grow.
func (f *idFilter) add(hash uint64, version int64) {
	if f.younger.count == idsOfGeneration {
		f.since, f.split = f.split, version-1
		f.elder, f.younger = f.younger, idGeneration{}
	}
	f.younger.add(hash)
}

// mayHave says whether an id may be that of an event above the version since.
func (f *idFilter) mayHave(hash uint64) bool { return f.younger.has(hash) || f.elder.has(hash) }

func (g *idGeneration) add(hash uint64) {
	g.count++
	if g.count <= exactIDs {
		g.hashes = append(g.hashes, hash)
		return
	}
	if g.bits == nil {
		g.bits = make([]byte, bitsOfGeneration/8)
		for _, earlier := range g.hashes {
			g.set(earlier)
		}
		g.hashes = nil
	}
	g.set(hash)
}

func (g *idGeneration) set(hash uint64) {
	for bit := range probes(hash) {
		g.bits[bit/8] |= 1 << (bit % 8)
	}
}

func (g *idGeneration) has(hash uint64) bool {
	if g.bits == nil {
		return slices.Contains(g.hashes, hash)
	}
	for bit := range probes(hash) {
		if g.bits[bit/8]&(1<<(bit%8)) == 0 {
			return false
		}
	}
	return true
}

// probes are the bits of an id.
func probes(hash uint64) iter.Seq[uint32] {
	return func(yield func(uint32) bool) {
		bit, step := uint32(hash), uint32(hash>>32)|1
		for range idProbes {
			if !yield(bit % bitsOfGeneration) {
				return
			}
			bit += step
		}
	}
}

// encode is the filter as text. It is base64 of idsFormat; since and split as varints;
// and for the elder generation and the younger their number of ids, as a varint, with
// their hashes or, where there are more than exactIDs, the bits.
func (f *idFilter) encode() string {
	raw := binary.AppendUvarint([]byte{idsFormat}, uint64(f.since))
	raw = binary.AppendUvarint(raw, uint64(f.split))
	for _, g := range []*idGeneration{&f.elder, &f.younger} {
		raw = binary.AppendUvarint(raw, uint64(g.count))
		for _, hash := range g.hashes {
			raw = binary.BigEndian.AppendUint64(raw, hash)
		}
		raw = append(raw, g.bits...)
	}
	return base64.RawStdEncoding.EncodeToString(raw)
}

var errIDs = errors.New("it holds no ids that this version can read")

// decodeIDs reads what encode has written.
func decodeIDs(text string) (*idFilter, error) {
	raw, err := base64.RawStdEncoding.DecodeString(text)
	if err != nil || len(raw) == 0 || raw[0] != idsFormat {
		return nil, errIDs
	}
	raw = raw[1:]
	next := func(most uint64) (uint64, bool) {
		n, size := binary.Uvarint(raw)
		if size <= 0 || n > most {
			return 0, false
		}
		raw = raw[size:]
		return n, true
	}
	f := &idFilter{}
	since, first := next(MaxVersion)
	split, second := next(MaxVersion)
	if !first || !second {
		return nil, errIDs
	}
	f.since, f.split = int64(since), int64(split)
	for _, g := range []*idGeneration{&f.elder, &f.younger} {
		count, whole := next(idsOfGeneration)
		g.count = int(count)
		size := min(8*g.count, bitsOfGeneration/8)
		if !whole || len(raw) < size {
			return nil, errIDs
		}
		if g.count > exactIDs {
			g.bits = raw[:size:size]
		} else {
			for at := 0; at < size; at += 8 {
				g.hashes = append(g.hashes, binary.BigEndian.Uint64(raw[at:]))
			}
		}
		raw = raw[size:]
	}
	if len(raw) > 0 {
		return nil, errIDs
	}
	return f, nil
}
