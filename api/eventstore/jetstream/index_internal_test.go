package jetstream

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

// history of n messages, each with the index that its writer gives it.
func indexesOf(sequences []uint64) map[uint64]index {
	indexes := map[uint64]index{}
	x := index{}
	for _, sequence := range sequences {
		indexes[sequence] = x
		x = x.push(sequence)
	}
	return indexes
}

// reach is what an index leads to, oldest first.
func reach(x index, levels int, indexes map[uint64]index) []uint64 {
	var all []uint64
	for level, sequences := range slices.Backward(x.levels[:levels]) {
		for _, sequence := range sequences {
			all = append(all, reach(indexes[sequence], level, indexes)...)
			all = append(all, sequence)
		}
	}
	return all
}

// Every message leads to all before it, each once and in order, and is as many
// as the weights say.
func TestIndexLeadsToAll(t *testing.T) {
	t.Parallel()
	var sequences []uint64
	for sequence := uint64(1); len(sequences) < 6000; sequence += 1 + rand.Uint64N(1000) {
		sequences = append(sequences, sequence)
	}
	indexes := indexesOf(sequences)
	for _, n := range []int{0, 1, 15, 16, 17, 18, 33, 288, 289, 290, 4912, 4913, 4914, 5999} {
		own := sequences[n]
		x, err := decodeIndex(indexes[own].encode(0), own)
		if err != nil {
			t.Fatalf("%d messages: %v", n, err)
		}
		if got := reach(x, len(x.levels), indexes); !slices.Equal(got, sequences[:n]) {
			t.Errorf("%d messages: the index leads to %d", n, len(got))
		}
		var total uint64
		for _, i := range itemsOf(x.levels) {
			total += weight(i.level)
		}
		if total != uint64(n) {
			t.Errorf("%d messages: the weights are %d", n, total)
		}
	}
}

// The header of a message of a batch, whose sequences are not known yet, says
// the same as that of one saved alone.
func TestIndexOfBatch(t *testing.T) {
	t.Parallel()
	for _, stored := range []int{0, 1, 16, 40, 300} {
		var sequences []uint64
		for i := range stored {
			sequences = append(sequences, uint64(10*i+1))
		}
		first := uint64(10*stored + 7)
		alone, batch := index{}, index{}
		for _, sequence := range sequences {
			alone, batch = alone.push(sequence), batch.push(sequence)
		}
		for n := range uint64(60) {
			own := first + 3*n
			got, err := decodeIndex(batch.encode(batchBase+3*n), own)
			if err != nil || fmt.Sprint(got) != fmt.Sprint(alone) {
				t.Fatalf("%d stored, %d in the batch: %v (%v), want %v", stored, n, got, err, alone)
			}
			alone, batch = alone.push(own), batch.push(batchBase+3*n)
		}
	}
}

// Whatever is stored, decoding it ends, and what it answers is well formed.
func FuzzDecodeIndex(f *testing.F) {
	x := index{partial: true}
	for sequence := range uint64(400) {
		x = x.push(sequence*sequence + 1)
	}
	f.Add(x.encode(0), uint64(1)<<40)
	f.Add(index{}.encode(0), uint64(1))
	f.Add("EAQBAQAKAQ", uint64(20))
	f.Fuzz(func(t *testing.T, value string, own uint64) {
		x, err := decodeIndex(value, own)
		if err != nil {
			return
		}
		before := own
		for sequence := range x.descending {
			if sequence == 0 || sequence >= before {
				t.Fatalf("sequence %d after %d in %v", sequence, before, x)
			}
			before = sequence
		}
		if again, err := decodeIndex(x.encode(0), own); err != nil || fmt.Sprint(again) != fmt.Sprint(x) {
			t.Fatalf("%v is %v when encoded again (%v)", x, again, err)
		}
	})
}

// BenchmarkIndexShape tells what a fan-out costs: bytes a message against round
// trips for all events of an actor that has one in a thousand messages.
func BenchmarkIndexShape(b *testing.B) {
	for _, n := range []int{10, 100, 1000, 10000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			var bytes, depth int
			for b.Loop() {
				bytes, depth = 0, 0
				x := index{}
				for i := range uint64(n) {
					bytes += len(x.encode(0))
					depth = max(depth, len(x.levels))
					x = x.push(1 + i*1000)
				}
			}
			b.ReportMetric(float64(bytes)/float64(n), "bytes/message")
			b.ReportMetric(float64(depth), "levels")
		})
	}
}
